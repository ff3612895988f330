//! From a checkpoint of any layout to a directory in Hugging Face's, in safetensors.

use llamac_plan::diagnostic::Diagnostics;

use super::{Progress, pool};
use crate::hugging_face;
use crate::output::Folder;
use crate::source::Checkpoint;

/// How a checkpoint is converted.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions {
    /// The most bytes of weights in a file; a weight that is larger is in one of its own.
    pub max_shard_size: u64,
    /// Threads that read and write weights.
    pub threads: usize,
}

/// What a conversion wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Weights.
    pub tensors: usize,
    /// Files that hold them.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// What the tokenizer does otherwise as it is written: sentences.
    pub warnings: Vec<String>,
}

/// Writes `checkpoint`, its adapters merged, to `folder`, which is left to the caller to publish.
///
/// # Errors
/// When the output cannot be written, or a weight not read; as [`Checkpoint::merged`].
pub fn convert(
    checkpoint: Checkpoint,
    options: ConvertOptions,
    folder: &mut Folder,
    progress: &dyn Progress,
) -> Result<Converted, Diagnostics> {
    let checkpoint = checkpoint.merged()?;
    pool(options.threads)?
        .install(|| hugging_face::write(&checkpoint, options.max_shard_size, folder, progress))
}
