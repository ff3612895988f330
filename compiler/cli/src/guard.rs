//! Outputs replace older outputs of their own kind, and nothing else: neither what they were made from, nor each other,
//! nor somebody's file.
//!
//! The kind is told by how a file begins, so that no list of names has to know what a checkpoint consists of, and links
//! lead nowhere else.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use llamac_compiler::diagnostic::{Code, Diagnostic};
use llamac_compiler::output::Output;
use llamac_runtime::plan::artifact;

use crate::tensors;

/// What a file is that a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A compiled model, of any version, whole or damaged.
    Model,
    /// Outputs of a forward.
    Tensors,
    /// A graph, in any form.
    Graph,
    /// The steps of a profile.
    Trace,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Model => "a compiled model",
            Self::Tensors => "a file of outputs",
            Self::Graph => "a graph",
            Self::Trace => "a trace",
        }
    }

    /// Whether the file at `path` may be replaced: it is of this kind, or empty.
    fn replaces(self, path: &Path) -> bool {
        let mut start = Vec::new();
        let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut start));
        // Of safetensors files, the length of the header comes first.
        let header = start.get(8..).unwrap_or_default();
        let own = match self {
            Self::Model => header.starts_with(artifact::BEGINNING.as_bytes()),
            Self::Tensors => header.starts_with(tensors::BEGINNING.as_bytes()),
            Self::Trace => start.starts_with(b"[{\"name\":"),
            Self::Graph => {
                ["graph<", "digraph", "<svg"].iter().any(|form| start.starts_with(form.as_bytes()))
            }
        };
        read.is_ok() && (own || start.is_empty())
    }
}

/// The outputs of one command.
#[derive(Debug, Default)]
pub struct Outputs(Vec<PathBuf>);

impl Outputs {
    /// Starts the file that will be at `path`.
    ///
    /// # Errors
    /// When another output has this path, a file of another kind is there, or the file cannot be written.
    pub fn file(&mut self, path: &Path, kind: Kind) -> Result<Output, Diagnostic> {
        self.claim(path)?;
        let output = Output::create(path)?;
        if path.exists() && !kind.replaces(path) {
            let fault = Diagnostic::new(Code::BadArgument).at(path.display().to_string());
            let fault = fault.message(format!("there is a file here already, which is not {}", kind.name()));
            return Err(fault.help("give the output another name, or remove the file first"));
        }
        Ok(output)
    }

    /// Takes `path` for one output, a file or a folder.
    ///
    /// # Errors
    /// When it is no name, or another output's.
    pub fn claim(&mut self, path: &Path) -> Result<(), Diagnostic> {
        let fault =
            |message| Diagnostic::new(Code::BadArgument).at(path.display().to_string()).message(message);
        if path == Path::new("-") {
            return Err(fault("an output is a file, never standard output").help("name a file"));
        }
        let place = place(path);
        if self.0.contains(&place) {
            return Err(fault("two outputs have this path").help("give each a name of its own"));
        }
        self.0.push(place);
        Ok(())
    }
}

/// Where `path` leads, whether or not something is there.
fn place(path: &Path) -> PathBuf {
    let folder = || path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = || Some(folder().canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(new).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_older_outputs_of_the_same_kind_are_replaced() {
        let folder = tempfile::tempdir().expect("there is room");
        let path = |name: &str| folder.path().join(name);
        let model = format!("12345678{}", artifact::BEGINNING);
        let outputs = format!("12345678{}", tensors::BEGINNING);
        for (name, content) in [
            ("empty", ""),
            ("notes.txt", "precious"),
            ("model.safetensors", r#"12345678{"__metadata__":{"format":"pt"}"#),
            ("model.llamac", &model),
            ("out.safetensors", &outputs),
            ("graph.ir", "graph<s> {"),
            ("graph.dot", "digraph {"),
            ("graph.svg", "<svg xmlns"),
        ] {
            std::fs::write(path(name), content).expect("there is room");
        }
        std::os::unix::fs::symlink("model.safetensors", path("link")).expect("there is room");
        let free = |kind| {
            let mut free: Vec<_> = std::fs::read_dir(folder.path())
                .expect("a folder")
                .collect::<Result<_, _>>()
                .expect("entries");
            free.retain(|entry| Outputs::default().file(&entry.path(), kind).is_ok());
            let mut free: Vec<_> =
                free.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
            free.sort();
            free
        };
        assert_eq!(free(Kind::Model), ["empty", "model.llamac"]);
        assert_eq!(free(Kind::Tensors), ["empty", "out.safetensors"]);
        assert_eq!(free(Kind::Graph), ["empty", "graph.dot", "graph.ir", "graph.svg"]);
    }

    #[test]
    fn a_path_has_one_output() {
        let folder = tempfile::tempdir().expect("there is room");
        let mut outputs = Outputs::default();
        outputs.claim(&folder.path().join("a")).expect("the first");
        outputs.claim(&folder.path().join("b")).expect("another");
        outputs.claim(&folder.path().join("./a")).expect_err("the same");
        outputs.claim(Path::new("-")).expect_err("no name");
    }
}
