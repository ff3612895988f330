//! What becomes of the `genai_config.json` in a checkpoint's folder, where it may be somebody else's.
//!
//! A model that is written there tells the checksum of the file that was written with it. A file of another content is
//! not llamac's, or no more, and stays.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::genai;
use crate::onnx;
use crate::source;

/// The model's member that has the checksum.
const WRITTEN: &str = "llamac.genai_config";

/// What is done with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Written, perhaps in place of what llamac wrote earlier.
    Write,
    /// Removed: llamac wrote it for the model that is replaced, and it does not go with the new one.
    Remove,
    /// There is none, and none is wanted.
    Nothing,
    /// It is not known to be llamac's, and stays.
    Keep,
}

/// What a model tells of the `config` that is written with it.
pub(super) fn written(config: &[u8]) -> (&'static str, String) {
    (WRITTEN, format!("{:016x}", xxh3_64(config)))
}

/// What is done with the file at `path` when the model at `model` is replaced by one that goes with `config`.
pub(super) fn deed(path: &Path, model: &Path, config: Option<&[u8]>) -> Deed {
    let there = path.symlink_metadata().is_ok();
    let content = source::read_file(path, genai::MAX_BYTES).ok().flatten();
    let is_ours = |content: &[u8]| {
        let (key, sum) = written(content);
        config == Some(content)
            || onnx::Model::open(model).is_ok_and(|model| model.metadata(key) == Some(sum.as_str()))
    };
    match config {
        Some(_) if !there => Deed::Write,
        None if !there => Deed::Nothing,
        _ if !content.is_some_and(|content| is_ours(&content)) => Deed::Keep,
        Some(_) => Deed::Write,
        None => Deed::Remove,
    }
}
