//! The graph after each pass in a folder: numbered texts, and what changed from one to the next.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use llamac_ir::Graph;
use llamac_plan::diagnostic::Diagnostic;

use crate::output::{Output, write_fault};
use crate::report;

/// A folder that is being filled.
#[derive(Debug)]
pub(super) struct Dump {
    folder: PathBuf,
    count: usize,
    last: Option<Graph>,
}

impl Dump {
    /// Makes the folder where it is not there yet.
    pub(super) fn create(folder: &Path) -> Result<Self, Diagnostic> {
        fs::create_dir_all(folder).map_err(|error| write_fault(folder, &error))?;
        Ok(Self { folder: folder.to_owned(), count: 0, last: None })
    }

    /// Writes `NN-name.ir`, and after the first one `NN-name.diff`.
    pub(super) fn add(&mut self, name: &str, graph: &Graph) -> Result<(), Diagnostic> {
        let number = self.count;
        let write = |kind: &str, text: String| {
            let path = self.folder.join(format!("{number:02}-{name}.{kind}"));
            let output = Output::create(&path)?;
            output.file().write_all(text.as_bytes()).map_err(|error| write_fault(&path, &error))?;
            output.publish()
        };
        write("ir", graph.text_with_locs())?;
        if let Some(last) = &self.last {
            write("diff", report::diff(last, graph))?;
        }
        self.count += 1;
        self.last = Some(graph.clone());
        Ok(())
    }
}
