//! The tokenizer's files of a checkpoint, in any of its layouts.
//!
//! `tokenizer.json` is carried along as it is, and so is a SentencePiece `tokenizer.model`: what they mean is the
//! runtime's business. Llama 3's own file has the same name, `tokenizer.model`; it becomes a `tokenizer.json`.
//! [`TokenizerFiles::hugging_face`] makes one of each of them, for who reads nothing else.

mod byte_level;
mod config;
mod json;
mod sentencepiece;
mod tiktoken;
mod vocabulary;

use std::path::{Path, PathBuf};

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::sentencepiece::SentencePieceModel;
use llamac_plan::tokenizer::{
    ADDED_TOKENS as ADDED, CONFIG, SPECIAL_TOKENS_MAP as SPECIAL, TokenizerSettings,
};

use super::file;
use super::locate::PARAMS;

pub(super) use byte_level::ByteLevel;
pub use tiktoken::Llama3;
pub(super) use vocabulary::Vocabulary;

/// The largest tokenizer file: ten times the largest that is known.
pub const MAX_BYTES: u64 = 256 << 20;

/// The files of tokenizers, whatever library reads them.
pub const NAMES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

const JSON: &str = "tokenizer.json";
const MODEL: &str = "tokenizer.model";

/// The contents of the tokenizer's files, as far as there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`: the tokenizer itself. Where there is none, what Llama 3's `tokenizer.model` says.
    pub tokenizer: Option<Vec<u8>>,
    /// A SentencePiece `tokenizer.model`: the tokenizer itself, where there is no `tokenizer.json`.
    pub sentencepiece: Option<Vec<u8>>,
    /// Ids that a `tokenizer.model` of either kind has, with the special tokens that follow on Llama 3's.
    pub pieces: Option<usize>,
    /// `tokenizer_config.json`.
    pub config: Option<Vec<u8>>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<Vec<u8>>,
    /// `added_tokens.json`.
    pub added_tokens: Option<Vec<u8>>,
}

impl TokenizerFiles {
    /// Reads the files of a directory. A `tokenizer.json` wins over a `tokenizer.model`.
    ///
    /// # Errors
    /// Those that are there and cannot be read, and what is wrong with a `tokenizer.model` that is needed.
    pub fn read(directory: &Path) -> Result<Self, Diagnostics> {
        Self::read_as(directory, Llama3::default())
    }

    /// As [`TokenizerFiles::read`]; the vocabulary of a Llama 3 file is followed by the special tokens of `generation`.
    ///
    /// # Errors
    /// As there.
    pub fn read_as(directory: &Path, generation: Llama3) -> Result<Self, Diagnostics> {
        let mut faults = Diagnostics::new();
        let mut read = |name: &str| {
            let bytes = file::read(&directory.join(name), MAX_BYTES).map_err(Diagnostics::from);
            faults.absorb(bytes).flatten()
        };
        let (tokenizer, config) = (read(JSON), read(CONFIG));
        let (special_tokens_map, added_tokens) = (read(SPECIAL), read(ADDED));
        let model = if tokenizer.is_none() { read(MODEL) } else { None };
        let mut files = Self { tokenizer, config, special_tokens_map, added_tokens, ..Self::default() };
        if let Some(model) = model {
            let name = directory.join(MODEL).display().to_string();
            faults.absorb(files.take_model(model, generation, &name));
        }
        faults.or(files)
    }

    /// Where the tokenizer of the checkpoint in `directory` is: in it, or beside it where Meta's first models have one
    /// for all sizes.
    pub fn folder(directory: &Path) -> PathBuf {
        let parent = directory.join("..");
        let has = |folder: &Path, name: &str| folder.join(name).exists();
        let is_size = has(directory, PARAMS) && !has(directory, JSON) && !has(directory, MODEL);
        if is_size && has(&parent, MODEL) && !has(&parent, PARAMS) { parent } else { directory.to_owned() }
    }

    /// Takes the contents of a `tokenizer.model`, of whichever kind; `name` is what messages call it.
    fn take_model(&mut self, model: Vec<u8>, generation: Llama3, name: &str) -> Result<(), Diagnostics> {
        if sentencepiece::is(&model) {
            self.pieces = Some(SentencePieceModel::parse(&model, name)?.pieces.len());
            self.sentencepiece = Some(model);
        } else if tiktoken::is(&model) {
            let (json, pieces) = tiktoken::to_json(&model, generation, name)?;
            (self.tokenizer, self.pieces) = (Some(json), Some(pieces));
            self.config.get_or_insert_with(|| config::llama3(None));
        } else {
            let fault = Diagnostic::new(Code::BadTokenizer).at(name);
            let expected = "a SentencePiece model, or lines of base64 and a number as Llama 3 has them";
            return Err(fault.expected(expected).found(config::shown(&model)).into());
        }
        Ok(())
    }

