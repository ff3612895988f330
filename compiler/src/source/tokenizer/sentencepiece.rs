//! A SentencePiece model as a `tokenizer.json`.
//!
//! Encoding and decoding are the same for the models that LLaMA has, whatever the files beside them say. What such a
//! file cannot say is told by [`differences`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::sentencepiece::{Piece, PieceKind, SPACE, SentencePieceModel};
use llamac_plan::tokenizer::{AddedToken, Spaces, TokenizerSettings, template};
use serde_json::{Value, json};

use super::json::{self, Added, Bpe, TokenizerJson};

/// Whether a `tokenizer.model` is of this kind: it begins with a piece.
pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x0a)
}

/// The model as a `tokenizer.json` that does what `settings` say; `name` is what messages call it. Tokens that are said
/// to follow on the vocabulary and do not are left out.
///
/// # Errors
/// `UnsupportedModel` where spaces stand behind words, `BadTokenizer` where its pieces can be merged in too many ways.
pub(super) fn to_json(
    model: &SentencePieceModel,
    settings: &TokenizerSettings,
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
    let added = Tokens::new(model, settings);
    let end = |wanted: bool, named: &Option<String>, own: Option<u32>| {
        let id = named.as_deref().and_then(|token| added.id(token)).or(own);
        id.filter(|_| wanted).map(|id| (added.text(id), id))
    };
    let bos = end(settings.add_bos, &settings.bos, model.bos);
    let eos = end(settings.add_eos, &settings.eos, model.eos);
    let post_processor = template(bos, eos);
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
        added_tokens: added.tokens(),
        normalizer: normalizer(model, settings.spaces),
        pre_tokenizer: pre_tokenizer(model, settings.spaces, user_defined),
        post_processor,
        decoder: decoder(model, settings.spaces),
        model: bpe,
    }))
}

/// The tokens that are looked for in texts, the same that the runtime looks for.
struct Tokens<'a> {
    pieces: &'a [Piece],
    /// Of the pieces, and of what is added to them.
    ids: HashMap<&'a str, u32>,
    /// By id.
    added: BTreeMap<u32, AddedToken>,
}

impl<'a> Tokens<'a> {
    fn new(model: &'a SentencePieceModel, settings: &'a TokenizerSettings) -> Self {
        let pieces = &model.pieces;
        let size = pieces.len() as u32;
        let mut ids: HashMap<&str, u32> = pieces.iter().map(|piece| piece.text.as_str()).zip(0..).collect();
        let own = [PieceKind::Unknown, PieceKind::Control].into_iter().flat_map(|kind| model.of_kind(kind));
        let own = own.map(|id| (id, AddedToken::new(pieces[id as usize].text.clone(), true)));
        let beyond = settings.beyond(pieces.len(), |token| ids.contains_key(token)).unwrap_or_default();
        ids.extend(beyond.iter().map(|token| token.content.as_str()).zip(size..));
        let mut added: BTreeMap<u32, AddedToken> =
            own.chain((size..).zip(beyond.into_iter().cloned())).collect();
        for token in &settings.special {
            if let Some(&id) = ids.get(token.content.as_str()) {
                added.entry(id).or_insert_with(|| token.clone()).special = true;
            }
        }
        Self { pieces, ids, added }
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    fn text(&self, id: u32) -> &str {
        let piece = self.pieces.get(id as usize).map(|piece| &piece.text);
        piece.unwrap_or_else(|| &self.added[&id].content)
    }

    /// All of them. They are looked for in the text as it is: SentencePiece has its own way to change the rest.
    fn tokens(self) -> Vec<Added> {
        let token = |(id, token)| Added { id, token: AddedToken { normalized: false, ..token } };
        self.added.into_iter().map(token).collect()
    }
}

/// What encodes otherwise by the `tokenizer.json`: sentences.
pub(super) fn differences(model: &SentencePieceModel, settings: &TokenizerSettings) -> Vec<String> {
    let pieces = &model.pieces;
    let mut told = Vec::new();
    let keeps_spaces = !model.escape_whitespaces && !model.remove_extra_whitespaces;
    if keeps_spaces && model.add_dummy_prefix && settings.spaces == Spaces::Start {
        told.push("a text that starts with a space gets no other before it by tokenizer.json".to_owned());
    }
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

/// What changes a text between added tokens, but for the space before it where only the first part gets one.
fn normalizer(model: &SentencePieceModel, spaces: Spaces) -> Value {
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
    if model.add_dummy_prefix && spaces == Spaces::EveryPart {
        let space = if model.escape_whitespaces { SPACE } else { ' ' };
        steps.push(json!({"type": "Prepend", "prepend": space}));
    }
    if model.escape_whitespaces {
        steps.push(replace(json!({"String": " "}), SPACE.to_string()));
    }
    json!({"type": "Sequence", "normalizers": steps})
}

/// The space before the first part of a text, which a normalizer cannot tell from others, and pieces that are never cut.
///
/// `Metaspace` puts none before a text that starts with one, as SentencePiece does. So it is told of a space that no
/// text has any more at this point, and another puts the model's own in its place.
fn pre_tokenizer(model: &SentencePieceModel, spaces: Spaces, user_defined: Option<Value>) -> Value {
    let metaspace = |space: char, scheme: &str| json!({"type": "Metaspace", "replacement": space, "prepend_scheme": scheme, "split": false});
    let mut steps = Vec::new();
    if model.add_dummy_prefix && spaces == Spaces::Start {
        steps.push(metaspace(' ', "first"));
        if model.escape_whitespaces {
            steps.push(metaspace(SPACE, "never"));
        }
    }
    steps.extend(user_defined);
    match steps.len() {
        0 | 1 => steps.pop().unwrap_or_default(),
        _ => json!({"type": "Sequence", "pretokenizers": steps}),
    }
}

fn decoder(model: &SentencePieceModel, spaces: Spaces) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if spaces.before(true) && (model.add_dummy_prefix || model.remove_extra_whitespaces) {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}
