//! A byte-pair vocabulary as a `tokenizer.json`, which every library of the Hugging Face world reads.
//!
//! Such a file orders merges of two pieces, where SentencePiece and tiktoken rank what a merge makes and take the
//! leftmost of equals. The merges that make one piece are ordered by the length of their left part, as transformers
//! orders them; no text is known for which that order matters.

use std::collections::{HashMap, HashSet};

use llamac_plan::diagnostic::{Code, Diagnostic};
use llamac_plan::tokenizer::AddedToken;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// The longest piece in bytes that merges are looked for.
const MAX_MERGED: usize = 512;

/// The most bytes of all merges: six times those of Llama 3.
const MAX_MERGES: usize = 32 << 20;

/// A token that is looked for in texts before anything else happens to them, with its id.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Added {
    pub id: u32,
    #[serde(flatten)]
    pub token: AddedToken,
}

impl Added {
    /// A token that is found wherever its text is.
    pub fn new(id: u32, content: String, special: bool) -> Self {
        Self { id, token: AddedToken::new(content, special) }
    }

    /// What a template calls it by.
    pub fn named(&self) -> (&str, u32) {
        (&self.token.content, self.id)
    }
}

/// The file.
#[derive(Serialize)]
pub(super) struct TokenizerJson<'a> {
    pub version: &'static str,
    pub truncation: (),
    pub padding: (),
    pub added_tokens: Vec<Added>,
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub post_processor: Value,
    pub decoder: Value,
    pub model: Bpe<'a>,
}

/// The vocabulary.
#[derive(Serialize)]
pub(super) struct Bpe<'a> {
    r#type: &'static str,
    dropout: (),
    pub unk_token: Option<&'a str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
    vocab: Vocab<'a>,
    merges: MergeList<'a>,
}

impl<'a> Bpe<'a> {
    /// A vocabulary of pieces, each at its id, and of merges.
    pub fn new(pieces: &'a [String], merges: Vec<(u32, u32)>) -> Self {
        Self {
            r#type: "BPE",
            dropout: (),
            unk_token: None,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: Vocab(pieces),
            merges: MergeList { pieces, merges },
        }
    }
}

struct Vocab<'a>(&'a [String]);

impl Serialize for Vocab<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, piece) in self.0.iter().enumerate() {
            map.serialize_entry(piece, &id)?;
        }
        map.end()
    }
}

struct MergeList<'a> {
    pieces: &'a [String],
    merges: Vec<(u32, u32)>,
}

impl Serialize for MergeList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.merges.len()))?;
        for &(left, right) in &self.merges {
            list.serialize_element(&[&self.pieces[left as usize], &self.pieces[right as usize]])?;
        }
        list.end()
    }
}

/// What makes a piece of two, for all `tokens` of `order`, which names them from the first that is merged to the last.
/// Parts are tokens of `order`, too, cut where `may_cut` says so.
///
/// # Errors
/// `BadTokenizer` at `name` where they would be too many, or a token is too long.
pub(super) fn merges<T: AsRef<[u8]>>(
    tokens: &[T],
    order: &[u32],
    may_cut: impl Fn(&[u8], usize) -> bool,
    name: &str,
) -> Result<Vec<(u32, u32)>, Diagnostic> {
    let token = |id: u32| tokens[id as usize].as_ref();
    let ids: HashMap<&[u8], u32> = order.iter().map(|&id| (token(id), id)).collect();
    let lengths: HashSet<usize> = order.iter().map(|&id| token(id).len()).collect();
    let mut merges = Vec::new();
    let mut bytes = 0;
    for &id in order {
        let whole = token(id);
        if whole.len() > MAX_MERGED {
            let fault = Diagnostic::new(Code::BadTokenizer).at(format!("{name}: token {id}"));
            return Err(fault
                .expected(format!("at most {MAX_MERGED} bytes"))
                .found(format!("{} bytes", whole.len())));
        }
        let cuts = (1..whole.len()).filter(|&cut| {
            lengths.contains(&cut) && lengths.contains(&(whole.len() - cut)) && may_cut(whole, cut)
        });
        let parts = |cut: usize| Some((*ids.get(&whole[..cut])?, *ids.get(&whole[cut..])?));
        let found: Vec<_> = cuts.filter_map(parts).collect();
        // Quotes, commas and brackets.
        bytes += found.len() * (whole.len() + 8);
        if bytes > MAX_MERGES {
            let fault = Diagnostic::new(Code::BadTokenizer).at(name);
            return Err(fault.message("its pieces can be merged in more ways than those of any vocabulary"));
        }
        merges.extend(found);
    }
    Ok(merges)
}

/// The bytes of the file.
pub(super) fn write(file: &TokenizerJson<'_>) -> Vec<u8> {
    serde_json::to_vec(file).expect("strings and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_merges_of_a_piece_come_at_its_place() {
        let tokens = ["a", "b", "ab", "ba", "aba"];
        let found = merges(&tokens, &[0, 1, 3, 2, 4], |_, _| true, "f").unwrap();
        assert_eq!(found, [(1, 0), (0, 1), (0, 3), (2, 0)]);
    }

    #[test]
    fn what_grows_without_bound_is_refused() {
        let long = ["b".to_owned(), "a".repeat(MAX_MERGED + 1)];
        let fault = merges(&long, &[0, 1], |_, _| true, "f").unwrap_err().to_string();
        assert!(fault.contains("f: token 1") && fault.contains("found    513 bytes"), "{fault}");
        let many: Vec<String> =
            ["a", "b", "c"].iter().flat_map(|c| (1..=MAX_MERGED).map(|n| c.repeat(n))).collect();
        let order: Vec<u32> = (0..many.len() as u32).collect();
        assert!(merges(&many, &order, |_, _| true, "f").unwrap_err().to_string().contains("more ways"));
    }
}
