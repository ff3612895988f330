//! Messages for programs: `--message-format json` writes each as one JSON object on a line of standard error.

use std::ffi::OsString;

use clap::ValueEnum;
use llamac_compiler::diagnostic::Details;
use serde::Serialize;

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Human,
    /// One JSON object a line
    Json,
}

impl Format {
    /// The format that `arguments` ask for, also where a mistake in them keeps clap from telling.
    pub fn wanted(arguments: &[OsString]) -> Self {
        let before = arguments.split(|argument| argument == "--").next().unwrap_or_default();
        let separate = before.windows(2).any(|pair| pair[0] == "--message-format" && pair[1] == "json");
        let json = separate || before.iter().any(|argument| argument == "--message-format=json");
        if json { Self::Json } else { Self::Human }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The command failed.
    Error,
    /// Something is odd, and was done all the same.
    Warning,
    /// What a pass did or did not do.
    Remark,
    /// What was done.
    Note,
}

/// A line of JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Line<'a> {
    /// Something to be told. What it does not have is null.
    Diagnostic {
        severity: Severity,
        code: Option<String>,
        title: Option<&'a str>,
        at: Option<&'a str>,
        message: Option<&'a str>,
        expected: Option<&'a str>,
        found: Option<&'a str>,
        help: Option<&'a str>,
    },
    /// How far a long piece of work has come, in bytes.
    Progress { task: &'a str, done: u64, total: u64 },
}

impl<'a> Line<'a> {
    /// A text of this severity.
    pub fn text(severity: Severity, message: &'a str) -> Self {
        let (code, title, at, expected, found, help) = (None, None, None, None, None, None);
        Self::Diagnostic { severity, code, title, at, message: Some(message), expected, found, help }
    }

    /// A fault.
    pub fn fault(fault: &'a Details) -> Self {
        Self::Diagnostic {
            severity: Severity::Error,
            code: Some(fault.code.to_string()),
            title: Some(fault.code.title()),
            at: fault.at.as_deref(),
            message: fault.message.as_deref(),
            expected: fault.expected.as_deref(),
            found: fault.found.as_deref(),
            help: fault.help.as_deref(),
        }
    }

    /// The line, without a line break.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings are JSON")
    }
}

#[cfg(test)]
mod tests {
    use llamac_compiler::diagnostic::{Code, Diagnostic};

    use super::*;

    #[test]
    fn the_format_is_known_before_the_command_line_is() {
        let wanted = |line: &str| {
            let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            Format::wanted(&arguments)
        };
        for line in ["llamac --message-format json runn", "llamac run m --message-format=json --wrong"] {
            assert_eq!(wanted(line), Format::Json, "{line}");
        }
        for line in ["llamac run json", "llamac run m -- --message-format json", "llamac --message-format"] {
            assert_eq!(wanted(line), Format::Human, "{line}");
        }
    }

    #[test]
    fn every_line_names_its_type() {
        let fault = Diagnostic::new(Code::WrongShape).at("a: b").expected("[1]").found("[\"2\"]");
        insta::assert_snapshot!(Line::fault(&fault).json(), @r#"{"type":"diagnostic","severity":"error","code":"E0203","title":"tensor has the wrong shape","at":"a: b","message":null,"expected":"[1]","found":"[\"2\"]","help":null}"#);
        insta::assert_snapshot!(Line::text(Severity::Note, "done").json(), @r#"{"type":"diagnostic","severity":"note","code":null,"title":null,"at":null,"message":"done","expected":null,"found":null,"help":null}"#);
        insta::assert_snapshot!(Line::Progress { task: "packing", done: 1, total: 2 }.json(), @r#"{"type":"progress","task":"packing","done":1,"total":2}"#);
    }
}
