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
use self::parts::Module;
pub(super) use self::parts::{Packed, split};
use super::capped::Capped;
use super::checkpoint::{Stored, TensorInfo};
use super::file::MappedFile;
use super::safetensors::StoredDtype;
use super::table::{self, Table};

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
}

/// The weights of `table` that `files` have packed. What is packed in `tensors` becomes what it stands for
/// there, for others to check.
///
/// # Errors
/// Tensors that are missing, or have another shape or type than configuration and settings call for; numbers
/// of columns that do not exist; packed weights without settings.
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
    for name in names {
        let Some([rows, columns]) = table.matrix(&name) else { continue };
        let weight = tensors.get(&name);
        if weight.is_some_and(is_plain) {
            continue;
        }
        let none = Packed::new();
        let packed = files.packed.get(&name).unwrap_or(&none);
        let Some(first) = weight.or_else(|| packed.values().next()).cloned() else { continue };
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
        found.iter().for_each(|fault| faults.push(fault.clone()));
        match recipe {
            Some(recipe) => {
                quantized.weights.insert(name.clone(), recipe);
                quantized.tensors.extend(parts);
            }
            // Settings of no module at all.
            None if found.is_empty() => unsettled = unsettled.or(Some(first)),
            None => {}
        }
        tensors.insert(name, stands_for);
    }
    if let Some(tensor) = unsettled {
        faults.push(self::unsettled(&tensor));
    }
    faults.into_diagnostics().or(quantized)
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
