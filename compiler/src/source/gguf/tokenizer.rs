//! The vocabulary in the metadata.

use std::collections::BTreeMap;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::sentencepiece::{CharsMap, PieceKind};

use super::value::{Array, Value};
use crate::source::tokenizer::{ByteLevel, TokenizerFiles, Vocabulary};

/// Tokens that end a turn, by the names that models have for them; only instructed models produce them.
const TURN_ENDS: [&str; 3] = ["<|eot_id|>", "<|eom_id|>", "<|im_end|>"];

/// The most tokens: four times those of Llama 3.
const MAX_TOKENS: usize = 1 << 19;

/// The most merges: each makes a token.
const MAX_MERGES: usize = 4 * MAX_TOKENS;

/// The texts of the tokens.
const TOKENS: &str = "tokenizer.ggml.tokens";

/// The pairs that are merged, in order.
const MERGES: &str = "tokenizer.ggml.merges";

/// The ids that the configuration speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) pad: Option<u32>,
    /// All that end a text, or a turn.
    pub(super) ends: Vec<u32>,
}

/// The tokenizer in the `metadata` of `file`, and its special ids. A kind that is not known is left out, with a warning:
/// the model can be run with ids.
///
/// # Errors
/// What is wrong with a vocabulary of a known kind.
pub(super) fn read(
    file: &str,
    metadata: &BTreeMap<&str, Value<'_>>,
    warnings: &mut Vec<String>,
) -> Result<(TokenizerFiles, Tokens), Diagnostics> {
    let m = Reader { file, metadata };
    let id = |key: &str| m.id(&format!("tokenizer.ggml.{key}_token_id"));
    let (bos, eos, pad) = (id("bos")?, id("eos")?, id("padding")?);
    let mut ends: Vec<u32> = [eos, id("eot")?, id("eom")?].into_iter().flatten().collect();
    // SentencePiece's pieces, or byte-level ones with a way to cut texts.
    let kind = metadata.get("tokenizer.ggml.model");
    let known = match kind.map(|kind| kind.text()) {
        Some(Some("llama")) => Some(None),
        Some(Some("gpt2")) => split(&m, warnings)?.map(Some),
        Some(Some("none")) => None,
        None if !metadata.contains_key(TOKENS) => None,
        _ => {
            let kind = kind.map_or("that is not said".to_owned(), super::shown);
            warnings.push(format!(
                "{file}: a tokenizer of the kind {kind} cannot be read: the model is without one"
            ));
            None
        }
    };
    let Some(byte_level) = known else {
        return Ok((TokenizerFiles::default(), Tokens { bos, eos, pad, ends }));
    };
    let tokens = m.strings(TOKENS, MAX_TOKENS)?.unwrap_or_default();
    if tokens.is_empty() {
        return Err(m.fault(TOKENS).expected(format!("1 to {MAX_TOKENS} tokens")).found("none").into());
    }
    let kinds = m.kinds(tokens.len())?;
    let turn_ends = tokens.iter().zip(&kinds).zip(0..).filter(|((token, kind), id)| {
        **kind == PieceKind::Control && TURN_ENDS.contains(&token.as_str()) && !ends.contains(id)
    });
    let turn_ends: Vec<u32> = turn_ends.map(|(_, id)| id).collect();
    ends.extend(turn_ends);
    let flag = |key: &str| m.boolean(&format!("tokenizer.ggml.{key}"));
    let opens = byte_level.is_none_or(|split| split == ByteLevel::Llama3);
    let charsmap = m.bytes("tokenizer.ggml.precompiled_charsmap")?.unwrap_or_default();
    if let Err(why) = CharsMap::parse(&charsmap) {
        return Err(m.fault("tokenizer.ggml.precompiled_charsmap").message(why).into());
    }
    let vocabulary = Vocabulary {
        name: format!("{file}: {TOKENS}"),
        merges_name: format!("{file}: {MERGES}"),
        scores: m.scores(tokens.len())?,
        merges: m.strings(MERGES, MAX_MERGES)?,
        split: byte_level,
        tokens,
        kinds,
        bos,
        eos,
        pad,
        unknown: id("unknown")?,
        adds_bos: flag("add_bos_token")?.unwrap_or(opens),
        adds_eos: flag("add_eos_token")?.unwrap_or(false),
        space_prefix: flag("add_space_prefix")?.unwrap_or(true),
        removes_spaces: flag("remove_extra_whitespaces")?.unwrap_or(false),
        charsmap,
        chat_template: metadata.get("tokenizer.chat_template").and_then(Value::text).map(str::to_owned),
    };
    Ok((TokenizerFiles::from_vocabulary(vocabulary)?, Tokens { bos, eos, pad, ends }))
}

/// How texts are cut before byte-level merging, if that is known.
fn split(m: &Reader<'_>, warnings: &mut Vec<String>) -> Result<Option<ByteLevel>, Diagnostic> {
    let named = m.metadata.get("tokenizer.ggml.pre").and_then(Value::text).filter(|name| *name != "default");
    if let Some(name) = named {
        let split = ByteLevel::by_name(name);
        if split.is_none() {
            warnings.push(format!(
                "{}: tokenizer.ggml.pre {name:?} is not known: the model is without a tokenizer",
                m.file
            ));
        }
        return Ok(split);
    }
    // Files of the first weeks of Llama 3 do not say that it has a rule of its own.
    let tokens = m.texts(TOKENS, MAX_TOKENS)?;
    let split =
        match tokens.is_some_and(|list| list.iter().any(|token| token.text() == Some("<|begin_of_text|>"))) {
            true => ByteLevel::Llama3,
            false => ByteLevel::Gpt2,
        };
    warnings.push(format!(
        "{}: tokenizer.ggml.pre does not say how texts are cut: as {} does, by its tokens",
        m.file,
        if split == ByteLevel::Llama3 { "Llama 3" } else { "GPT-2" }
    ));
    Ok(Some(split))
}

