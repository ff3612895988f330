//! SentencePiece's own algorithm, for a `tokenizer.model`.
//!
//! A tokenizer.json cannot say all that such a file says: merges there have an order, so pieces of equal score have
//! none in common; pieces that are taken back after merging do not exist; and a user-defined piece would end the text
//! before it. So the file is executed as it is.
//!
//! Not here: special tokens that are written out in a text. SentencePiece does not know them in texts; the pipeline
//! around it does, as transformers' does.

mod decode;
mod merge;
mod normalize;
mod vocabulary;

pub(super) use decode::decode;
pub(super) use merge::encode;
pub(super) use normalize::normalize;
pub(super) use vocabulary::Vocabulary;
