//! What the compiler writes and the runtime reads: the plan of a compiled model, the layout of its packed weights,
//! the container they travel in, the vocabulary in which both report faults, SentencePiece models, and what else
//! makes a tokenizer, which both read.
//!
//! Data only. The arithmetic over these layouts lives in the compiler's packer and in the runtime's kernels; neither
//! crate knows the other.

pub mod artifact;
pub mod diagnostic;
pub mod eval;
mod generation;
mod head;
pub mod layout;
mod plan;
mod prompt;
pub mod sentencepiece;
pub mod tokenizer;

pub use generation::GenerationDefaults;
pub use head::HeadKind;
pub use plan::*;
pub use prompt::{PromptKind, SoftPrompt};
