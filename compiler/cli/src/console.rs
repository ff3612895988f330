//! Standard output for results, standard error for everything else.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use anstyle::{AnsiColor, Style};
use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics, printable, reason};
use tracing::level_filters::LevelFilter;

use crate::failure::Failure;
use crate::message::{Format, Line, Severity};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const ARROW: Style = AnsiColor::Blue.on_default().bold();
const HELP: Style = AnsiColor::Cyan.on_default().bold();
const TITLE: Style = Style::new().bold();

/// Standard error, as loud as the user wants it, for people or for programs.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    format: Format,
    quiet: bool,
    verbose: bool,
}

impl Console {
    /// Sets up messages: `quiet` leaves errors only, `verbose` explains: steps at 1, details at 2.
    pub fn new(format: Format, quiet: bool, verbose: u8) -> Self {
        let level = match verbose {
            0 => LevelFilter::OFF,
            1 => LevelFilter::INFO,
            _ => LevelFilter::DEBUG,
        };
        if verbose > 0 {
            let log = tracing_subscriber::fmt().with_max_level(level).without_time();
            let log = log.with_target(false).with_ansi(false);
            // A second call in one process keeps the first log.
            let _ = match format {
                Format::Human => log.with_writer(io::stderr).try_init(),
                Format::Json => log.with_level(false).with_writer(|| Notes).try_init(),
            };
        }
        Self { format, quiet, verbose: verbose > 0 }
    }

    /// Whether a progress bar may be drawn.
    pub fn draws(&self) -> bool {
        !self.quiet && self.format == Format::Human && io::stderr().is_terminal()
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
        self.say(Severity::Note, &text.to_string());
    }

    /// Warns, unless the user wants silence.
    pub fn warn(&self, text: impl fmt::Display) {
        self.say(Severity::Warning, &text.to_string());
    }

    /// Tells what a pass did, unless the user wants silence.
    pub fn remark(&self, text: impl fmt::Display) {
        self.say(Severity::Remark, &text.to_string());
    }

    fn say(&self, severity: Severity, text: &str) {
        if self.quiet {
            return;
        }
        let shown = printable(text);
        self.print(match (self.format, severity) {
            (Format::Json, _) => Line::text(severity, text).json(),
            (_, Severity::Warning) => format!("{WARNING}warning{WARNING:#}: {shown}"),
            (_, Severity::Remark) => format!("remark: {shown}"),
            (_, Severity::Note | Severity::Error) => shown.into_owned(),
        });
    }

    /// Tells how many bytes of `task` are done, unless the user wants silence; `text` says it to people.
    pub fn progress(&self, task: &str, done: u64, total: u64, text: impl fmt::Display) {
        if self.quiet {
            return;
        }
        self.print(match self.format {
            Format::Human => text.to_string(),
            Format::Json => Line::Progress { task, done, total }.json(),
        });
    }

    /// Prints faults, and for people where to read more about them.
    pub fn faults(&self, faults: &Diagnostics) {
        if self.format == Format::Json {
            faults.iter().for_each(|fault| self.print(Line::fault(fault).json()));
            return;
        }
        self.print(paint(&faults.to_string()));
        if !self.quiet {
            self.print(format!("\nTo learn more: {TITLE}{}{TITLE:#}", explain(faults)));
        }
    }

    /// Prints the message of a mistake in the command line that clap found.
    pub fn mistake(&self, error: &clap::Error) {
        if self.format == Format::Human {
            // As for `print`.
            let _ = error.print();
            return;
        }
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        self.faults(&Diagnostic::new(Code::BadArgument).message(text).into());
    }

    fn print(&self, line: String) {
        // A closed standard error leaves nobody to tell.
        let _ = writeln!(anstream::stderr(), "{line}");
    }
}

/// The command that explains the codes of `faults`, each once.
fn explain(faults: &Diagnostics) -> String {
    let mut codes: Vec<String> = Vec::new();
    for fault in faults.iter() {
        let code = fault.code.to_string();
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    format!("llamac explain {}", codes.join(" "))
}

/// What the log of `-v` writes to for programs: each event comes in one piece and becomes a note.
struct Notes;

impl Write for Notes {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        writeln!(io::stderr(), "{}", Line::text(Severity::Note, text.trim()).json())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

/// A failure to write to standard output.
pub fn failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::ReaderGone;
    }
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::NoSpace } else { Code::Io };
    Diagnostic::new(code).at("standard output").message(reason(error)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_explained_once() {
        let mut faults = Diagnostics::new();
        for code in [Code::WrongShape, Code::MissingTensor, Code::WrongShape] {
            faults.push(Diagnostic::new(code));
        }
        assert_eq!(explain(&faults), "llamac explain E0203 E0202");
    }

    #[test]
    fn colours_add_nothing_but_colours() {
        let fault =
            Diagnostic::new(Code::WrongShape).at("a: b").message("one ]: two").expected("x").help("y");
        let painted = paint(&fault.to_string());
        assert!(painted.contains("\u{1b}["));
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), fault.to_string());
    }
}
