//! Checkpoints: from a Hugging Face directory, whatever is in it, to one description that the rest of the compiler
//! can rely on.
//!
//! [`Checkpoint::open`] reads `config.json` in all its spellings, `generation_config.json`, the tokenizer's files and
//! the headers of the safetensors files; it normalises the names of tensors, finds the head, and checks every tensor
//! against the configuration. Files are input from strangers: whatever is wrong becomes a
//! [`Diagnostic`](llamac_plan::diagnostic::Diagnostic), all that is wrong is reported together, and no number of a file
//! is trusted with an allocation.
//!
//! Not here: the arithmetic of weights (`weights`), the graph (`model`), and encoding of texts.

mod capped;
mod checkpoint;
mod config;
mod file;
mod generation;
mod head;
mod json;
mod labels;
mod locate;
mod names;
mod rope;
pub mod safetensors;
mod shards;
mod suggest;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod tokenizer;

pub(crate) use capped::Capped;
pub use checkpoint::{Checkpoint, TensorInfo, Tie};
pub use config::Config;
pub use file::MappedFile;
pub(crate) use file::{read as read_file, stand_in};
pub use llamac_plan::HeadKind as Head;
pub use names::{EMBEDDING, LM_HEAD, NORM, QA_OUTPUTS, QA_OUTPUTS_BIAS, SCORE, SCORE_BIAS};
pub use rope::Rope;
pub(crate) use shards::{INDEX, has_weights};
pub use suggest::{did_you_mean, nearest_path};
pub use tokenizer::{Llama3, TokenizerFiles};
