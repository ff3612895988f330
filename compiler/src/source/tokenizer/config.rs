//! `tokenizer_config.json` and `special_tokens_map.json` of a tokenizer that came without.

use llamac_plan::sentencepiece::SentencePieceModel;
use serde_json::{Map, Value, json};

use super::tiktoken;

/// The class that takes a `tokenizer.json` at its word, in every version of transformers; `LlamaTokenizer` would
/// rebuild it and encode spaces at the start of a text otherwise.
const CLASS: &str = "PreTrainedTokenizerFast";

/// The tokens that a config names.
const NAMED: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// The config of a SentencePiece model that came without: what it is taken for then.
pub(super) fn sentencepiece(model: &SentencePieceModel) -> Vec<u8> {
    let text = |id: u32| Value::from(model.pieces[id as usize].text.as_str());
    let mut config = Map::new();
    let named = [("bos_token", model.bos), ("eos_token", model.eos), ("unk_token", Some(model.unknown))];
    config.extend(named.into_iter().filter_map(|(key, id)| Some((key.to_owned(), text(id?)))));
    let flags = json!({
        "add_bos_token": model.bos.is_some(), "add_eos_token": false, "clean_up_tokenization_spaces": false,
        "legacy": false, "padding_side": "left", "tokenizer_class": CLASS,
    });
    config.extend(flags.as_object().cloned().unwrap_or_default());
    pretty(&config)
}

/// What a vocabulary that came without a config says of its tokens.
pub(super) struct Named<'a> {
    pub bos: Option<&'a str>,
    pub eos: Option<&'a str>,
    pub pad: Option<&'a str>,
    pub unknown: Option<&'a str>,
    pub adds_bos: bool,
    pub adds_eos: bool,
    pub chat_template: Option<&'a str>,
}

/// The config of a vocabulary.
pub(super) fn named(named: &Named<'_>) -> Vec<u8> {
    let mut config = Map::new();
    let tokens = [named.bos, named.eos, named.unknown, named.pad];
    let texts = NAMED.into_iter().zip(tokens).chain([("chat_template", named.chat_template)]);
    config.extend(texts.filter_map(|(key, text)| Some((key.to_owned(), text?.into()))));
    let flags = json!({
        "add_bos_token": named.adds_bos, "add_eos_token": named.adds_eos, "clean_up_tokenization_spaces": false,
        "legacy": true, "padding_side": "left", "tokenizer_class": CLASS,
    });
    config.extend(flags.as_object().cloned().unwrap_or_default());
    pretty(&config)
}

/// The config of Llama 3, whose texts end by `eos`, or by the token of its base models.
pub(super) fn llama3(eos: Option<&str>) -> Vec<u8> {
    let config = json!({
        "bos_token": tiktoken::BOS, "eos_token": eos.unwrap_or("<|end_of_text|>"),
        "clean_up_tokenization_spaces": true, "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left", "tokenizer_class": CLASS,
    });
    pretty(&config.as_object().cloned().unwrap_or_default())
}

/// A config with another token at the end of texts, and with a length where it has none. What is no JSON object stays
/// as it is.
pub(super) fn with(config: Vec<u8>, eos: Option<&str>, max_length: Option<u64>) -> Vec<u8> {
    let Ok(mut members) = serde_json::from_slice::<Map<String, Value>>(&config) else { return config };
    let before = members.clone();
    if let Some(eos) = eos {
        members.insert("eos_token".to_owned(), eos.into());
    }
    if let Some(length) = max_length {
        members.entry("model_max_length").or_insert_with(|| length.into());
    }
    if members == before { config } else { pretty(&members) }
}

/// The tokens that a config names, by what they are for.
pub(super) fn special_tokens_map(config: &[u8]) -> Vec<u8> {
    let config: Map<String, Value> = serde_json::from_slice(config).unwrap_or_default();
    let named = NAMED.iter().filter_map(|&key| Some((key.to_owned(), config.get(key)?.clone())));
    pretty(&named.collect())
}

/// What a file begins with, for messages.
pub(super) fn shown(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".to_owned(),
        _ => format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(24)])),
    }
}

fn pretty(members: &Map<String, Value>) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(members).expect("strings and numbers are JSON");
    bytes.push(b'\n');
    bytes
}