struct Reader<'a> {
    file: &'a str,
    metadata: &'a BTreeMap<&'a str, Value<'a>>,
}

impl Reader<'_> {
    fn fault(&self, key: &str) -> Diagnostic {
        Diagnostic::new(Code::BadTokenizer).at(format!("{}: {key}", self.file))
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value<'_>) -> Diagnostic {
        self.fault(key).expected(expected).found(super::shown(found))
    }

    /// A token id; −1 and its like stand for none.
    fn id(&self, key: &str) -> Result<Option<u32>, Diagnostic> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) if *n == u64::from(u32::MAX) => Ok(None),
            Some(Value::Signed(n)) if *n < 0 => Ok(None),
            Some(value) => {
                let number = match value {
                    Value::Unsigned(n) => Some(*n),
                    Value::Signed(n) => u64::try_from(*n).ok(),
                    _ => None,
                };
                let id = number.and_then(|n| u32::try_from(n).ok()).filter(|id| *id <= i32::MAX as u32);
                id.map(Some).ok_or_else(|| self.wrong(key, "a token id", value))
            }
        }
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, Diagnostic> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.wrong(key, "a truth value", other)),
        }
    }

    /// The bytes of a list of them, or of a string.
    fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, Diagnostic> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let bytes: Option<Vec<u8>> = match value {
            Value::String(bytes) => Some(bytes.to_vec()),
            Value::Array(list) => list
                .iter()
                .map(|value| match value {
                    Value::Unsigned(n) => u8::try_from(n).ok(),
                    Value::Signed(n) => i8::try_from(n).ok().map(|n| n as u8),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        bytes.map(Some).ok_or_else(|| self.wrong(key, "bytes", value))
    }

    fn list(&self, key: &str, expected: &str) -> Result<Option<&Array<'_>>, Diagnostic> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong(key, expected, other)),
        }
    }

    /// A list of at most `most` texts. Their number is a stranger's: an empty one takes eight bytes in the file,
    /// and more in memory.
    fn texts(&self, key: &str, most: usize) -> Result<Option<&Array<'_>>, Diagnostic> {
        let expected = format!("a list of at most {most} texts");
        match self.list(key, &expected)? {
            Some(list) if list.count > most => {
                Err(self.fault(key).expected(expected).found(format!("{} of them", list.count)))
            }
            list => Ok(list),
        }
    }

    fn strings(&self, key: &str, most: usize) -> Result<Option<Vec<String>>, Diagnostic> {
        let Some(list) = self.texts(key, most)? else { return Ok(None) };
        let text = |(n, value): (usize, Value<'_>)| {
            let text = value.text().map(str::to_owned);
            text.ok_or_else(|| self.wrong(&format!("{key}[{n}]"), "a text in UTF-8", &value))
        };
        list.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// One for each of `count` tokens.
    fn each(&self, key: &str, count: usize, expected: &str) -> Result<Option<&Array<'_>>, Diagnostic> {
        let list = self.list(key, expected)?;
        match list {
            Some(list) if list.count != count => Err(self
                .fault(key)
                .expected(format!("{expected}, one for each of {count} tokens"))
                .found(format!("{} of them", list.count))),
            _ => Ok(list),
        }
    }

    fn scores(&self, count: usize) -> Result<Option<Vec<f32>>, Diagnostic> {
        let (key, expected) = ("tokenizer.ggml.scores", "a list of numbers in single precision");
        let Some(list) = self.each(key, count, expected)? else { return Ok(None) };
        let score = |value| match value {
            Value::Single(x) => Ok(x),
            other => Err(self.wrong(key, expected, &other)),
        };
        list.iter().map(score).collect::<Result<Vec<_>, _>>().map(Some)
    }

    fn kinds(&self, count: usize) -> Result<Vec<PieceKind>, Diagnostic> {
        let (key, expected) = ("tokenizer.ggml.token_type", "a list of numbers from 1 to 6");
        let Some(list) = self.each(key, count, expected)? else { return Ok(vec![PieceKind::Normal; count]) };
        let kind = |value| match value {
            Value::Signed(1) | Value::Unsigned(1) => Ok(PieceKind::Normal),
            Value::Signed(2) | Value::Unsigned(2) => Ok(PieceKind::Unknown),
            Value::Signed(3) | Value::Unsigned(3) => Ok(PieceKind::Control),
            Value::Signed(4) | Value::Unsigned(4) => Ok(PieceKind::UserDefined),
            Value::Signed(5) | Value::Unsigned(5) => Ok(PieceKind::Unused),
            Value::Signed(6) | Value::Unsigned(6) => Ok(PieceKind::Byte),
            other => Err(self.wrong(key, expected, &other)),
        };
        list.iter().map(kind).collect()
    }
}
