//! The files of adapters, and their tensors sorted by what they do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::super::Head;
use super::super::capped::Capped;
use super::super::file::{self, MappedFile};
use super::super::json;
use super::super::names::{QA_OUTPUTS, SCORE, SCORE_BIAS};
use super::super::safetensors::{self, StoredTensor};
use super::super::tokenizer::TokenizerFiles;
use super::super::torch;
use super::CONFIG;
use super::config::{self, LoraConfig};
use super::names::{self, Meaning, Part};
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

/// Files of weights, in the order in which they are looked for.
const FILES: [(&str, Read); 2] =
    [("adapter_model.safetensors", safetensors::read), ("adapter_model.bin", torch::read)];

/// Whether a file is one of an adapter's weights.
pub(super) fn is_adapter(path: &Path) -> bool {
    FILES.iter().any(|(name, _)| path.file_name().is_some_and(|file| file == *name))
}

/// Finds the tensors in a file.
type Read = fn(&MappedFile) -> Result<Vec<StoredTensor>, Diagnostics>;

/// The configuration and the tensors of an adapter's folder, whatever its kind.
pub(super) struct Folder {
    /// What messages call the configuration's file.
    pub config_name: String,
    pub config: Vec<u8>,
    pub file: MappedFile,
    pub tensors: Vec<StoredTensor>,
}

impl Folder {
    /// Opens the folder at `path`.
    pub fn open(path: &Path) -> Result<Self, Diagnostics> {
        let mut faults = Diagnostics::new();
        let config_path = path.join(CONFIG);
        let config_name = config_path.display().to_string();
        let config = faults.absorb(file::read(&config_path, json::MAX_BYTES).map_err(Diagnostics::from));
        if let Some(None) = config {
            return Err(no_config(path).into());
        }
        let weights = faults.absorb(weights(path));
        match (config.flatten(), weights) {
            (Some(config), Some((file, tensors))) => Ok(Self { config_name, config, file, tensors }),
            _ => Err(faults),
        }
    }
}

/// Why a folder without a configuration is no adapter.
fn no_config(path: &Path) -> Diagnostic {
    let fault = Diagnostic::new(Code::NotAnAdapter)
        .at(path.display().to_string())
        .expected(format!("a folder with {CONFIG} and {}", FILES[0].0));
    let fault = fault.found(match () {
        () if !path.exists() => "no such folder",
        () if !path.is_dir() => "a file",
        () => "no adapter_config.json",
    });
    match path.join(super::super::CONFIG).exists() {
        true => fault.help("this is a whole checkpoint: compile it as it is"),
        false => fault,
    }
}

fn weights(path: &Path) -> Result<(MappedFile, Vec<StoredTensor>), Diagnostics> {
    for (name, read) in FILES {
        let path = path.join(name);
        if path.exists() {
            let name = path.display().to_string();
            let file = MappedFile::open(path, name)?;
            let tensors = read(&file)?;
            return Ok((file, tensors));
        }
    }
    Err(Diagnostic::new(Code::MissingFile)
        .at(path.join(FILES[0].0).display().to_string())
        .found("no such file")
        .help("the download may not be complete: fetch the adapter's weights, too")
        .into())
}

/// What an adapter has for one module.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The module's name in the file.
    pub path: String,
    pub tensors: BTreeMap<Part, StoredTensor>,
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

/// Parts of what is added to modules, by the canonical name of the module, and what is replaced, by that of the tensor.
type Sorted = (BTreeMap<String, Parts>, BTreeMap<String, StoredTensor>);

/// The tensors of `file`, which is a `kind` of adapter, by what they do.
pub(super) fn sort(file: &str, kind: &str, tensors: Vec<StoredTensor>) -> Result<Sorted, Diagnostics> {
    let mut faults = Capped::new(file);
    let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
    let mut replaced = BTreeMap::new();
    for tensor in tensors {
        let stored = tensor.name.clone();
        let other = match names::meaning(&stored) {
            Meaning::Copy => None,
            Meaning::Replacement(name) => replaced.insert(name, tensor),
            Meaning::Part { module, path, part } => {
                let parts = modules.entry(module).or_default();
                parts.path = path;
                parts.tensors.insert(part, tensor)
            }
            Meaning::Unknown => {
                faults.push(stranger(format!("{file}: {stored}"), kind));
                None
            }
        };
        if let Some(other) = other {
            faults.push(
                Diagnostic::new(Code::DuplicateTensor)
                    .at(format!("{file}: {stored}"))
                    .message(format!("{} has the same meaning", other.name))
                    .help("save the adapters of a model in folders of their own"),
            );
        }
    }
    faults.into_diagnostics().or((modules, replaced))
}

/// A tensor at `place` that no adapter of this kind has.
pub(super) fn stranger(place: String, kind: &str) -> Diagnostic {
    Diagnostic::new(Code::AdapterMismatch)
        .at(place)
        .message(format!("no {kind} of a LLaMA has a tensor of this name"))
        .help("is the adapter for a model of another architecture?")
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
            _ if self.brings(QA_OUTPUTS) => Some(Head::QuestionAnswering),
            Some(Head::TokenClassification) => task,
            _ if self.brings(SCORE_BIAS) => Some(Head::TokenClassification),
            _ if self.brings(SCORE) => Some(Head::SequenceClassification),
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

    fn brings(&self, name: &str) -> bool {
        self.replacing().iter().any(|adapter| adapter.replaced.contains_key(name))
    }
}
