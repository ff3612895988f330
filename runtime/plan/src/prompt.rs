//! Soft prompts: what every sequence of a model begins with, learned beside the model.
//!
//! The text comes behind it: in the cache, in positions, and in what the context has room for.

use serde::{Deserialize, Serialize};

use crate::WeightId;

/// What a soft prompt consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptKind {
    /// Rows that are read in place of tokens' embeddings (Lester et al., "The Power of Scale for Parameter-Efficient
    /// Prompt Tuning"; Liu et al., "GPT Understands, Too").
    Embeddings,
    /// Entries of the cache (Li and Liang, "Prefix-Tuning").
    Prefix,
}

impl PromptKind {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Prefix => "prefix",
        }
    }
}

/// A soft prompt, with weights of type `W`: in a plan, vectors of f32.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoftPrompt<W = WeightId> {
    /// What it consists of.
    pub kind: PromptKind,
    /// Virtual tokens: slots of the cache, and positions before the text's.
    pub tokens: usize,
    /// Of embeddings, one: `[tokens, hidden_size]`. Of a prefix, one for each layer: `[tokens, 2 · kv_heads · head_dim]`,
    /// of each token the key, which no rotation turns, then the value.
    pub weights: Vec<W>,
}

impl<W> SoftPrompt<W> {
    /// The virtual tokens that go through the model, so that a forward has outputs for them. Entries of the cache do not.
    pub fn read_tokens(&self) -> usize {
        match self.kind {
            PromptKind::Embeddings => self.tokens,
            PromptKind::Prefix => 0,
        }
    }
}
