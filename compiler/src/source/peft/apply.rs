//! A checkpoint with adapters: first what replaces, then what is added, then what comes before every text.

use llamac_plan::diagnostic::Diagnostics;

use super::super::Head;
use super::super::checkpoint::Checkpoint;
use super::adapter::{Adapters, Lora};
use super::prompt::Prompt;
use super::taken::Taken;
use super::{lora, replace};

impl Adapters {
    /// `base` with these adapters, as a model of `head` where that is given; it was opened with
    /// [`Adapters::base_head`].
    ///
    /// # Errors
    /// Every tensor that is missing, that the model has no place for, or that has another shape or a dtype that cannot be
    /// computed with; and adapters that contradict each other.
    pub fn apply(
        self,
        mut base: Checkpoint,
        head: Option<Head>,
        warnings: &mut Vec<String>,
    ) -> Result<Checkpoint, Diagnostics> {
        let mut taken = Taken::new(base.files.len());
        base.head = head.unwrap_or(base.head);
        let mut faults = Diagnostics::new();
        faults.absorb(replace::apply(&mut base, &self.replacing(), &mut taken));
        let adapted = faults.absorb(lora::adapted(&base, &self.loras, &mut taken));
        let number = self.loras.len();
        let prompt = self.prompt.as_ref();
        let prompt =
            prompt.and_then(|prompt| faults.absorb(prompt.recipes(&base, number, &mut taken)).flatten());
        faults.extend(taken.misfits.into_diagnostics());
        let Some(adapted) = adapted.filter(|_| faults.is_empty()) else { return Err(faults) };
        (base.adapted, base.prompt) = (adapted, prompt);
        base.tensors.extend(taken.tensors);
        base.keep_used_tensors();
        let loras = self.loras.into_iter().map(|Lora { file, tokenizer, path, .. }| (file, tokenizer, path));
        let prompt =
            self.prompt.into_iter().map(|Prompt { file, tokenizer, path, .. }| (file, tokenizer, path));
        for (file, tokenizer, path) in loras.chain(prompt) {
            base.files.push(file);
            if tokenizer.is_some() {
                tokenizer.check_vocabulary(base.config.vocab_size, warnings)?;
                (base.tokenizer, base.tokenizer_path) = (tokenizer, path);
            }
        }
        Ok(base)
    }
}
