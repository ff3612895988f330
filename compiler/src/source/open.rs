//! Opens a checkpoint of any layout.
//!
//! Opening reads headers and small files only.

use std::path::Path;

use llamac_plan::diagnostic::Diagnostics;

use super::checkpoint::Checkpoint;
use super::{Head, gguf, hugging_face, meta};

impl Checkpoint {
    /// Opens the directory `path`, or the GGUF file, for `head` or for the one that it holds.
    ///
    /// # Errors
    /// All faults of its files together: see the modules of `source`. What is no checkpoint at all is one fault, with
    /// a hint at what it is.
    pub fn open(path: impl AsRef<Path>, head: Option<Head>) -> Result<Self, Diagnostics> {
        let mut warnings = Vec::new();
        let opened = Self::open_telling(path.as_ref(), head, &mut warnings)?;
        Ok(Self { warnings, ..opened })
    }

    /// As [`Checkpoint::open`], but what is odd goes to `warnings`, also where opening fails: it may be the cause.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_telling(
        path: &Path,
        head: Option<Head>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Diagnostics> {
        if gguf::is_gguf(path) {
            return gguf::open(path, head, warnings);
        }
        if meta::is_meta(path) {
            return meta::open(path, head, warnings);
        }
        hugging_face::open(path, head, warnings)
    }
}
