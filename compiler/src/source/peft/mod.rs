//! Adapters of the PEFT library: what a model was taught, beside its checkpoint.
//!
//! An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors` (or `.bin`). A LoRA has pairs of
//! low-rank matrices for projections and embeddings, and tensors that replace those of the base whole; a soft prompt has
//! rows that come before every text. [`Adapters`] reads any number of LoRAs and one soft prompt, and
//! [`applies`](Adapters::apply) them to a checkpoint of any layout: what replaces is taken in the base's place, with the
//! vocabulary and the head that it brings; what is added becomes a recipe for each module
//! ([`Adapted`](super::Adapted)), which a pass puts into the graph; a prompt stays beside the graph
//! ([`Checkpoint::prompt`]). No number is read here.
//!
//! The keys of the file decide which modules are changed, not the configuration's `target_modules`: so does PEFT when it
//! loads an adapter. Not here: the arithmetic (`weights`), and training.

mod adapter;
mod apply;
mod config;
mod configuration;
mod folder;
mod lora;
mod names;
mod prompt;
mod prompt_config;
#[cfg(test)]
mod prompt_tests;
mod replace;
mod taken;
#[cfg(test)]
mod tests;

pub use adapter::{AdapterSources, Adapters, LoraSource};
use folder::is_adapter;

use std::path::Path;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::Head;
use super::checkpoint::Checkpoint;

impl Checkpoint {
    /// As [`Checkpoint::open_telling`], with adapters.
    ///
    /// # Errors
    /// As there and as [`Adapters::open`], together; as [`Adapters::apply`].
    pub fn open_adapted(
        path: &Path,
        head: Option<Head>,
        adapters: &AdapterSources,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Diagnostics> {
        if adapters.is_empty() {
            return Self::open_telling(path, head, warnings);
        }
        let mut faults = Diagnostics::new();
        let adapters = faults.absorb(Adapters::open(adapters, warnings));
        let head = adapters.as_ref().and_then(|adapters| adapters.head(head));
        // Without the adapters, nobody knows whether the base needs a head.
        let base_head = adapters.as_ref().map_or(Some(Head::Base), |adapters| adapters.base_head(head));
        let base = faults.absorb(Self::open_telling(path, base_head, warnings));
        match (adapters, base) {
            (Some(adapters), Some(base)) => adapters.apply(base, head, warnings),
            _ => Err(faults),
        }
    }

    /// That `output` cannot have the soft prompt.
    pub(crate) fn no_place_for_prompt(&self, output: &str) -> Diagnostic {
        let file = self.files.iter().rev().find(|file| is_adapter(file.path()));
        Diagnostic::new(Code::NoPlaceForPrompt)
            .at(file.map_or_else(|| self.path.display().to_string(), |file| file.name().to_owned()))
            .message(format!("{output} has no place for it"))
            .help("compile the model with --soft-prompt for the target native")
    }

    /// Whether adapters were applied to it.
    pub(crate) fn has_adapters(&self) -> bool {
        self.files.iter().any(|file| is_adapter(file.path()))
    }
}

/// The file that says what a folder's adapter is.
pub(super) const CONFIG: &str = "adapter_config.json";
