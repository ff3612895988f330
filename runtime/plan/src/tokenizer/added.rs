//! Tokens that are no pieces of words.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A token that is looked for in texts before anything else happens to them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AddedToken {
    /// Its text.
    pub content: String,
    /// Whether it is found only where no word goes on before or behind it.
    #[serde(default)]
    pub single_word: bool,
    /// Whether it takes the spaces before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Whether it takes the spaces behind it.
    #[serde(default)]
    pub rstrip: bool,
    /// Whether it is looked for in the text as a normalizer leaves it.
    #[serde(default)]
    pub normalized: bool,
    /// Whether it is no text: decoding may leave it out.
    #[serde(default)]
    pub special: bool,
}

impl AddedToken {
    /// A token that is found wherever its text is.
    pub fn new(content: String, special: bool) -> Self {
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }
    }

    /// What a file gives by its text alone, or as an object of the form that `added_tokens_decoder` holds; nothing for
    /// what has another shape.
    pub(super) fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(content) => Some(Self::new(content.clone(), false)),
            _ => Self::deserialize(value).ok(),
        }
    }
}
