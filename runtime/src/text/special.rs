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

/// The content of the token under `key`, a string or an object.
pub(super) fn named(config: &serde_json::Map<String, Value>, key: &str) -> Option<String> {
    config.get(key).and_then(token).map(|token| token.content)
}

/// The tokens of `added_tokens_decoder` from id `from` on, in the order of their ids.
pub(super) fn beyond(config: &serde_json::Map<String, Value>, from: usize) -> Vec<(usize, AddedToken)> {
    let Some(Value::Object(entries)) = config.get("added_tokens_decoder") else { return Vec::new() };
    let entry = |(id, entry): (&String, &Value)| {
        let special = entry.get("special") == Some(&Value::Bool(true));
        Some((id.parse().ok()?, token(entry)?.special(special)))
    };
    let mut tokens: Vec<(usize, AddedToken)> = entries.iter().filter_map(entry).collect();
    tokens.retain(|(id, _)| *id >= from);
    tokens.sort_by_key(|(id, _)| *id);
    tokens
}
