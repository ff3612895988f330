//! A SentencePiece model as a `tokenizer.json`.
//!
//! Encoding and decoding are the same for the models that LLaMA has. What such a file cannot say is told by
//! [`differences`].

use std::cmp::Ordering;
use std::collections::HashSet;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::sentencepiece::{Piece, PieceKind, SPACE, SentencePieceModel};
use serde_json::{Value, json};

use super::json::{self, Added, Bpe, TokenizerJson};

/// Whether a `tokenizer.model` is of this kind: it begins with a piece.
pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x0a)
}

/// The model as a `tokenizer.json` that opens each text by `bos` and ends it by `eos`, where they are given.
///
/// # Errors
/// `UnsupportedModel` where spaces stand behind words, `BadTokenizer` where its pieces can be merged in too many ways.
pub(super) fn to_json(
    model: &SentencePieceModel,
    bos: Option<u32>,
    eos: Option<u32>,
    name: &str,
) -> Result<Vec<u8>, Diagnostics> {
    if model.whitespace_as_suffix {
        let fault = Diagnostic::new(Code::UnsupportedModel).at(name);
        let fault = fault.message("spaces stand behind words, which no tokenizer.json can say");
        return Err(fault
            .help("compile the checkpoint: llamac reads such a tokenizer.model as it is")
            .into());
    }
    let pieces = &model.pieces;
    let tokens: Vec<String> = pieces.iter().map(|piece| piece.text.clone()).collect();
    let merges = json::merges(&tokens, &order(pieces), starts_character, name)?;
    let added = |id: u32| Added { id, content: tokens[id as usize].clone(), special: true };
    let special = [PieceKind::Unknown, PieceKind::Control].into_iter().flat_map(|kind| model.of_kind(kind));
    let mut added_tokens: Vec<Added> = special.map(added).collect();
    added_tokens.sort_by_key(|token| token.id);
    let user_defined = user_defined(model);
    let mut bpe = Bpe::new(&tokens, merges);
    bpe.unk_token = Some(&tokens[model.unknown as usize]);
    bpe.fuse_unk = true;
    bpe.byte_fallback = model.byte_fallback;
    // What the pre-tokenizer has split off is a piece already.
    bpe.ignore_merges = user_defined.is_some();
    Ok(json::write(&TokenizerJson {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens,
        normalizer: normalizer(model),
        pre_tokenizer: user_defined.unwrap_or_default(),
        post_processor: json::template(bos.map(added).as_ref(), eos.map(added).as_ref()),
        decoder: decoder(model),
        model: bpe,
    }))
}

/// What encodes otherwise by the `tokenizer.json`: sentences.
pub(super) fn differences(model: &SentencePieceModel) -> Vec<String> {
    let pieces = &model.pieces;
    let mut told = Vec::new();
    if model.of_kind(PieceKind::Unused).next().is_some() {
        told.push("pieces that are only steps of merging are kept as they are in tokenizer.json".to_owned());
    }
    let scores: Vec<u32> = order(pieces);
    let equal = |pair: &[u32]| pieces[pair[0] as usize].score == pieces[pair[1] as usize].score;
    let long = |id: &u32| pieces[*id as usize].text.chars().nth(1).is_some();
    let merged: Vec<u32> = scores.into_iter().filter(long).collect();
    if let Some(pair) = merged.windows(2).find(|pair| equal(pair)) {
        let text = |id: u32| &pieces[id as usize].text;
        told.push(format!(
            "pieces have equal scores, as {:?} and {:?}, but an order in tokenizer.json",
            text(pair[0]),
            text(pair[1])
        ));
    }
    let single: HashSet<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
    let alone = |c: char| single.contains(c.encode_utf8(&mut [0; 4]) as &str);
    let normal = pieces.iter().filter(|piece| piece.kind == PieceKind::Normal);
    if let Some(piece) = normal.into_iter().find(|piece| !piece.text.chars().all(alone)) {
        let text = &piece.text;
        told.push(format!("{text:?} has a character that is no piece, so tokenizer.json does not make it"));
    }
    told
}

/// The pieces that merging makes, in the order in which they are made.
fn order(pieces: &[Piece]) -> Vec<u32> {
    let made = |id: &u32| matches!(pieces[*id as usize].kind, PieceKind::Normal | PieceKind::Unused);
    let mut order: Vec<u32> = (0..pieces.len() as u32).filter(made).collect();
    let score = |id: u32| pieces[id as usize].score;
    // Scores are not NaN; equal ones stay in the order of their ids.
    order.sort_by(|&a, &b| score(b).partial_cmp(&score(a)).unwrap_or(Ordering::Equal));
    order
}

fn starts_character(text: &[u8], at: usize) -> bool {
    text[at] & 0xC0 != 0x80
}

/// Splits a text around the pieces that are never cut, the longest first.
fn user_defined(model: &SentencePieceModel) -> Option<Value> {
    let text = |id: u32| model.pieces[id as usize].text.as_str();
    let mut pieces: Vec<&str> = model.of_kind(PieceKind::UserDefined).map(text).collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    let escaped: Vec<String> = pieces.iter().map(|piece| escape(piece)).collect();
    let split = json!({
        "type": "Split", "pattern": {"Regex": escaped.join("|")}, "behavior": "Isolated", "invert": false,
    });
    (!escaped.is_empty()).then_some(split)
}

/// A pattern that stands for `text`. Only what has a meaning is escaped: escaped, other characters get one.
fn escape(text: &str) -> String {
    let character = |c: char| if r"\.+*?()|[]{}^$".contains(c) { format!("\\{c}") } else { c.to_string() };
    text.chars().map(character).collect()
}

fn normalizer(model: &SentencePieceModel) -> Value {
    let space = if model.escape_whitespaces { SPACE } else { ' ' };
    let replace =
        |pattern: Value, content: String| json!({"type": "Replace", "pattern": pattern, "content": content});
    let mut steps = Vec::new();
    if !model.charsmap.is_empty() {
        let table = base64::encode(&model.charsmap);
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": table}));
    }
    if model.remove_extra_whitespaces {
        steps.push(replace(json!({"Regex": r"\A +| +\z"}), String::new()));
        steps.push(replace(json!({"Regex": " {2,}"}), " ".to_owned()));
    }
    if model.add_dummy_prefix {
        steps.push(json!({"type": "Prepend", "prepend": space}));
    }
    if model.escape_whitespaces {
        steps.push(replace(json!({"String": " "}), space.to_string()));
    }
    json!({"type": "Sequence", "normalizers": steps})
}

fn decoder(model: &SentencePieceModel) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if model.add_dummy_prefix || model.remove_extra_whitespaces {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}
