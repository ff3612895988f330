//! The pipeline that the `tokenizers` crate runs, of the crate's own parts or of SentencePiece's.
//!
//! Splitting a text at added tokens and templates are the crate's for both. A SentencePiece model has no decoder here: it
//! needs to know of special tokens that are left out, which the crate does not tell.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llamac_plan::tokenizer::Spaces;
use serde::{Deserialize, Deserializer};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::tokenizer::PreTokenizedString;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result,
    Token, TokenizerImpl,
};

use super::sentencepiece::{self, Vocabulary};

/// A tokenizer.
pub(super) type Pipeline =
    TokenizerImpl<Model, NormalizerWrapper, PreTokenizer, PostProcessorWrapper, DecoderWrapper>;

/// What makes pieces of a text.
#[derive(Debug)]
pub(super) enum Model {
    Library(Box<ModelWrapper>),
    SentencePiece(Arc<Vocabulary>),
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        ModelWrapper::deserialize(deserializer).map(|model| Self::Library(Box::new(model)))
    }
}

impl tokenizers::Model for Model {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        match self {
            Self::Library(model) => model.tokenize(text),
            Self::SentencePiece(vocabulary) => {
                let token = |id| Token::new(id, String::new(), (0, 0));
                Ok(sentencepiece::encode(vocabulary, text).into_iter().map(token).collect())
            }
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Library(model) => model.token_to_id(token),
            Self::SentencePiece(vocabulary) => vocabulary.id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Library(model) => model.id_to_token(id),
            Self::SentencePiece(vocabulary) => vocabulary.piece(id).map(|piece| piece.text.clone()),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Library(model) => model.get_vocab(),
            Self::SentencePiece(vocabulary) => {
                let pieces = vocabulary.pieces().iter().zip(0..);
                pieces.map(|(piece, id)| (piece.text.clone(), id)).collect()
            }
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Library(model) => model.get_vocab_size(),
            Self::SentencePiece(vocabulary) => vocabulary.pieces().len(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        match self {
            Self::Library(model) => model.save(folder, prefix),
            Self::SentencePiece(_) => Err("a SentencePiece model is saved as the file that it was".into()),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Self::Library(model) => model.get_trainer(),
            Self::SentencePiece(_) => BpeTrainer::default().into(),
        }
    }
}

/// What happens to a text between added tokens before it comes to the model.
#[derive(Debug)]
pub(super) enum PreTokenizer {
    Library(PreTokenizerWrapper),
    SentencePiece(Arc<Vocabulary>, Spaces),
}

impl<'de> Deserialize<'de> for PreTokenizer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        PreTokenizerWrapper::deserialize(deserializer).map(Self::Library)
    }
}

impl tokenizers::PreTokenizer for PreTokenizer {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        match self {
            Self::Library(pre_tokenizer) => pre_tokenizer.pre_tokenize(text),
            Self::SentencePiece(vocabulary, spaces) => text.split(|_, part| {
                let first = part.offsets_original().0 == 0;
                let text = sentencepiece::normalize(vocabulary, part.get(), spaces.before(first));
                Ok(std::iter::once(tokenizers::NormalizedString::from(text)))
            }),
        }
    }
}
