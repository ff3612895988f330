//! `tokenizer.json`, executed, with faults that name the file.

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use serde_json::Value;
use tokenizers::DecoderWrapper;

use super::bytes::{byte_level, fallback_byte};
use super::guard::guard;
use super::parts::{self, PartFault, Parts};
use super::special::special_tokens;

/// Encodes text into token ids and back, exactly as the `tokenizer.json` it was made from says.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The file's name, for messages.
    name: String,
    pieces: Pieces,
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
    /// Reads the contents of a `tokenizer.json`; `name` is what messages call the file.
    ///
    /// Padding and truncation that the file asks for are switched off: they belong to training.
    pub fn from_bytes(json: &[u8], name: &str) -> Result<Self, Diagnostics> {
        let fault = |why: String| {
            let fault = Diagnostic::new(Code::BadTokenizer).at(name).message(why);
            fault.expected("a tokenizer.json as the tokenizers library writes it")
        };
        let in_part = |PartFault { key, why }| fault(why).at(format!("{name}: {key}"));
        let text = std::str::from_utf8(json).map_err(|e| fault(e.to_string()))?;
        let parts: Parts<'_> = serde_json::from_str(text).map_err(|e| fault(e.to_string()))?;
        parts::check(&parts).map_err(in_part)?;
        let mut inner = guard(|| tokenizers::Tokenizer::from_bytes(json))
            .map_err(|why| parts::faulty(&parts).map_or_else(|| fault(why), in_part))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| fault(e.to_string()))?;
        let pieces = inner.get_decoder().map_or(Pieces::Text, pieces);
        Ok(Self { inner, name: name.to_owned(), pieces })
    }

    /// Adds what the contents of a `tokenizer_config.json`, called `name` in messages, know beyond `tokenizer.json`:
    /// which tokens of the vocabulary are special.
    pub fn with_config(mut self, json: &[u8], name: &str) -> Result<Self, Diagnostics> {
        let fault = |why: String| Diagnostic::new(Code::BadTokenizer).at(name).message(why);
        let config = match serde_json::from_slice(json) {
            Ok(Value::Object(config)) => config,
            Ok(_) => return Err(fault("it is not a JSON object".into()).into()),
            Err(e) => return Err(fault(e.to_string()).into()),
        };
        let known =
            special_tokens(&config).into_iter().filter(|t| self.inner.token_to_id(&t.content).is_some());
        let new: Vec<_> = known.filter(|t| !self.is_special(&t.content)).collect();
        guard(|| self.inner.add_special_tokens(new)).map_err(fault)?;
        Ok(self)
    }

    /// The ids of `text`. With `add_special` the post-processor's tokens are added (for LLaMA the one that opens a
    /// sequence); special tokens that are written out in the text are recognized in any case.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, Diagnostic> {
        let encoding = guard(|| self.inner.encode_fast(text, add_special)).map_err(|why| self.fault(why))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, as transformers' `decode` without clean-up: ids outside the vocabulary are left out, and so
    /// are special tokens if `skip_special`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Diagnostic> {
        guard(|| self.inner.decode(ids, skip_special)).map_err(|why| self.fault(why))
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

    fn is_special(&self, piece: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(piece)
    }

    fn fault(&self, why: String) -> Diagnostic {
        Diagnostic::new(Code::BadTokenizer).at(&self.name).message(why)
    }
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
    use serde_json::json;

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
