//! The part of a `tokenizer.json` that opens and ends texts.

use serde_json::{Map, Value, json};

/// What puts `bos` before each sequence, and `eos` behind it: tokens by their text and id, as far as there are any.
pub fn template(bos: Option<(&str, u32)>, eos: Option<(&str, u32)>) -> Value {
    let around = |sequence: &str, kind: u32| {
        let special = |(token, _): (&str, u32)| json!({"SpecialToken": {"id": token, "type_id": kind}});
        let sequence = json!({"Sequence": {"id": sequence, "type_id": kind}});
        bos.map(special).into_iter().chain([sequence]).chain(eos.map(special)).collect::<Vec<_>>()
    };
    let named =
        |(token, id): (&str, u32)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    let tokens: Map<String, Value> = bos.into_iter().chain(eos).map(named).collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens})
}
