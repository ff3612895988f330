//! What the command will have and has not yet: refused with a sentence instead of "unexpected argument".
//!
//! The options are not declared to clap, so that its help shows what there is. Its error says what it did not know, and
//! the tables below say whether that is a mistake or a wish.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use llamac_compiler::diagnostic::{Code, Diagnostic};

use crate::tips;

/// Commands, with what they are for.
const COMMANDS: &[(&str, &str)] = &[("serve", "a server")];

/// Options: the commands that will have them, with what they are for and a way out.
const OPTIONS: &[(&str, &[&str], &str, &str)] =
    &[("--chat", &["run"], "chat templates", "write the template out in the prompt (`-p`)")];

/// Values of options, with what they are for and a way out. A value that is a list, or has parts, is here if a part is.
const VALUES: &[(&str, &[&str], &str, &str)] =
    &[("--emit", &["report"], "reports", "use --remarks, or `llamac inspect`")];

/// The fault behind `error`, if it is about something that is not available yet.
pub fn explain(error: &clap::Error, arguments: &[OsString]) -> Option<Diagnostic> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand)?;
            let (name, what) = COMMANDS.iter().find(|(command, _)| *command == name)?;
            Some(fault(&format!("llamac {name}"), what, ""))
        }
        ErrorKind::UnknownArgument => {
            let name = option(context(ContextKind::InvalidArg)?);
            let command = tips::command(arguments)?;
            let mut options = OPTIONS.iter();
            let (name, _, what, help) =
                options.find(|(known, commands, ..)| *known == name && commands.contains(&command))?;
            Some(fault(name, what, help))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let name = option(context(ContextKind::InvalidArg)?);
            let value = context(ContextKind::InvalidValue)?;
            let parts: Vec<&str> = value.split([',', '=']).collect();
            let (name, _, what, help) = VALUES.iter().find(|(known, values, ..)| {
                *known == name && parts.iter().any(|part| values.contains(part))
            })?;
            Some(fault(&format!("{name} {value}"), what, help))
        }
        _ => None,
    }
}

/// The name in `--name <VALUE>` or `--name=value`.
fn option(text: &str) -> &str {
    text.split([' ', '=']).next().unwrap_or_default()
}

fn fault(at: &str, what: &str, help: &str) -> Diagnostic {
    let fault = Diagnostic::new(Code::NotBuiltYet).at(at).message(format!("not in this version: {what}"));
    if help.is_empty() { fault } else { fault.help(help) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn explained(line: &str) -> Option<Diagnostic> {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let error = Cli::try_parse_from(&arguments).expect_err(line);
        explain(&error, &arguments)
    }

    #[test]
    fn wishes_are_told_from_mistakes() {
        for line in [
            "llamac serve",
            "llamac run model --chat",
            "llamac --message-format json run model --chat",
            "llamac compile dir -o out --emit ir,report",
        ] {
            let fault = explained(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(fault.code, Code::NotBuiltYet, "{line}");
            assert!(
                fault.message.as_ref().is_some_and(|message| message.starts_with("not in this version: "))
            );
        }
        for line in [
            "llamac sevre",
            "llamac tokenize model x --lora x",
            "llamac tokenize model x --layers 0..2",
            "llamac inspect a b",
            "llamac compile dir -o out --lara x",
            "llamac compile dir -o out --weights q5",
            "llamac run model -p x --kv f64",
            "llamac",
            "llamac --version",
        ] {
            assert_eq!(explained(line), None, "{line}");
        }
    }
}
