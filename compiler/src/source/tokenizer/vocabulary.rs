//! A vocabulary that came as lists and not as a tokenizer's file, as those files.
//!
//! Pieces with scores become a SentencePiece `tokenizer.model`, which has an encoder of its own; byte-level pieces with
//! merges become a `tokenizer.json`.

use std::collections::HashMap;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::sentencepiece::{Piece, PieceKind, SentencePieceModel, UNKNOWN_SURFACE};

use super::TokenizerFiles;
use super::byte_level::{self, ByteLevel};
use super::config::{self, Named};
use super::json::{self, Added, Bpe};

/// What is known of a tokenizer.
#[derive(Clone, Debug)]
pub(in crate::source) struct Vocabulary {
    /// What messages call it.
    pub(in crate::source) name: String,
    /// What messages call the merges.
    pub(in crate::source) merges_name: String,
    /// The texts of the tokens, by id.
    pub(in crate::source) tokens: Vec<String>,
    /// What each is for.
    pub(in crate::source) kinds: Vec<PieceKind>,
    /// How early each is merged.
    pub(in crate::source) scores: Option<Vec<f32>>,
    /// Pairs of tokens with a space between them, in the order in which they are merged.
    pub(in crate::source) merges: Option<Vec<String>>,
    /// How texts are cut, where tokens are byte-level; nothing for SentencePiece's.
    pub(in crate::source) split: Option<ByteLevel>,
    pub(in crate::source) bos: Option<u32>,
    pub(in crate::source) eos: Option<u32>,
    pub(in crate::source) pad: Option<u32>,
    pub(in crate::source) unknown: Option<u32>,
    /// Whether each text is opened by bos.
    pub(in crate::source) adds_bos: bool,
    /// Whether each text is ended by eos.
    pub(in crate::source) adds_eos: bool,
    /// Whether a text gets a space before it.
    pub(in crate::source) space_prefix: bool,
    /// Whether runs of spaces are one.
    pub(in crate::source) removes_spaces: bool,
    /// The rules by which characters are replaced, as SentencePiece has them.
    pub(in crate::source) charsmap: Vec<u8>,
    pub(in crate::source) chat_template: Option<String>,
}

impl TokenizerFiles {
    /// The files that say what `vocabulary` says.
    ///
    /// # Errors
    /// `BadTokenizer`: special ids without a token, tokens that are there twice, merges of what is no token, and what is
    /// wrong with a SentencePiece model.
    pub(in crate::source) fn from_vocabulary(vocabulary: Vocabulary) -> Result<Self, Diagnostics> {
        let Vocabulary { name, tokens, .. } = &vocabulary;
        let fault = || Diagnostic::new(Code::BadTokenizer).at(name.as_str());
        for (what, id) in vocabulary.special() {
            if id as usize >= tokens.len() {
                let expected = format!("an id below {}, of {what}", tokens.len());
                return Err(fault().expected(expected).found(id.to_string()).into());
            }
        }
        let text = |id: Option<u32>| id.map(|id| tokens[id as usize].as_str());
        let named = Named {
            bos: text(vocabulary.bos),
            eos: text(vocabulary.eos),
            pad: text(vocabulary.pad),
            unknown: text(vocabulary.unknown),
            adds_bos: vocabulary.adds_bos && vocabulary.bos.is_some(),
            adds_eos: vocabulary.adds_eos && vocabulary.eos.is_some(),
            chat_template: vocabulary.chat_template.as_deref(),
        };
        let config = Some(config::named(&named));
        let pieces = Some(tokens.len());
        match vocabulary.split {
            Some(split) => {
                let tokenizer = Some(vocabulary.byte_level(split)?);
                Ok(Self { tokenizer, pieces, config, ..Self::default() })
            }
            None => {
                let bytes = vocabulary.sentencepiece()?.to_bytes();
                // Whatever is wrong with the vocabulary, it says.
                SentencePieceModel::parse(&bytes, name)?;
                Ok(Self { sentencepiece: Some(bytes), pieces, config, ..Self::default() })
            }
        }
    }
}

