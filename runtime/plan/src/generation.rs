//! How a model wants to be decoded when the caller does not say.

use serde::{Deserialize, Serialize};

/// The decoding-relevant part of `generation_config.json`, with the defaults of transformers filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationDefaults {
    /// Sample instead of taking the most likely token.
    pub do_sample: bool,
    /// Divisor of the logits; above zero.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most likely tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this fraction of the most likely one.
    pub min_p: Option<f32>,
    /// Divides the positive logits, and multiplies the negative ones, of tokens that occurred; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Tokens to generate at most; wins over `max_length`.
    pub max_new_tokens: Option<u64>,
    /// Prompt and generated tokens together at most.
    pub max_length: Option<u64>,
    /// The token that opens a sequence.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    /// The token that fills up a batch.
    pub pad_token_id: Option<u32>,
}

impl Default for GenerationDefaults {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: None,
            repetition_penalty: 1.0,
            max_new_tokens: None,
            max_length: None,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
        }
    }
}
