//! Special tokens that only `tokenizer_config.json` knows.
//!
//! transformers makes every token that this file names (`bos_token`, `additional_special_tokens`, entries of
//! `added_tokens_decoder` with `special: true`, …) special in the tokenizer that it loads beside it: matched as a
//! whole when encoding, left out when decoding skips special tokens. Tokens that are in no vocabulary are not added:
//! the model has no row for them.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

/// A key of this form names a token: `bos_token`, `eos_token`, `image_token`, … but not `add_bos_token`.
fn names_a_token(key: &str) -> bool {
    key.ends_with("_token") && !key.starts_with("add_")
}

/// A token by its content, as a string or as an object of the form that `added_tokens_decoder` holds.
fn token(value: &Value) -> Option<AddedToken> {
    #[derive(Deserialize)]
    struct Entry {
        content: String,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        normalized: bool,
    }
    if let Value::String(content) = value {
        return Some(AddedToken::from(content.clone(), true));
    }
    let entry = Entry::deserialize(value).ok()?;
    Some(
        AddedToken::from(entry.content, true)
            .lstrip(entry.lstrip)
            .rstrip(entry.rstrip)
            .single_word(entry.single_word)
            .normalized(entry.normalized),
    )
}

/// The special tokens that the contents of a `tokenizer_config.json` name; entries of another shape are not tokens.
pub(super) fn special_tokens(config: &serde_json::Map<String, Value>) -> Vec<AddedToken> {
    let mut tokens = Vec::new();
    if let Some(Value::Object(entries)) = config.get("added_tokens_decoder") {
        let special = entries.values().filter(|entry| entry.get("special") == Some(&Value::Bool(true)));
        tokens.extend(special.filter_map(token));
    }
    for (key, value) in config {
        if names_a_token(key) {
            tokens.extend(token(value));
        }
    }
    if let Some(Value::Array(more)) = config.get("additional_special_tokens") {
        tokens.extend(more.iter().filter_map(token));
    }
    tokens
}
