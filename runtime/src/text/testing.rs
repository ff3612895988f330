//! Two tiny tokenizers: one of LLaMA-2's kind, one of LLaMA-3's.

use serde_json::{Map, Value, json};

use super::Tokenizer;

fn added(names: &[&str]) -> Value {
    let token = |(id, name): (usize, &&str)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    names.iter().enumerate().map(token).collect()
}

fn vocabulary(pieces: impl IntoIterator<Item = String>) -> Map<String, Value> {
    pieces.into_iter().enumerate().map(|(id, piece)| (piece, json!(id))).collect()
}

/// Three special tokens, 256 byte pieces, `▁`, a few letters and the merges of `▁a` and `▁Banana`.
pub(super) fn llama_json() -> Value {
    let words = ["▁", "a", "B", "n", "▁a", "▁B", "na", "▁Ba", "nana", "▁Banana"];
    let bytes = (0..=255u8).map(|b| format!("<0x{b:02X}>"));
    let special = ["<unk>", "<s>", "</s>"];
    let pieces = special.map(String::from).into_iter().chain(bytes).chain(words.map(String::from));
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": added(&special),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary(pieces),
            "merges": [["▁", "a"], ["▁", "B"], ["n", "a"], ["▁B", "a"], ["na", "na"], ["▁Ba", "nana"]]}
    })
}

/// See [`llama_json`].
pub(crate) fn llama() -> Tokenizer {
    Tokenizer::from_bytes(llama_json().to_string().as_bytes(), "tokenizer.json").expect("a valid tokenizer")
}

/// Every byte as a piece, a special token and the merge of `Ġa`.
pub(super) fn byte_level() -> Tokenizer {
    let characters = (0x21..=0x7E).chain(0xA1..=0xAC).chain(0xAE..=0xFF).chain(0x100..0x144u32);
    let bytes = characters.filter_map(char::from_u32).map(String::from);
    let pieces = std::iter::once("<|end|>".to_owned()).chain(bytes).chain(["Ġa".to_owned()]);
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added(&["<|end|>"]),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocabulary(pieces), "merges": [["Ġ", "a"]]}
    });
    Tokenizer::from_bytes(json.to_string().as_bytes(), "tokenizer.json").expect("a valid tokenizer")
}
