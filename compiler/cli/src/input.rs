//! Texts on the command line, where `-` stands for standard input.

use std::io::Read;

use llamac_compiler::diagnostic::{Code, Diagnostic, reason};

/// The text of an argument: itself, or for `-` all of standard input but the line break at its end.
///
/// # Errors
/// When standard input cannot be read, or is not UTF-8.
pub fn text(argument: &str) -> Result<String, Diagnostic> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).map_err(|e| {
        let fault = Diagnostic::new(if e.kind() == std::io::ErrorKind::InvalidData {
            Code::BadArgument
        } else {
            Code::Io
        });
        fault.at("standard input").message(reason(&e))
    })?;
    let end = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).len());
    text.truncate(end.unwrap_or(text.len()));
    Ok(text)
}
