//! The adapters that are to change one checkpoint, and what they make of its head.

use std::collections::BTreeMap;
use std::path::PathBuf;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::super::Head;
use super::super::file::MappedFile;
use super::super::names::{QA_OUTPUTS, SCORE, SCORE_BIAS};
use super::super::safetensors::StoredTensor;
use super::super::tokenizer::TokenizerFiles;
use super::config::{self, LoraConfig};
use super::folder::{Folder, Parts, sort};
use super::prompt::Prompt;

/// A LoRA to take, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSource {
    /// The adapter's folder.
    pub path: PathBuf,
    /// The factor of what it adds; what it replaces is replaced whole.
    pub scale: f64,
}

/// The adapters to take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterSources {
    /// LoRAs, which add up.
    pub loras: Vec<LoraSource>,
    /// The folder of a soft prompt.
    pub soft_prompt: Option<PathBuf>,
}

impl AdapterSources {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.loras.is_empty() && self.soft_prompt.is_none()
    }
}

/// A LoRA.
#[derive(Debug)]
pub(super) struct Lora {
    /// The factor that was asked for.
    pub scale: f64,
    pub config: LoraConfig,
    pub file: MappedFile,
    /// By the canonical name of the module.
    pub modules: BTreeMap<String, Parts>,
    /// By the canonical name of the tensor.
    pub replaced: BTreeMap<String, StoredTensor>,
    pub tokenizer: TokenizerFiles,
    pub path: PathBuf,
}

impl Lora {
    fn open(source: &LoraSource, warnings: &mut Vec<String>) -> Result<Self, Diagnostics> {
        let Folder { config_name, config, file, tensors } = Folder::open(&source.path)?;
        let mut faults = Diagnostics::new();
        let config = faults.absorb(config::parse(&config_name, &config, warnings));
        // The tensors of another kind of adapter have other names.
        if faults.iter().any(|fault| fault.code == Code::UnsupportedAdapter) {
            return Err(faults);
        }
        if tensors.is_empty() {
            let fault = Diagnostic::new(Code::NotAnAdapter).at(file.name());
            faults.push(fault.message("it holds no tensor"));
        }
        let sorted = faults.absorb(sort(file.name(), "LoRA", tensors));
        let tokenizer = faults.absorb(TokenizerFiles::read(&source.path));
        match (config, sorted, tokenizer) {
            (Some(config), Some((modules, replaced)), Some(tokenizer)) if faults.is_empty() => {
                let (scale, path) = (source.scale, source.path.clone());
                Ok(Self { scale, config, file, modules, replaced, tokenizer, path })
            }
            _ => Err(faults),
        }
    }
}

/// Adapters that are to change one checkpoint: LoRAs in the order in which they were given, then a soft prompt.
#[derive(Debug)]
pub struct Adapters {
    pub(super) loras: Vec<Lora>,
    pub(super) prompt: Option<Prompt>,
}

/// What an adapter replaces, whatever its kind.
#[derive(Clone, Copy)]
pub(super) struct Replacing<'a> {
    pub file: &'a MappedFile,
    /// By the canonical name of the tensor.
    pub replaced: &'a BTreeMap<String, StoredTensor>,
    /// Whether a change of the input embedding is one of a tied output embedding, too.
    pub tied: bool,
}

impl Adapters {
    /// Reads the adapters of `sources`. What is odd goes to `warnings`.
    ///
    /// # Errors
    /// All faults of all their files, but for what only the base model tells.
    pub fn open(sources: &AdapterSources, warnings: &mut Vec<String>) -> Result<Self, Diagnostics> {
        let mut faults = Diagnostics::new();
        let mut loras = Vec::new();
        for source in &sources.loras {
            loras.extend(faults.absorb(Lora::open(source, warnings)));
        }
        let prompt = sources.soft_prompt.as_deref();
        let prompt = prompt.and_then(|path| faults.absorb(Prompt::open(path, warnings)));
        faults.or(Self { loras, prompt })
    }

    /// What each adapter replaces.
    pub(super) fn replacing(&self) -> Vec<Replacing<'_>> {
        let loras = self.loras.iter().map(|lora| (&lora.file, &lora.replaced, lora.config.tied));
        let prompt = self.prompt.iter().map(|prompt| (&prompt.file, &prompt.replaced, false));
        loras.chain(prompt).map(|(file, replaced, tied)| Replacing { file, replaced, tied }).collect()
    }

    /// The head of the model that comes out: `wanted`, or the one that the adapters bring or were trained with; nothing
    /// for that of the base.
    pub fn head(&self, wanted: Option<Head>) -> Option<Head> {
        let tasks = self.loras.iter().map(|lora| lora.config.task);
        let task = tasks.chain(self.prompt.iter().map(|prompt| prompt.config.task)).flatten().next();
        let brought = match task {
            _ if self.changes(QA_OUTPUTS) => Some(Head::QuestionAnswering),
            Some(Head::TokenClassification) => task,
            _ if self.brings(SCORE_BIAS) => Some(Head::TokenClassification),
            _ if self.changes(SCORE) => Some(Head::SequenceClassification),
            _ => task,
        };
        wanted.or(brought)
    }

    /// The head to open the base with for a model of `head`: none where the adapters bring that.
    pub fn base_head(&self, head: Option<Head>) -> Option<Head> {
        match head {
            Some(Head::SequenceClassification | Head::TokenClassification) if self.brings(SCORE) => {
                Some(Head::Base)
            }
            Some(Head::QuestionAnswering) if self.brings(QA_OUTPUTS) => Some(Head::Base),
            _ => head,
        }
    }

    /// Whether an adapter brings this tensor, or adds to it.
    fn changes(&self, name: &str) -> bool {
        let module = name.trim_end_matches(".weight");
        self.brings(name) || self.loras.iter().any(|lora| lora.modules.contains_key(module))
    }

    fn brings(&self, name: &str) -> bool {
        self.replacing().iter().any(|adapter| adapter.replaced.contains_key(name))
    }
}
