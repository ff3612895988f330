//! `llamac explain`: what the codes of messages mean, at length.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};

use crate::console::Stdout;
use crate::failure::Failure;
use crate::human;

const STRONG: Style = Style::new().bold();
const VERBATIM: Style = AnsiColor::Cyan.on_default();

/// Explain a code of an error message: cause and cure
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Codes, as E0203 or 203; without any all are listed
    #[arg(value_name = "CODE")]
    codes: Vec<String>,
}

impl Args {
    /// Prints the explanations, or the list.
    pub fn run(&self) -> Result<(), Failure> {
        let mut faults = Diagnostics::new();
        let codes: Vec<Code> = self.codes.iter().filter_map(|text| faults.absorb(read(text))).collect();
        let codes = faults.or(codes)?;
        let text = if codes.is_empty() {
            human::table(
                &Code::ALL.iter().map(|code| [code.to_string(), code.title().into()]).collect::<Vec<_>>(),
            )
        } else {
            codes.iter().map(|code| page(*code)).collect::<Vec<_>>().join("\n")
        };
        let colours = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        let mut out = Stdout::lock();
        match colours {
            true => write!(out, "{text}")?,
            false => write!(out, "{}", anstream::adapter::strip_str(&text))?,
        }
        out.flush()
    }
}

fn read(text: &str) -> Result<Code, Diagnostics> {
    text.parse().map_err(|unknown: llamac_compiler::diagnostic::UnknownCode| {
        let fault =
            Diagnostic::new(Code::BadArgument).at(format!("explain {text}")).message(unknown.to_string());
        let fault = match unknown.nearest {
            Some(near) => fault.help(format!("did you mean {near} ({})?", near.title())),
            None => fault.help("`llamac explain` lists the codes"),
        };
        fault.into()
    })
}

/// A code's explanation for a terminal.
fn page(code: Code) -> String {
    let status = code.class().exit_status();
    let title = format!("{STRONG}{code}: {}{STRONG:#} (exit status {status})", code.title());
    format!("{title}\n\n{}\n", render(code.explanation()))
}

/// The Markdown of explanations, which has `**strong**` and `` `verbatim` `` words only, for a terminal. Backquotes stay:
/// commands are told from words without colours, too.
fn render(markdown: &str) -> String {
    let strong = |(i, part): (usize, &str)| match i % 2 {
        0 => part.to_owned(),
        _ => format!("{STRONG}{part}{STRONG:#}"),
    };
    let verbatim = |(i, part): (usize, &str)| match i % 2 {
        0 => part.split("**").enumerate().map(strong).collect(),
        _ => format!("{VERBATIM}`{part}`{VERBATIM:#}"),
    };
    markdown.split('`').enumerate().map(verbatim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_styles() {
        let text = render("a **b**: `c **d**`\n`e`");
        assert_eq!(
            text,
            format!("a {STRONG}b{STRONG:#}: {VERBATIM}`c **d**`{VERBATIM:#}\n{VERBATIM}`e`{VERBATIM:#}")
        );
    }

    /// An odd mark would turn the rest of a page around.
    #[test]
    fn every_explanation_is_rendered() {
        for code in Code::ALL {
            let text = code.explanation();
            assert!(text.matches('`').count() % 2 == 0 && text.matches("**").count() % 2 == 0, "{code}");
            assert!(!render(text).contains("**"), "{code}");
        }
    }
}
