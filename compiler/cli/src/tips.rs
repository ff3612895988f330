//! Tips for mistakes in the command line of which only llamac knows what was probably meant.

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use llamac_compiler::diagnostic::shell_word;

use crate::cli::Cli;

/// Commands that run a model whose weights somebody else stores.
const RUNNING: [&str; 5] = ["run", "classify", "embed", "perplexity", "bench"];

/// `error` with a tip, if there is one.
pub fn add(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => text(ContextKind::InvalidArg).and_then(|argument| {
            let command = command(arguments)?;
            match argument.split('=').next()? {
                "--weights" if RUNNING.contains(&command) => Some(format!(
                    "'llamac {command}' takes weights as they are; 'llamac compile CHECKPOINT --weights FORMAT -o FILE' \
                     stores others, for 'llamac {command} FILE'"
                )),
                argument if !argument.starts_with('-') && command == "run" => {
                    Some("the prompt is given with '-p'".to_owned())
                }
                _ => None,
            }
        }),
        ErrorKind::MissingRequiredArgument if command(arguments) == Some("compile") => {
            let tip = "to look inside without an output: --emit, --print-after, --stop-after, --dump-ir or --remarks";
            error.to_string().contains("--output").then(|| tip.to_owned())
        }
        ErrorKind::InvalidSubcommand => text(ContextKind::InvalidSubcommand)
            .filter(|name| Path::new(name).exists())
            .map(|path| format!("'llamac run {} -p TEXT' runs a model", shell_word(Path::new(path)))),
        _ => None,
    };
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The name of the command in `arguments`, options before it aside.
pub fn command(arguments: &[OsString]) -> Option<&str> {
    let cli = Cli::command();
    let known = |name: &&str| cli.get_subcommands().any(|command| command.get_name() == *name);
    arguments.iter().skip(1).filter_map(|argument| argument.to_str()).find(known)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn tips_say_what_was_meant() {
        let message = |line: &str| {
            let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let error = Cli::try_parse_from(&arguments).expect_err(line);
            add(error, &arguments).to_string()
        };
        assert!(message("llamac run model hello -n 3").contains("tip: the prompt is given with '-p'"));
        for line in ["llamac run model --weights q4 -p a", "llamac bench model --weights=q4"] {
            let message = message(line);
            assert!(
                message.contains("'llamac compile CHECKPOINT --weights FORMAT -o FILE' stores others"),
                "{message}"
            );
        }
        assert!(message("llamac src -p hello").contains("tip: 'llamac run src -p TEXT' runs a model"));
        assert!(message("llamac compile model").contains("tip: to look inside without an output: --emit"));
        for line in ["llamac run model -p a --wrong", "llamac inspect model hello", "llamac nothing"] {
            let message = message(line);
            assert!(!message.contains("with '-p'") && !message.contains("runs a model"), "{message}");
        }
    }
}
