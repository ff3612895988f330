//! Where a text gets a space that it does not have.

/// Which parts of a text get the space that SentencePiece puts before a text, if the model wants one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spaces {
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
