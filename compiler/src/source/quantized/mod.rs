//! Weights that another method quantized, in directories of Hugging Face's layout.
//!
//! `quantization_config` says by which method and with which settings (`config`); what a module's weight is
//! packed in are tensors beside it (`parts`). A file a method makes one recipe of them (`gptq`, `awq`,
//! `compressed_tensors`, `float8`, `bitsandbytes`), so that nothing behind the source knows of methods.
//! Whether a module is quantized, its tensors tell: lists of modules that are not are compared with them.
//!
//! Not here: what becomes of quantized numbers (`passes`); how activations are quantized, which recipes of
//! weights do not depend on.

mod awq;
mod bitsandbytes;
mod compressed_tensors;
mod config;
mod float8;
mod gptq;
mod parts;

use std::collections::{BTreeMap, BTreeSet};

use llamac_ir::Weight;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use self::config::Method;
pub(super) use self::config::{Quantization, read};
use self::parts::{Module, OF_ACTIVATIONS, OTHER_SETTINGS, WHOLE_CODES};
pub(super) use self::parts::{Packed, split};
use super::capped::Capped;
use super::checkpoint::{Stored, TensorInfo};
use super::file::MappedFile;
use super::safetensors::StoredDtype;
use super::table::{self, Group, Table};
use super::{ignored, names};

/// Where the tensors of a checkpoint are.
pub(super) struct Files<'a> {
    /// The file that says what there is.
    pub root: &'a str,
    pub files: &'a [MappedFile],
    /// What the weights of modules are packed in, by their canonical names.
    pub packed: &'a BTreeMap<String, Packed>,
}

/// The quantized weights of a model.
#[derive(Default)]
pub(super) struct Quantized {
    /// Recipes by canonical name.
    pub weights: BTreeMap<String, Weight>,
    /// What they are made of, by the names that they use.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Parts of weights that the model does not have: the canonical name of the weight, and the tensor's.
    pub unused: Vec<(String, String)>,
    /// Parts of weights that nothing is done with, of which a warning tells.
    pub ignored: Vec<String>,
}

/// The weights of `table` that `files` have packed. What is packed in `tensors` becomes what it stands for
/// there, for others to check.
///
/// # Errors
/// Tensors that are missing, or have another shape or type than configuration and settings call for; numbers
/// of columns that do not exist; packed weights without settings, or that are there unpacked, too.
pub(super) fn weights(
    quantization: Option<&Quantization>,
    files: &Files<'_>,
    table: &Table,
    tensors: &mut BTreeMap<String, Stored>,
    warnings: &mut Vec<String>,
) -> Result<Quantized, Diagnostics> {
    let is_plain = |stored: &Stored| table::dtype(stored.stored.dtype.name).is_some();
    let bytes = |stored: &Stored| ["U8", "I8", "F8_E4M3"].contains(&stored.stored.dtype.name);
    let with_bytes = tensors.iter().filter(|(_, stored)| bytes(stored)).map(|(name, _)| name);
    let names: BTreeSet<String> = files.packed.keys().chain(with_bytes).cloned().collect();
    let mut quantized = Quantized::default();
    let mut unsettled = None;
    let mut faults = Capped::new(files.root);
    let mut modules = Vec::new();
    for name in names {
        let none = Packed::new();
        let packed = files.packed.get(&name).unwrap_or(&none);
        let Some([rows, columns]) = table.matrix(&name) else {
            let stored = packed.values().map(|part| part.stored.name.clone());
            match table.calls_for(&name) {
                true => quantized.ignored.extend(stored),
                false => quantized.unused.extend(stored.map(|stored| (name.clone(), stored))),
            }
            continue;
        };
        let weight = tensors.get(&name);
        let known = quantization.map(|quantization| quantization.method.parts());
        let of_weight = packed.iter().filter(|(part, _)| !OF_ACTIVATIONS.contains(part));
        let (used, strange): (Vec<_>, Vec<_>) =
            of_weight.partition(|(part, _)| known.is_none_or(|known| known.contains(*part)));
        quantized.ignored.extend(strange.into_iter().map(|(_, part)| part.stored.name.clone()));
        let doubled = used.iter().find(|(part, _)| WHOLE_CODES.contains(part)).or(used.first());
        if let (Some(weight), Some((part, other))) = (weight, doubled)
            && (is_plain(weight) && quantization.is_some() || WHOLE_CODES.contains(part))
        {
            faults.push(doubly_stored(weight, other));
            continue;
        }
        if weight.is_some_and(is_plain) && used.is_empty() {
            continue;
        }
        let first = used.first().map(|(_, part)| *part).or(weight).or_else(|| packed.values().next());
        let Some(first) = first.cloned() else { continue };
        let mut stands_for = first.clone();
        stands_for.stored.dtype = StoredDtype { name: "F32", bits: 32 };
        stands_for.stored.shape = vec![rows, columns];
        let Some(quantization) = quantization else {
            unsettled.get_or_insert(first);
            tensors.insert(name, stands_for);
            continue;
        };
        warnings.extend(quantization.contradiction(&name));
        let mut module = Module::new(&name, [rows, columns], weight, packed, files);
        let recipe = match &quantization.method {
            Method::Gptq(settings) => gptq::weight(&mut module, settings),
            Method::Awq(settings) => awq::weight(&mut module, settings),
            Method::CompressedTensors(groups) => compressed_tensors::weight(&mut module, groups),
            Method::Fp8 { block } => float8::fine_grained(&mut module, *block),
            Method::FbgemmFp8 => float8::by_row(&mut module),
            Method::BitsAndBytes => bitsandbytes::weight(&mut module),
        };
        let (parts, found) = module.finish();
        match recipe {
            Some(recipe) => {
                quantized.weights.insert(name.clone(), recipe);
                quantized.tensors.extend(parts);
            }
            // Settings of no module at all.
            None if found.is_empty() => unsettled = unsettled.or(Some(first)),
            None => {}
        }
        tensors.insert(name.clone(), stands_for);
        modules.push((name, found));
    }
    if let Some(tensor) = unsettled {
        faults.push(self::unsettled(&tensor));
    }
    in_modules(&modules).for_each(|fault| faults.push(fault));
    let ignored: Vec<&str> = quantized.ignored.iter().map(String::as_str).collect();
    ignored::warn(&ignored, "no part of weights as quantization_config says that they are stored", warnings);
    faults.into_diagnostics().or(quantized)
}

