//! A tokenizer's files, executed, with faults that name them.

use std::sync::Arc;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::sentencepiece::{PieceKind, SentencePieceModel};
use llamac_plan::tokenizer::{self, Spaces, TokenizerSettings};
use tokenizers::tokenizer::{OffsetType, PreTokenizedString};
use tokenizers::{AddedToken, DecoderWrapper, Model as _, Normalizer as _, PreTokenizer as _};

use super::bytes::{byte_level, fallback_byte};
use super::guard::guard;
use super::parts::{self, PartFault, Parts};
use super::pipeline::{Model, Pipeline, PreTokenizer};
use super::sentencepiece::{self, Vocabulary};
use super::template::Ends;

/// Encodes text into token ids and back, exactly as the file says that it was made from: a `tokenizer.json` as the
/// tokenizers library, a SentencePiece model as SentencePiece.
#[derive(Debug)]
pub struct Tokenizer {
    pub(super) inner: Pipeline,
    /// The file's name, for messages.
    pub(super) name: String,
    pieces: Pieces,
    /// The file.
    pub(super) source: Box<[u8]>,
    pub(super) ends: Ends,
}

/// How pieces stand for bytes, by the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    /// They are text.
    Text,
    /// They are text, but for `<0xNN>`.
    ByteFallback,
    /// Each character is a byte.
    ByteLevel,
}

/// What a token id means to a stream of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No such id.
    Unknown,
    /// A special token: `<s>`, `<|eot_id|>`, …
    Special,
    /// A `<0xNN>` piece of a decoder that joins runs of them.
    Byte,
    /// Anything else.
    Piece,
}

