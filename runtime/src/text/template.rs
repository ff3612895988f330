//! What transformers' LLaMA tokenizers offer around encoding: special tokens around sequences, the marks of who is who,
//! and the file that the vocabulary came in.
//!
//! `build_inputs_with_special_tokens`, `get_special_tokens_mask` and `create_token_type_ids_from_sequences` follow the
//! tokenizer's own template, whatever it is; for LLaMA's it is `bos a eos` and, for a pair, `bos a eos bos b eos`, with
//! those parts that [`Tokenizer::update_post_processor`] was asked for.

use std::path::{Path, PathBuf};

use llamac_plan::diagnostic::{Code, Diagnostic, reason};
use llamac_plan::tokenizer::template;
use tokenizers::{Encoding, PostProcessorWrapper, Token};

use super::Tokenizer;
use super::guard::guard;

/// The tokens that open and end a text, as far as the tokenizer's files name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub bos: Option<String>,
    pub eos: Option<String>,
}

impl Tokenizer {
    /// The token that opens a text, as far as the tokenizer's files name it.
    pub fn bos_token(&self) -> Option<&str> {
        self.ends.bos.as_deref()
    }

    /// The token that ends a text, as far as the tokenizer's files name it.
    pub fn eos_token(&self) -> Option<&str> {
        self.ends.eos.as_deref()
    }

    /// Ids of one sequence or of two with the special tokens that the template puts around them.
    ///
    /// # Errors
    /// `BadTokenizer` where the template names tokens that do not exist.
    pub fn build_inputs_with_special_tokens(
        &self,
        a: &[u32],
        b: Option<&[u32]>,
    ) -> Result<Vec<u32>, Diagnostic> {
        Ok(self.processed(a, b)?.get_ids().to_vec())
    }

    /// For each id that [`Tokenizer::build_inputs_with_special_tokens`] gives: 1 where the template put it, 0 where it
    /// is of a sequence.
    ///
    /// # Errors
    /// As there.
    pub fn get_special_tokens_mask(&self, a: &[u32], b: Option<&[u32]>) -> Result<Vec<u32>, Diagnostic> {
        Ok(self.processed(a, b)?.get_special_tokens_mask().to_vec())
    }

    /// For each of `ids`, whoever put it there: 1 for special tokens, 0 for others
    /// (`already_has_special_tokens=True`).
    pub fn special_tokens_mask_of(&self, ids: &[u32]) -> Vec<u32> {
        let special = |&id: &u32| self.inner.id_to_token(id).is_some_and(|token| self.is_special(&token));
        ids.iter().map(|id| u32::from(special(id))).collect()
    }

    /// For each id that [`Tokenizer::build_inputs_with_special_tokens`] gives: 0 for the first sequence and the special
    /// tokens around it, 1 for the second.
    ///
    /// # Errors
    /// As there.
    pub fn create_token_type_ids_from_sequences(
        &self,
        a: &[u32],
        b: Option<&[u32]>,
    ) -> Result<Vec<u32>, Diagnostic> {
        Ok(self.processed(a, b)?.get_type_ids().to_vec())
    }

    /// Puts the bos token before each sequence if `add_bos`, and the eos token behind it if `add_eos`, in the place of
    /// whatever the template did before.
    ///
    /// # Errors
    /// `BadTokenizer` where a token is asked for that the tokenizer's files do not name.
    pub fn update_post_processor(&mut self, add_bos: bool, add_eos: bool) -> Result<(), Diagnostic> {
        let token = |wanted: bool, key: &str, token: &Option<String>| match (wanted, token) {
            (false, _) => Ok(None),
            (true, Some(token)) => Ok(Some(token.clone())),
            (true, None) => {
                let fault = Diagnostic::new(Code::BadTokenizer).at(format!("{}: {key}", self.name));
                Err(fault.message("it should be added to each text, but there is none"))
            }
        };
        let bos = token(add_bos, "bos_token", &self.ends.bos)?;
        let eos = token(add_eos, "eos_token", &self.ends.eos)?;
        let id = |token: &str| self.inner.token_to_id(token).unwrap_or_default();
        let bos = bos.as_deref().map(|token| (token, id(token)));
        let eos = eos.as_deref().map(|token| (token, id(token)));
        let template = template(bos, eos);
        let template = guard(|| Ok(serde_json::from_value::<PostProcessorWrapper>(template)?));
        let template = template.map_err(|why| self.fault(why))?;
        self.inner.with_post_processor(Some(template));
        Ok(())
    }

    /// Writes the file that the vocabulary came in to `directory`, as it was: `tokenizer.json` or `tokenizer.model`,
    /// after `prefix` and a hyphen if one is given. Returns where it is.
    ///
    /// # Errors
    /// `Io` where it cannot be written.
    pub fn save_vocabulary(&self, directory: &Path, prefix: Option<&str>) -> Result<PathBuf, Diagnostic> {
        let name = if self.is_sentencepiece() { "tokenizer.model" } else { "tokenizer.json" };
        let name = prefix.map_or(name.to_owned(), |prefix| format!("{prefix}-{name}"));
        let path = directory.join(&name);
        // A reader finds either the old file or all of the new one.
        let unfinished = directory.join(format!(".{name}.{}", std::process::id()));
        let written =
            std::fs::write(&unfinished, &self.source).and_then(|()| std::fs::rename(&unfinished, &path));
        if let Err(error) = written {
            // It may not even be there; what went wrong before is told.
            std::fs::remove_file(&unfinished).unwrap_or_default();
            return Err(Diagnostic::new(Code::Io).at(path.display().to_string()).message(reason(&error)));
        }
        Ok(path)
    }

    /// Sequences with what the template puts around them.
    fn processed(&self, a: &[u32], b: Option<&[u32]>) -> Result<Encoding, Diagnostic> {
        let sequence = |ids: &[u32], kind: u32| {
            let token = |&id: &u32| Token::new(id, String::new(), (0, 0));
            Encoding::from_tokens(ids.iter().map(token).collect(), kind)
        };
        let b = b.map(|b| sequence(b, 1));
        guard(|| self.inner.post_process(sequence(a, 0), b, true)).map_err(|why| self.fault(why))
    }
}