/// A weight that is there, and packed as well.
fn doubly_stored(weight: &Stored, part: &Stored) -> Diagnostic {
    Diagnostic::new(Code::BadPackedWeight)
        .at(format!("{}: {}", weight.file_name, weight.stored.name))
        .message(format!(
            "the weight is stored in {}, and {} is a part of it quantized: nothing says which of the two counts",
            weight.stored.dtype.name, part.stored.name
        ))
        .help("remove one of the two, or take the checkpoint from its source again")
}

/// The faults that were found in `modules`, by the names of their weights. Where every one of several goes against the
/// settings, these are wrong: that is one fault.
fn in_modules(modules: &[(String, Diagnostics)]) -> impl Iterator<Item = Diagnostic> {
    let contradicts = |fault: &&Diagnostic| fault.help.as_deref() == Some(OTHER_SETTINGS);
    let contradictions = modules.iter().map(|(_, found)| found.iter().find(contradicts));
    let contradictions = contradictions.collect::<Option<Vec<_>>>().filter(|all| all.len() > 1);
    let of_all = contradictions.map(|all| {
        let more = all.len() - 1;
        all[0].clone().message(format!("and {more} more: no quantized weight is as quantization_config says"))
    });
    let mut alike = Alike::default();
    for (name, found) in modules {
        let others = found.iter().filter(|fault| of_all.is_none() || !contradicts(fault));
        others.for_each(|fault| alike.add(name, fault));
    }
    of_all.into_iter().chain(alike.into_faults())
}

/// Faults of modules, the same in several layers once.
#[derive(Default)]
struct Alike(Vec<(String, Diagnostic, Group)>);

impl Alike {
    /// Adds a fault of the weight called `name`.
    fn add(&mut self, name: &str, fault: &Diagnostic) {
        let layer = names::layer(name);
        let at = fault.at.clone().unwrap_or_default();
        let end = layer.and_then(|(n, _)| at.split_once(&format!(".{n}."))).map_or(&*at, |(_, end)| end);
        let alone = fault.clone().at("");
        let known = self.0.iter_mut().find(|(known, other, _)| known == end && *other == alone);
        match known {
            Some((.., group)) => group.push(layer.map(|(n, _)| n), at),
            None => {
                let mut group = Group::default();
                group.push(layer.map(|(n, _)| n), at.clone());
                self.0.push((end.to_owned(), alone, group));
            }
        }
    }

    fn into_faults(self) -> impl Iterator<Item = Diagnostic> {
        self.0.into_iter().filter_map(|(_, fault, group)| {
            let place = group.fault(fault.code)?;
            let fault = fault.at(place.at.clone()?);
            Some(match (fault.message.clone(), place.message.clone()) {
                (Some(message), Some(others)) => fault.message(format!("{message} ({others})")),
                (None, Some(others)) => fault.message(others),
                _ => fault,
            })
        })
    }
}

/// Packed weights of which nothing says how they are packed.
fn unsettled(tensor: &Stored) -> Diagnostic {
    Diagnostic::new(Code::MissingConfigKey)
        .at("config.json: quantization_config")
        .message(format!(
            "{}: {} is a part of a quantized weight, and nothing says how it was quantized",
            tensor.file_name, tensor.stored.name
        ))
        .help("fetch the config.json of the quantized checkpoint, with its quantization_config")
}