impl Tokenizer {
    /// The tokenizer among the files of a model, which `file` hands out by name: `tokenizer.json`, else a
    /// SentencePiece `tokenizer.model`; with the settings in the files beside it, as far as there are any. `place` is
    /// what messages call a file. Nothing if there is neither.
    ///
    /// # Errors
    /// As [`Tokenizer::from_bytes`], [`Tokenizer::from_sentencepiece`], [`TokenizerSettings::read`] and
    /// [`Tokenizer::with_settings`].
    pub fn from_files<'a>(
        file: impl Fn(&str) -> Option<&'a [u8]>,
        place: impl Fn(&str) -> String,
    ) -> Result<Option<Self>, Diagnostics> {
        let (json, model) = ("tokenizer.json", "tokenizer.model");
        let tokenizer = match (file(json), file(model)) {
            (Some(bytes), _) => Self::from_bytes(bytes, &place(json))?,
            (None, Some(bytes)) => Self::from_sentencepiece(bytes, &place(model))?,
            (None, None) => return Ok(None),
        };
        tokenizer.with_settings(&TokenizerSettings::read(file, place)?).map(Some)
    }

    /// Reads the contents of a `tokenizer.json`; `name` is what messages call the file.
    ///
    /// Padding and truncation that the file asks for are switched off: they belong to training.
    ///
    /// # Errors
    /// `BadTokenizer` with the part at fault.
    pub fn from_bytes(json: &[u8], name: &str) -> Result<Self, Diagnostics> {
        let fault = |why: String| {
            let fault = Diagnostic::new(Code::BadTokenizer).at(name).message(why);
            fault.expected("a tokenizer.json as the tokenizers library writes it")
        };
        let in_part = |PartFault { key, why }| fault(why).at(format!("{name}: {key}"));
        let text = std::str::from_utf8(json).map_err(|e| fault(e.to_string()))?;
        let parts: Parts<'_> = serde_json::from_str(text).map_err(|e| fault(e.to_string()))?;
        parts::check(&parts).map_err(in_part)?;
        let mut inner = guard(|| Pipeline::from_bytes(json))
            .map_err(|why| parts::faulty(&parts).map_or_else(|| fault(why), in_part))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| fault(e.to_string()))?;
        let pieces = match inner.get_decoder() {
            Some(decoder) => pieces(decoder),
            None => Pieces::Text,
        };
        let (name, ends) = (name.to_owned(), Ends::default());
        Ok(Self { inner, name, pieces, source: json.into(), ends })
    }

    /// Reads the contents of a SentencePiece `tokenizer.model`; `name` is what messages call the file.
    ///
    /// A text is opened by the model's bos token. Control pieces and the unknown piece are recognized where they are
    /// written out in a text, as transformers does; [`Tokenizer::encode_ordinary`] is what SentencePiece does.
    ///
    /// # Errors
    /// As [`SentencePieceModel::parse`].
    pub fn from_sentencepiece(bytes: &[u8], name: &str) -> Result<Self, Diagnostics> {
        let fault = |why: String| Diagnostic::new(Code::BadTokenizer).at(name).message(why);
        let vocabulary = Vocabulary::new(SentencePieceModel::parse(bytes, name)?).map_err(fault)?;
        let model = &vocabulary.model;
        let token = |id: u32, special: bool| {
            AddedToken::from(model.pieces[id as usize].text.clone(), special).normalized(false)
        };
        let control = model.of_kind(PieceKind::Control).map(|id| token(id, true));
        // Not special: decoding shows what stands in its place.
        let unknown = model.of_kind(PieceKind::Unknown).map(|id| token(id, false));
        let tokens: Vec<AddedToken> = control.chain(unknown).collect();
        let named = |id: Option<u32>| id.map(|id| model.pieces[id as usize].text.clone());
        let ends = Ends { bos: named(model.bos), eos: named(model.eos) };
        let vocabulary = Arc::new(vocabulary);
        let mut inner = Pipeline::new(Model::SentencePiece(vocabulary));
        guard(|| inner.add_tokens(tokens)).map_err(fault)?;
        let (name, pieces) = (name.to_owned(), Pieces::ByteFallback);
        let mut tokenizer = Self { inner, name, pieces, source: bytes.into(), ends };
        tokenizer.set_spaces(Spaces::Start);
        tokenizer.update_post_processor(tokenizer.ends.bos.is_some(), false)?;
        Ok(tokenizer)
    }

    /// [`Tokenizer::with_settings`] by the contents of a `tokenizer_config.json`, called `name` in messages, alone.
    ///
    /// # Errors
    /// As there, and `BadTokenizer` where the file is no JSON object.
    pub fn with_config(self, json: &[u8], name: &str) -> Result<Self, Diagnostics> {
        let file = |file: &str| (file == tokenizer::CONFIG).then_some(json);
        self.with_settings(&TokenizerSettings::read(file, |_| name.to_owned())?)
    }

    /// Adds what the files beside the tokenizer know beyond it: which tokens of the vocabulary are special.
    ///
    /// For a SentencePiece model, which says no more of itself than how it cuts texts, also tokens beyond its
    /// vocabulary, which tokens a text is opened and ended by, and which parts of a text get a space before them. A
    /// `tokenizer.json` says all of that by itself, and is obeyed.
    ///
    /// # Errors
    /// `BadTokenizer` where added tokens do not follow on the vocabulary.
    pub fn with_settings(mut self, settings: &TokenizerSettings) -> Result<Self, Diagnostics> {
        let in_vocabulary = |tokenizer: &Self, token: &str| tokenizer.inner.token_to_id(token).is_some();
        if self.is_sentencepiece() {
            let beyond = settings.beyond(self.vocab_size(), |token| in_vocabulary(&self, token))?;
            let tokens: Vec<AddedToken> = beyond.into_iter().map(added).collect();
            guard(|| self.inner.add_tokens(tokens)).map_err(|why| self.fault(why))?;
        }
        let special = settings.special.iter();
        let new =
            special.filter(|token| in_vocabulary(&self, &token.content) && !self.is_special(&token.content));
        let new: Vec<AddedToken> = new.map(added).collect();
        guard(|| self.inner.add_special_tokens(new)).map_err(|why| self.fault(why))?;
        let known = |token: &Option<String>| token.clone().filter(|token| in_vocabulary(&self, token));
        let (bos, eos) = (known(&settings.bos), known(&settings.eos));
        self.ends.bos = bos.or(self.ends.bos);
        self.ends.eos = eos.or(self.ends.eos);
        if self.is_sentencepiece() {
            self.set_spaces(settings.spaces);
            let add_bos = settings.add_bos && self.ends.bos.is_some();
            let add_eos = settings.add_eos && self.ends.eos.is_some();
            self.update_post_processor(add_bos, add_eos)?;
        }
        Ok(self)
    }

    /// Whether it is executed as SentencePiece does.
    pub(super) fn is_sentencepiece(&self) -> bool {
        self.vocabulary().is_some()
    }

    /// The SentencePiece model, if it is one.
    fn vocabulary(&self) -> Option<&Arc<Vocabulary>> {
        match self.inner.get_model() {
            Model::SentencePiece(vocabulary) => Some(vocabulary),
            Model::Library(_) => None,
        }
    }

    fn set_spaces(&mut self, spaces: Spaces) {
        if let Some(vocabulary) = self.vocabulary().cloned() {
            self.inner.with_pre_tokenizer(Some(PreTokenizer::SentencePiece(vocabulary, spaces)));
        }
    }

    /// The ids of `text`. With `add_special` the post-processor's tokens are added (for LLaMA the one that opens a
    /// sequence); special tokens that are written out in the text are recognized in any case.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, Diagnostic> {
        let encoding = guard(|| self.inner.encode_fast(text, add_special)).map_err(|why| self.fault(why))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of `text`, all of which is text: names of special tokens in it are no special tokens, and none is
    /// added. This is what SentencePiece's `encode` and tiktoken's `encode_ordinary` give, so Meta's own code.
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>, Diagnostic> {
        let encode = || {
            let mut text = PreTokenizedString::from(text);
            if let Some(normalizer) = self.inner.get_normalizer() {
                text.normalize(|part| normalizer.normalize(part))?;
            }
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut text)?;
            }
            text.tokenize(|part| self.inner.get_model().tokenize(part.get()))?;
            text.into_encoding(None, 0, OffsetType::None)
        };
        let encoding = guard(encode).map_err(|why| self.fault(why))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`: ids outside the vocabulary are left out, and so are special tokens if `skip_special`.
    ///
    /// As transformers' `decode` without clean-up for a `tokenizer.json`, as SentencePiece's for its models. Either
    /// drops the space before a first word.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Diagnostic> {
        match self.inner.get_pre_tokenizer() {
            Some(PreTokenizer::SentencePiece(vocabulary, spaces)) => {
                // What is left out is there all the same: it ends a run of bytes.
                let shown = |piece: String| {
                    if skip_special && self.is_special(&piece) { String::new() } else { piece }
                };
                let pieces = ids.iter().filter_map(|&id| self.inner.id_to_token(id).map(shown));
                Ok(sentencepiece::decode(vocabulary, &pieces.collect::<Vec<_>>(), *spaces))
            }
            _ => guard(|| self.inner.decode(ids, skip_special)).map_err(|why| self.fault(why)),
        }
    }

    /// The vocabulary's piece for each of `ids`: `▁Hello`, `Ġthe`, `<0x0A>`, …
    pub fn pieces(&self, ids: &[u32]) -> Result<Vec<String>, Diagnostic> {
        let piece = |&id| {
            self.inner.id_to_token(id).ok_or_else(|| {
                let fault = Diagnostic::new(Code::BadToken).at(&self.name).found(format!("id {id}"));
                fault.expected(format!("one of the tokenizer's {} ids", self.vocab_size()))
            })
        };
        ids.iter().map(piece).collect()
    }

    /// The id of a piece or of an added token.
    pub fn token_to_id(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// Pieces and added tokens. The model's vocabulary may be larger.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// What `id` means to a stream of text.
    pub(super) fn kind(&self, id: u32) -> Kind {
        match self.inner.id_to_token(id) {
            None => Kind::Unknown,
            Some(piece) if self.is_special(&piece) => Kind::Special,
            Some(piece) if self.pieces == Pieces::ByteFallback && fallback_byte(&piece).is_some() => {
                Kind::Byte
            }
            Some(_) => Kind::Piece,
        }
    }

    /// The bytes that `id` adds to a text when it follows `context`, which decodes to `context_text`; none for an id
    /// outside the vocabulary.
    pub(super) fn bytes_after(
        &self,
        context: &[u32],
        context_text: &str,
        id: u32,
    ) -> Result<Vec<u8>, Diagnostic> {
        let Some(piece) = self.inner.id_to_token(id) else { return Ok(Vec::new()) };
        match (self.pieces, fallback_byte(&piece)) {
            (Pieces::ByteLevel, _) => Ok(byte_level(&piece)),
            (Pieces::ByteFallback, Some(byte)) => Ok(vec![byte]),
            _ => {
                let text = self.decode(&[context, &[id]].concat(), false)?;
                Ok(text.strip_prefix(context_text).unwrap_or(&text).as_bytes().to_vec())
            }
        }
    }

    pub(super) fn is_special(&self, piece: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(piece)
    }

    pub(super) fn fault(&self, why: String) -> Diagnostic {
        Diagnostic::new(Code::BadTokenizer).at(&self.name).message(why)
    }
}

/// A token as the crate has it.
fn added(token: &tokenizer::AddedToken) -> AddedToken {
    AddedToken::from(token.content.clone(), token.special)
        .lstrip(token.lstrip)
        .rstrip(token.rstrip)
        .single_word(token.single_word)
        .normalized(token.normalized)
}

/// Which of the byte conventions is in the decoder's chain.
fn pieces(decoder: &DecoderWrapper) -> Pieces {
    match decoder {
        DecoderWrapper::ByteFallback(_) => Pieces::ByteFallback,
        DecoderWrapper::ByteLevel(_) => Pieces::ByteLevel,
        DecoderWrapper::Sequence(chain) => {
            chain.get_decoders().iter().map(pieces).find(|&p| p != Pieces::Text).unwrap_or(Pieces::Text)
        }
        _ => Pieces::Text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{byte_level, llama, llama_json};
    use super::*;

    #[test]
    fn encodes_and_decodes() {
        let t = llama();
        let id = |p: &str| t.token_to_id(p).expect(p);
        let ids = t.encode("a Banana", true).expect("encodes");
        assert_eq!(ids, [1, id("▁a"), id("▁Banana")]);
        assert_eq!(t.encode("a Banana", false).expect("encodes"), ids[1..]);
        assert_eq!(t.decode(&ids, true).expect("decodes"), "a Banana");
        assert_eq!(t.decode(&ids, false).expect("decodes"), "<s> a Banana");
        assert_eq!(t.decode(&ids[2..], true).expect("decodes"), "Banana");
        assert_eq!(t.pieces(&ids).expect("known ids"), ["<s>", "▁a", "▁Banana"]);
        // A character that is in no piece is spelled in bytes.
        assert_eq!(
            t.pieces(&t.encode("é", false).expect("encodes")).expect("known"),
            ["▁", "<0xC3>", "<0xA9>"]
        );
        let t = byte_level();
        let ids = t.encode("a a中", true).expect("encodes");
        assert_eq!(t.pieces(&ids).expect("known ids"), ["a", "Ġa", "ä", "¸", "Ń"]);
        assert_eq!(t.decode(&ids, true).expect("decodes"), "a a中");
    }

    #[test]
    fn padding_and_truncation_of_the_file_are_off() {
        let ids = llama().encode("a a a a a a a a", true).expect("encodes");
        assert_eq!(ids.len(), 9);
    }

    #[test]
    fn ids_outside_the_vocabulary() {
        let t = llama();
        assert_eq!(t.decode(&[9_999, u32::MAX], true).expect("decodes"), "");
        let fault = t.pieces(&[1, 9_999]).expect_err("no such id");
        assert_eq!((fault.code, fault.found.as_deref()), (Code::BadToken, Some("id 9999")));
    }

    #[test]
    fn the_configuration_makes_tokens_special() {
        let t = llama();
        let banana = t.token_to_id("▁Banana").expect("a piece");
        assert_eq!(t.kind(banana), Kind::Piece);
        let config = r#"{"pad_token": "nana", "eos_token": {"content": "</s>"}, "bos_token": null,
            "additional_special_tokens": ["<absent>"], "add_bos_token": true,
            "added_tokens_decoder": {"9": {"content": "▁Banana", "special": true}, "8": {"content": "na", "special": false}}}"#;
        let before = t.vocab_size();
        let t = t.with_config(config.as_bytes(), "tokenizer_config.json").expect("a valid file");
        assert_eq!(t.kind(banana), Kind::Special);
        assert_eq!(t.kind(t.token_to_id("nana").expect("a piece")), Kind::Special);
        assert_eq!(t.kind(t.token_to_id("na").expect("a piece")), Kind::Piece);
        assert_eq!(t.vocab_size(), before);
        assert_eq!(t.decode(&[banana], true).expect("decodes"), "");
        for bad in ["[]", "{", "\u{0}"] {
            let faults =
                llama().with_config(bad.as_bytes(), "tokenizer_config.json").expect_err("not an object");
            assert!(faults.iter().all(|f| f.at.as_deref() == Some("tokenizer_config.json")));
        }
    }

    #[test]
    fn a_broken_file_is_named() {
        for bad in ["", "{}", "[1]", "{\"version\": \"1.0\"}", "\u{0}\u{1}"] {
            let faults =
                Tokenizer::from_bytes(bad.as_bytes(), "dir/tokenizer.json").expect_err("not a tokenizer");
            let found: Vec<_> = faults.iter().map(|f| (f.code, f.at.as_deref())).collect();
            assert_eq!(found, [(Code::BadTokenizer, Some("dir/tokenizer.json"))]);
        }
    }

    #[test]
    fn altered_files_never_panic() {
        let json = llama_json().to_string().into_bytes();
        let mut rng = 7u64;
        for _ in 0..3_000 {
            let mut bytes = json.clone();
            for _ in 0..3 {
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (rng >> 33) as usize % bytes.len();
                bytes[at] ^= 1 << (rng >> 30 & 7);
            }
            exercise(&bytes);
        }
    }

    #[test]
    fn other_values_never_panic() {
        let json = llama_json();
        for path in pointers(&json) {
            for value in [
                Value::Null,
                json!(0),
                json!(-1),
                json!(u64::MAX),
                json!(""),
                json!("▁"),
                json!([]),
                json!({}),
                json!([0]),
                json!(true),
            ] {
                let mut json = json.clone();
                *json.pointer_mut(&path).expect("a pointer of this value") = value;
                exercise(json.to_string().as_bytes());
            }
        }
    }

    /// Where every value in `json` is, but for the vocabulary's many like ones.
    fn pointers(json: &Value) -> Vec<String> {
        let children: Vec<_> = match json {
            Value::Array(items) => items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
            Value::Object(entries) => {
                entries.iter().map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v)).collect()
            }
            _ => Vec::new(),
        };
        let below = children
            .iter()
            .filter(|(k, _)| !k.starts_with("<0x"))
            .flat_map(|(k, v)| pointers(v).into_iter().map(move |p| format!("/{k}{p}")));
        std::iter::once(String::new()).chain(below).collect()
    }

    /// Uses the tokenizer, if it is one.
    fn exercise(json: &[u8]) {
        if let Ok(t) = Tokenizer::from_bytes(json, "tokenizer.json") {
            let ids = t.encode("a Banana é </s>", true).unwrap_or_else(|_| vec![1, 2, 3]);
            let _ = t.decode(&ids, true);
            let _ = t.decode(&[200, 201, 259, 260, 265], false);
        }
    }

    #[test]
    fn a_panic_of_the_library_is_a_fault_of_the_file() {
        let mut json = llama_json();
        json["decoder"]["decoders"][3]["stop"] = 9.into();
        let t = Tokenizer::from_bytes(json.to_string().as_bytes(), "tokenizer.json").expect("parses");
        assert_eq!(
            t.decode(&[t.token_to_id("▁").expect("a piece")], true).expect_err("a fault").code,
            Code::BadTokenizer
        );
    }
}
