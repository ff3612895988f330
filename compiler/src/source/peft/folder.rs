//! An adapter's folder: its files, and its tensors sorted by what they do, whatever the kind of adapter.

use std::collections::BTreeMap;
use std::path::Path;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::super::capped::Capped;
use super::super::file::{self, MappedFile};
use super::super::json;
use super::super::safetensors::{self, StoredTensor};
use super::super::torch;
use super::CONFIG;
use super::names::{self, Meaning, Part};

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
        if !path.is_dir() {
            return Err(no_config(path).into());
        }
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
    if path.join(super::super::CONFIG).exists() {
        return fault.help("this is a whole checkpoint: compile it as it is");
    }
    match path.parent() {
        Some(folder) if path.is_file() && folder.join(CONFIG).exists() => {
            fault.help(format!("give the folder: {}", folder.display()))
        }
        _ => fault,
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
