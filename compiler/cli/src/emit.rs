//! `--emit`: pictures and texts of the graph, to standard output or to files.

use std::io::Write;
use std::path::PathBuf;

use llamac_compiler::diagnostic::Diagnostic;
use llamac_compiler::ir::Graph;
use llamac_compiler::output::{self, Output};
use llamac_compiler::report;

/// A form of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The text of the intermediate representation.
    Ir,
    /// Graphviz.
    Dot,
    /// A picture.
    Svg,
}

impl Form {
    /// `graph` in this form.
    pub fn of(self, graph: &Graph) -> String {
        match self {
            Self::Ir => graph.to_string(),
            Self::Dot => report::dot(graph),
            Self::Svg => report::svg(graph),
        }
    }
}

/// A form of the graph, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emit {
    /// The form.
    pub form: Form,
    /// The file; standard output if not given.
    pub path: Option<PathBuf>,
}

/// Reads `KIND` or `KIND=PATH`, for clap.
///
/// # Errors
/// A sentence that lists the forms.
pub fn parse(text: &str) -> Result<Emit, String> {
    let (form, path) = match text.split_once('=') {
        Some((_, "")) => return Err("name a file after `=`".to_owned()),
        Some((form, path)) => (form, Some(PathBuf::from(path))),
        None => (text, None),
    };
    let form = match form {
        "ir" => Form::Ir,
        "dot" => Form::Dot,
        "svg" => Form::Svg,
        _ => return Err("expected ir, dot or svg, each with =PATH or without".to_owned()),
    };
    Ok(Emit { form, path })
}

/// Writes `text` to `file`, and makes that visible.
///
/// # Errors
/// When the file cannot be written.
pub fn write(file: Output, text: &str) -> Result<(), Diagnostic> {
    file.file().write_all(text.as_bytes()).map_err(|e| output::write_fault(file.path(), &e))?;
    file.publish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_have_paths_or_none() {
        assert_eq!(parse("ir"), Ok(Emit { form: Form::Ir, path: None }));
        assert_eq!(parse("svg=a=b"), Ok(Emit { form: Form::Svg, path: Some("a=b".into()) }));
        for bad in ["", "png", "dot=", "IR"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
