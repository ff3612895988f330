//! What a tokenizer does beside cutting words into pieces, as the files around a vocabulary say it. The runtime does it,
//! the compiler writes it into a `tokenizer.json`; both take it from here, so that they cannot differ.
//!
//! Not here: vocabularies ([`crate::sentencepiece`], and the library that runs a `tokenizer.json`).

mod added;
pub mod byte_level;
mod settings;
mod spaces;
mod template;

pub use added::AddedToken;
pub use settings::{ADDED_TOKENS, CONFIG, SPECIAL_TOKENS_MAP, TokenizerSettings};
pub use spaces::Spaces;
pub use template::template;
