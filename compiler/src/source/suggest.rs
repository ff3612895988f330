//! "Did you mean" as the help of a fault.

use std::path::{Path, PathBuf};

use llamac_ir::suggest::nearest;
use llamac_plan::diagnostic::Diagnostic;

use super::file;

/// `fault` with the candidate as its help that `name` is most likely a misspelling of.
pub fn did_you_mean<'a>(
    fault: Diagnostic,
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    match nearest(name, candidates) {
        Some(near) => fault.help(format!("did you mean {near}?")),
        None => fault,
    }
}

/// What there is beside `path`, which is not there, under a similar name.
pub fn nearest_path(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let name = path.file_name()?.to_str()?;
    let siblings = file::names(if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    // A link that leads nowhere is there by name.
    let near = nearest(name, siblings.iter().map(String::as_str).filter(|sibling| *sibling != name))?;
    Some(parent.join(near))
}
