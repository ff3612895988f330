//! The weight files of a directory: one file, or shards that an index names, of safetensors or of PyTorch.
//!
//! Safetensors come first where both are there. The index is authoritative: a tensor is read from the file that it
//! names, whatever else lies in the directory.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path};

use llamac_ir::suggest::nearest;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use serde::Deserialize;

use super::capped::Capped;
use super::file::{self, MappedFile};
use super::locate::{self, INDEX, SINGLE};
use super::safetensors::{self, StoredTensor};
use super::{json, torch};

/// A kind of files that hold weights.
struct Format {
    /// The file that holds all tensors.
    single: &'static str,
    /// The file that names the shards.
    index: &'static str,
    /// How the names of shards end.
    end: &'static str,
    /// Finds the tensors in a file.
    read: fn(&MappedFile) -> Result<Vec<StoredTensor>, Diagnostics>,
}

/// What is looked for, in this order.
const FORMATS: [Format; 2] = [
    Format { single: SINGLE, index: INDEX, end: ".safetensors", read: safetensors::read },
    Format {
        single: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
        end: ".bin",
        read: torch::read,
    },
];

/// The mapped files of a checkpoint and what they hold.
#[derive(Debug)]
pub(super) struct Weights {
    /// The file that says what there is: the only one, or the index.
    pub root: &'static str,
    /// The files.
    pub files: Vec<MappedFile>,
    /// The tensors, each with the position of its file.
    pub tensors: Vec<(usize, StoredTensor)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Whether a directory holds weights of a checkpoint, or says that it does.
pub(crate) fn has_weights(directory: &Path) -> bool {
    FORMATS
        .iter()
        .any(|format| [format.single, format.index].iter().any(|name| directory.join(name).exists()))
}

/// Opens the weights of a directory.
///
/// # Errors
/// All faults of the index and of every shard together; or why the directory has no weights.
pub(super) fn open(directory: &Path) -> Result<Weights, Diagnostics> {
    for format in &FORMATS {
        let single = directory.join(format.single);
        if single.exists() {
            return open_single(format, single);
        }
        if let Some(index) = file::read(&directory.join(format.index), json::MAX_BYTES)? {
            return open_sharded(format, directory, &index);
        }
    }
    Err(locate::no_weights(directory).into())
}

fn open_single(format: &Format, path: std::path::PathBuf) -> Result<Weights, Diagnostics> {
    let file = MappedFile::open(path, format.single.to_owned())?;
    let tensors = (format.read)(&file)?;
    Ok(Weights {
        root: format.single,
        files: vec![file],
        tensors: tensors.into_iter().map(|tensor| (0, tensor)).collect(),
    })
}

fn open_sharded(format: &Format, directory: &Path, index: &[u8]) -> Result<Weights, Diagnostics> {
    let index: Index = serde_json::from_slice(index)
        .map_err(|error| Diagnostic::new(Code::BadIndex).at(format.index).message(error.to_string()))?;
    // File → tensors that the index places in it.
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in &index.weight_map {
        shards.entry(file).or_default().push(tensor);
    }
    if shards.is_empty() {
        return Err(Diagnostic::new(Code::BadIndex)
            .at(format!("{}: weight_map", format.index))
            .message("no tensors")
            .into());
    }
    let mut faults = Capped::new(format.index);
    let mut weights = Weights { root: format.index, files: Vec::new(), tensors: Vec::new() };
    for (name, tensors) in shards {
        match open_shard(format, directory, name, &tensors, !faults.is_full()) {
            Ok((file, tensors)) => {
                let position = weights.files.len();
                weights.files.push(file);
                weights.tensors.extend(tensors.into_iter().map(|tensor| (position, tensor)));
            }
            Err(shard) => shard.iter().for_each(|fault| faults.push(fault.clone())),
        }
    }
    faults.into_diagnostics().or(weights)
}

/// Opens a shard, and takes from it the tensors that the index places there. Only `with_hints` is it looked for under
/// other names.
fn open_shard(
    format: &Format,
    directory: &Path,
    name: &str,
    tensors: &[&str],
    with_hints: bool,
) -> Result<(MappedFile, Vec<StoredTensor>), Diagnostics> {
    let Format { index, end, read, .. } = format;
    let in_directory = |name: &str| {
        let mut parts = Path::new(name).components().peekable();
        parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    if !in_directory(name) || name.contains(['\\', '\0']) {
        return Err(Diagnostic::new(Code::BadIndex)
            .at(format!("{index}: weight_map.{}", tensors[0]))
            .expected("the name of a file in the same directory")
            .found(name.chars().take(100).collect::<String>())
            .into());
    }
    let path = directory.join(name);
    if !path.exists() {
        let present = if with_hints { file::names(directory) } else { Vec::new() };
        let near = nearest(name, present.iter().map(String::as_str).filter(|n| n.ends_with(end)));
        // A neighbour in a series of shards is near in letters, but it is another shard.
        let near = near.filter(|near| digits(near) == digits(name));
        return Err(Diagnostic::new(Code::MissingFile)
            .at(format!("{index}: weight_map"))
            .expected(format!("{name}, with {} tensors", tensors.len()))
            .found("no such file")
            .help(match near {
                Some(near) => format!("did you mean {near}?"),
                None => "the download may not be complete: fetch this file again".to_owned(),
            })
            .into());
    }
    let file = MappedFile::open(path, name.to_owned())?;
    let mut stored: HashMap<String, StoredTensor> =
        read(&file)?.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let mut absent = Vec::new();
    let mut found = Vec::new();
    for tensor in tensors {
        match stored.remove(*tensor) {
            Some(tensor) => found.push(tensor),
            None => absent.push(*tensor),
        }
    }
    if let Some(first) = absent.first() {
        let fault = Diagnostic::new(Code::MissingTensor).at(format!("{name}: {first}"));
        let more = absent.len() - 1;
        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        let unused = nearest(first, stored.keys().map(String::as_str));
        return Err(fault
            .message(format!("{index} says that the tensor is in this file{more}"))
            .help(match unused {
                Some(unused) => format!("the file has {unused}, which the index does not place here"),
                None => "are the index and the shards from the same checkpoint?".to_owned(),
            })
            .into());
    }
    Ok((file, found))
}

fn digits(name: &str) -> String {
    name.chars().filter(char::is_ascii_digit).collect()
}