impl Vocabulary {
    fn special(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let ids = [("bos", self.bos), ("eos", self.eos), ("padding", self.pad), ("unknown", self.unknown)];
        ids.into_iter().filter_map(|(what, id)| Some((what, id?)))
    }

    fn fault(&self) -> Diagnostic {
        Diagnostic::new(Code::BadTokenizer).at(self.name.as_str())
    }

    fn sentencepiece(&self) -> Result<SentencePieceModel, Diagnostic> {
        let Some(scores) = &self.scores else {
            return Err(self.fault().message("SentencePiece's pieces have scores, and there are none"));
        };
        // Some files mark no token as the unknown one.
        let marked = self.kinds.iter().position(|kind| *kind == PieceKind::Unknown).map(|id| id as u32);
        let unknown = marked.or(self.unknown).unwrap_or(0);
        let kind = |id: u32, kind: PieceKind| match kind {
            PieceKind::Normal if id == unknown => PieceKind::Unknown,
            PieceKind::Normal if [self.bos, self.eos].contains(&Some(id)) => PieceKind::Control,
            kind => kind,
        };
        let pieces = self.tokens.iter().zip(scores).zip(&self.kinds).zip(0..);
        let pieces =
            pieces.map(|(((text, &score), &of), id)| Piece { text: text.clone(), score, kind: kind(id, of) });
        Ok(SentencePieceModel {
            pieces: pieces.collect(),
            unknown,
            unknown_surface: UNKNOWN_SURFACE.to_owned(),
            bos: self.bos,
            eos: self.eos,
            byte_fallback: self.kinds.contains(&PieceKind::Byte),
            add_dummy_prefix: self.space_prefix,
            whitespace_as_suffix: false,
            remove_extra_whitespaces: self.removes_spaces,
            escape_whitespaces: true,
            charsmap: self.charsmap.clone(),
        })
    }

    fn byte_level(&self, split: ByteLevel) -> Result<Vec<u8>, Diagnostic> {
        let mut ids: HashMap<&str, u32> = HashMap::with_capacity(self.tokens.len());
        for (token, id) in self.tokens.iter().zip(0..) {
            if let Some(first) = ids.insert(token, id) {
                let message = format!("tokens {first} and {id} are the same text: {token:?}");
                return Err(self.fault().message(message));
            }
        }
        let Some(merges) = &self.merges else {
            let fault = self.fault().at(self.merges_name.as_str());
            return Err(fault.message("byte-level tokens are merged in an order, and there is none"));
        };
        let pair = |(n, merge): (usize, &String)| {
            let parts = merge.split_once(' ').and_then(|(left, right)| {
                ids.get(format!("{left}{right}").as_str())?;
                Some((*ids.get(left)?, *ids.get(right)?))
            });
            parts.ok_or_else(|| {
                let expected = "two tokens with a space between them, which make a token";
                let fault = self.fault().at(format!("{}[{n}]", self.merges_name));
                fault.expected(expected).found(format!("{merge:?}"))
            })
        };
        let merges = merges.iter().enumerate().map(pair).collect::<Result<Vec<_>, _>>()?;
        let added = |id: u32| {
            let special = self.kinds[id as usize] != PieceKind::UserDefined;
            Added::new(id, self.tokens[id as usize].clone(), special)
        };
        let is_added = |id: &u32| {
            matches!(
                self.kinds[*id as usize],
                PieceKind::Control | PieceKind::Unknown | PieceKind::UserDefined
            )
        };
        let added_tokens: Vec<Added> = (0..self.tokens.len() as u32).filter(is_added).map(added).collect();
        let bos = self.bos.filter(|_| self.adds_bos).map(added);
        let eos = self.eos.filter(|_| self.adds_eos).map(added);
        let model = Bpe::new(&self.tokens, merges);
        Ok(json::write(&byte_level::file(split, model, bos.as_ref(), eos.as_ref(), added_tokens)))
    }
}
