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

/// Which parts of a text get the space that SentencePiece puts before a text, if the model wants one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spaces {
    /// The text's start, and each part after a special token (`legacy: true`).
    EveryPart,
    /// The text's start (`legacy: false`).
    Start,
    /// None (`add_prefix_space: false`).
    Never,
}

impl Spaces {
    /// Whether a part gets one, which is the first of its text or not.
    pub fn before(self, first: bool) -> bool {
        match self {
            Self::EveryPart => true,
            Self::Start => first,
            Self::Never => false,
        }
    }
}
