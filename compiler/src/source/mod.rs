//! Checkpoints: from Hugging Face's directories, Meta's, or GGUF files, whatever is in them, to one description that the
//! rest of the compiler can rely on.
//!
//! [`Checkpoint::open`] reads the configuration in all its spellings, `generation_config.json`, the tokenizer's files
//! and what the files of weights say they hold; it normalises the names of tensors, finds the head, and checks every
//! tensor against the configuration. Files are input from strangers: whatever is wrong becomes a
//! [`Diagnostic`](llamac_plan::diagnostic::Diagnostic), all that is wrong is reported together, and no number of a file
//! is trusted with an allocation.
//!
//! [`Adapters`] of the PEFT library change a checkpoint once it is open, whatever its layout.
//!
//! What a tensor of the model is made of is a recipe over what the files hold: itself in Hugging Face's layout, parts of
//! several files in Meta's, blocks of small integers in GGUF's, codes and scales where another method quantized it.
//!
//! Not here: the arithmetic of weights (`weights`), the graph (`model`), and encoding of texts.

mod bounds;
mod capped;
mod checkpoint;
mod config;
mod file;
mod generation;
pub mod gguf;
mod head;
mod hugging_face;
mod ignored;
mod json;
mod labels;
mod locate;
mod members;
mod meta;
mod names;
mod open;
mod peft;
mod quantized;
mod rope;
pub mod safetensors;
mod shards;
mod suggest;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod tokenizer;
pub mod torch;

pub(crate) use capped::Capped;
pub use checkpoint::{Adapted, Checkpoint, TensorInfo, Tie};
pub use config::Config;
pub use file::MappedFile;
pub(crate) use file::{read as read_file, stand_in};
pub(crate) use hugging_face::GENERATION;
pub use llamac_plan::HeadKind as Head;
pub(crate) use locate::{CONFIG, INDEX};
pub(crate) use members::Members;
pub(crate) use names::layer_of;
pub use names::{EMBEDDING, LM_HEAD, NORM, QA_OUTPUTS, QA_OUTPUTS_BIAS, SCORE, SCORE_BIAS};
pub use peft::{AdapterSources, Adapters, LoraSource};
pub use rope::Rope;
pub(crate) use shards::has_weights;
pub use suggest::{did_you_mean, nearest_path};
pub use tokenizer::{Llama3, TokenizerFiles};
pub(crate) use tokenizer::{MAX_BYTES as MAX_TOKENIZER_FILE, NAMES as TOKENIZER_FILES};