    /// A file that a tokenizer is made of, by its name in a checkpoint.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        match name {
            JSON => self.tokenizer.as_deref(),
            MODEL => self.sentencepiece.as_deref(),
            CONFIG => self.config.as_deref(),
            SPECIAL => self.special_tokens_map.as_deref(),
            ADDED => self.added_tokens.as_deref(),
            _ => None,
        }
    }

    /// All files of the tokenizer for a directory that other libraries read: those of `checkpoint`, from which these were
    /// read, as they are, and those of [`TokenizerFiles::hugging_face`] that it lacks.
    ///
    /// # Errors
    /// As there, and files that cannot be read.
    pub(crate) fn complete(
        &self,
        checkpoint: &Path,
        max_length: u64,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<(&'static str, Vec<u8>)>, Diagnostics> {
        // Llama 3's file has the name of another kind, as which it would be read.
        let is_llama3 = self.pieces.is_some() && self.sentencepiece.is_none();
        let mut files = Vec::new();
        // A GGUF file has them within.
        let names = NAMES.into_iter().filter(|name| !(is_llama3 && *name == MODEL));
        for name in names.filter(|_| checkpoint.is_dir()) {
            let bytes = file::read(&checkpoint.join(name), MAX_BYTES)?;
            files.extend(bytes.map(|bytes| (name, bytes)));
        }
        for (name, bytes) in self.hugging_face(None, Some(max_length), warnings)? {
            if files.iter().all(|(there, _)| *there != name) {
                files.push((name, bytes));
            }
        }
        Ok(files)
    }

    /// Whether there is a tokenizer.
    pub fn is_some(&self) -> bool {
        self.tokenizer.is_some() || self.sentencepiece.is_some()
    }

    /// Whether the ids of a `tokenizer.model` have rows in a model's vocabulary. It may have more rows; for Llama 3,
    /// whose special tokens have the last ids, that is odd.
    ///
    /// # Errors
    /// `BadTokenizer` where it has fewer: the two do not belong together.
    pub(super) fn check_vocabulary(
        &self,
        vocab_size: usize,
        warnings: &mut Vec<String>,
    ) -> Result<(), Diagnostic> {
        let Some(pieces) = self.pieces else { return Ok(()) };
        if pieces > vocab_size {
            let fault = Diagnostic::new(Code::BadTokenizer)
                .at(MODEL)
                .message("it has more ids than the model's vocabulary, so it belongs to another model");
            let expected = format!("at most {vocab_size} ids (vocab_size)");
            return Err(fault.expected(expected).found(pieces.to_string()));
        }
        if pieces < vocab_size && self.tokenizer.is_some() {
            warnings.push(format!(
                "{MODEL} has {pieces} ids with the special tokens, but the model's vocabulary {vocab_size}: is it cut?"
            ));
        }
        Ok(())
    }

    /// The files that a Hugging Face directory needs, by name: `tokenizer.json`, `tokenizer_config.json`,
    /// `special_tokens_map.json`, and a SentencePiece `tokenizer.model` as it was. Those that the checkpoint has stay
    /// as they are. Nothing without a tokenizer.
    ///
    /// `eos` is the token that ends a text of this model, where it is not the tokenizer's own (`<|eot_id|>` of an
    /// instruct model); `max_length` the context. What encodes otherwise by the tokenizer.json goes to `warnings`.
    ///
    /// # Errors
    /// What a `tokenizer.json` cannot say at all.
    pub fn hugging_face(
        &self,
        eos: Option<&str>,
        max_length: Option<u64>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<(&'static str, Vec<u8>)>, Diagnostics> {
        let mut files = Vec::new();
        let model = self.sentencepiece.as_deref();
        let model =
            model.map(|bytes| Ok::<_, Diagnostics>((bytes, SentencePieceModel::parse(bytes, MODEL)?)));
        let config = match (&self.tokenizer, model.transpose()?) {
            (Some(json), _) => {
                files.push((JSON, json.clone()));
                config::with(self.config.clone().unwrap_or_else(|| b"{}".to_vec()), eos, max_length)
            }
            (None, Some((bytes, model))) => {
                // What is wrong with them is told where the tokenizer is opened.
                let settings = TokenizerSettings::read(|name| self.file(name), str::to_owned);
                let settings = settings.unwrap_or_default();
                files.push((JSON, sentencepiece::to_json(&model, &settings, MODEL)?));
                files.push((MODEL, bytes.to_vec()));
                warnings.extend(sentencepiece::differences(&model, &settings));
                let config = self.config.clone().unwrap_or_else(|| config::sentencepiece(&model));
                config::with(config, eos, max_length)
            }
            (None, None) => return Ok(files),
        };
        let special = self.special_tokens_map.clone().unwrap_or_else(|| config::special_tokens_map(&config));
        files.extend([(CONFIG, config), (SPECIAL, special)]);
        Ok(files)
    }
}

#[cfg(test)]
mod tests;
