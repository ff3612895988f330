//! Standard output for results, standard error for everything else.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use anstyle::{AnsiColor, Style};
use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use tracing::level_filters::LevelFilter;

use crate::failure::Failure;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const ARROW: Style = AnsiColor::Blue.on_default().bold();
const HELP: Style = AnsiColor::Cyan.on_default().bold();
const TITLE: Style = Style::new().bold();

/// Standard error, as loud as the user wants it.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    quiet: bool,
    verbose: bool,
}

impl Console {
    /// Sets up messages: `quiet` leaves errors only, `verbose` explains: steps at 1, details at 2.
    pub fn new(quiet: bool, verbose: u8) -> Self {
        let level = match verbose {
            0 => LevelFilter::OFF,
            1 => LevelFilter::INFO,
            _ => LevelFilter::DEBUG,
        };
        if verbose > 0 {
            let log = tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(level).without_time();
            // A second call in one process keeps the first log.
            let _ = log.with_target(false).with_ansi(false).try_init();
        }
        Self { quiet, verbose: verbose > 0 }
    }

    /// Whether a progress bar may be drawn.
    pub fn draws(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Whether anything but errors may be said.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether the user wants to be told more.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Says a line, unless the user wants silence.
    pub fn note(&self, text: impl fmt::Display) {
        if !self.quiet {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(anstream::stderr(), "{text}");
        }
    }

    /// Warns, unless the user wants silence.
    pub fn warn(&self, text: impl fmt::Display) {
        self.note(format_args!("{WARNING}warning{WARNING:#}: {text}"));
    }

    /// Prints faults.
    pub fn faults(&self, faults: &Diagnostics) {
        let _ = writeln!(anstream::stderr(), "{}", paint(&faults.to_string()));
    }
}

/// Adds colours to the lines of faults; the stream drops them where they are not wanted.
fn paint(text: &str) -> String {
    let line = |line: &str| {
        if line.starts_with("error[")
            && let Some((code, title)) = line.split_once("]: ")
        {
            return format!("{ERROR}{code}]{ERROR:#}: {TITLE}{title}{TITLE:#}");
        }
        if let Some(place) = line.strip_prefix("  --> ") {
            return format!("  {ARROW}-->{ARROW:#} {place}");
        }
        match line.strip_prefix("   help: ") {
            Some(help) => format!("   {HELP}help{HELP:#}: {help}"),
            None => line.to_owned(),
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Standard output. A reader that goes away ends the command quietly; any other fault of writing is reported.
#[derive(Debug)]
pub struct Stdout(BufWriter<StdoutLock<'static>>);

impl Stdout {
    /// Standard output, until this is dropped; [`Stdout::flush`] comes before that.
    pub fn lock() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// What `write!` and `writeln!` call.
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> Result<(), Failure> {
        self.0.write_fmt(text).map_err(|e| failure(&e))
    }

    /// Hands what was written to the reader.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(|e| failure(&e))
    }
}

fn failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::ReaderGone;
    }
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::NoSpace } else { Code::Io };
    Diagnostic::new(code).at("standard output").message(error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_add_nothing_but_colours() {
        let fault =
            Diagnostic::new(Code::WrongShape).at("a: b").message("one ]: two").expected("x").help("y");
        let painted = paint(&fault.to_string());
        assert!(painted.contains("\u{1b}["));
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), fault.to_string());
    }
}
