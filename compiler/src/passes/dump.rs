//! The graph after each pass in a folder: numbered texts, and what changed from one to the next.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use llamac_ir::Graph;
use llamac_plan::diagnostic::{Code, Diagnostic};

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
    /// Makes the folder where it is not there yet, and empties it of an older dump.
    ///
    /// # Errors
    /// When it is no folder, holds anything but a dump, or cannot be made.
    pub(super) fn create(folder: &Path) -> Result<Self, Diagnostic> {
        let taken = |what: String| {
            let fault = Diagnostic::new(Code::BadArgument).at(format!("--dump-ir {}", folder.display()));
            fault.message(what).help("give the dump a folder of its own")
        };
        if folder.exists() && !folder.is_dir() {
            return Err(taken("this is no folder, and a dump is one".to_owned()));
        }
        let failed = |error| write_fault(folder, &error);
        fs::create_dir_all(folder).map_err(failed)?;
        let entries: Vec<_> = fs::read_dir(folder).and_then(Iterator::collect).map_err(failed)?;
        if let Some(other) = entries.iter().find(|entry| !is_part(&entry.file_name())) {
            let name = other.file_name();
            return Err(taken(format!("the folder holds {}, which is not of a dump", name.display())));
        }
        for entry in entries {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
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

/// Whether a file of this name is a part of a dump: `NN-name.ir` or `NN-name.diff`.
fn is_part(name: &OsStr) -> bool {
    let name = name.to_str().unwrap_or_default();
    let number = name.split_once('-').map(|(number, _)| number);
    number.is_some_and(|number| number.len() >= 2 && number.bytes().all(|byte| byte.is_ascii_digit()))
        && (name.ends_with(".ir") || name.ends_with(".diff"))
}
