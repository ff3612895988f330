//! Texts on the command line, where `-` stands for standard input.

use std::io::{ErrorKind, Read};
use std::path::Path;

use llamac_compiler::diagnostic::{Code, Diagnostic, reason};

use crate::model::no_file;

/// The text of an argument: itself, or for `-` all of standard input but the line break at its end.
///
/// # Errors
/// When standard input cannot be read, or is not UTF-8.
pub fn text(argument: &str) -> Result<String, Diagnostic> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = stdin()?;
    let end = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).len());
    text.truncate(end.unwrap_or(text.len()));
    Ok(text)
}

/// The text in the file at `path`, or for `-` all of standard input.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn file(path: &Path) -> Result<String, Diagnostic> {
    if path == Path::new("-") {
        return stdin();
    }
    std::fs::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => no_file(path),
        ErrorKind::InvalidData => {
            let fault = Diagnostic::new(Code::BadArgument).at(path.display().to_string());
            fault.expected("a text in UTF-8").found("bytes that are none")
        }
        _ => Diagnostic::new(Code::Io).at(path.display().to_string()).message(reason(&e)),
    })
}

/// All of standard input.
fn stdin() -> Result<String, Diagnostic> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).map_err(|e| {
        let fault =
            Diagnostic::new(if e.kind() == ErrorKind::InvalidData { Code::BadArgument } else { Code::Io });
        fault.at("standard input").message(reason(&e))
    })?;
    Ok(text)
}
