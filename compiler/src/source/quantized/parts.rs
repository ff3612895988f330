//! The tensors that the weight of a module is packed in.

use std::collections::BTreeMap;
use std::sync::Arc;

use llamac_ir::{DType, Weight, WeightError};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::super::checkpoint::{Stored, TensorInfo};
use super::super::names::{self, Meaning};
use super::{Files, awq, bitsandbytes, compressed_tensors, float8, gptq};

/// How the names of parts end, beyond the module's, by the method that stores them.
const PARTS: [&[&str]; 7] = [
    &gptq::PARTS,
    &awq::PARTS,
    &compressed_tensors::PARTS,
    &float8::FINE_GRAINED_PARTS,
    &float8::BY_ROW_PARTS,
    &bitsandbytes::PARTS,
    &OF_ACTIVATIONS,
];

/// Parts of no use, whatever the method: they are about activations.
pub(super) const OF_ACTIVATIONS: [&str; 4] =
    ["input_scale", "input_zero_point", "output_scale", "activation_scale"];

/// Parts that are all of a weight's codes, so that there is no tensor of the weight's own name.
pub(super) const WHOLE_CODES: [&str; 2] = ["qweight", "weight_packed"];

/// The parts of one weight, without the weight itself where it has this name.
pub(in super::super) type Packed = BTreeMap<&'static str, Stored>;

/// The weight that the tensor called `stored` is a part of, and which; nothing where it is none of a LLaMA's.
pub(in super::super) fn split(stored: &str) -> Option<(String, &'static str)> {
    PARTS.into_iter().flatten().find_map(|part| {
        let module = stored.strip_suffix(part)?.strip_suffix('.')?;
        match names::meaning(&format!("{module}.weight")) {
            Meaning::Model(name) => Some((name, *part)),
            _ => None,
        }
    })
}

/// A weight that is packed, on its way to a recipe.
pub(super) struct Module<'a> {
    name: &'a str,
    /// Outputs, inputs.
    pub shape: [usize; 2],
    weight: Option<&'a Stored>,
    packed: &'a Packed,
    files: &'a Files<'a>,
    tensors: BTreeMap<String, TensorInfo>,
    faults: Diagnostics,
}

/// What a part has to be.
pub(super) struct Expected<'a> {
    /// Types that its numbers may have, as safetensors calls them.
    pub dtypes: &'a [&'a str],
    /// Its sizes; ones may be left out or added.
    pub shape: &'a [usize],
    /// Where the sizes come from.
    pub why: &'a str,
}

/// What to do about parts that are not there.
const INCOMPLETE: &str = "the download may not be complete, or the weight was quantized with other settings";

/// What to do about parts that are not as the settings say: the help of every such fault.
pub(super) const OTHER_SETTINGS: &str = "do weights and quantization_config come from the same checkpoint?";

/// Types of scales.
pub(super) const FLOATS: &[&str] = &["F32", "F16", "BF16"];

impl<'a> Module<'a> {
    pub fn new(
        name: &'a str,
        shape: [usize; 2],
        weight: Option<&'a Stored>,
        packed: &'a Packed,
        files: &'a Files<'a>,
    ) -> Self {
        Self { name, shape, weight, packed, files, tensors: BTreeMap::new(), faults: Diagnostics::new() }
    }

    /// What recipes use of it, and what is wrong with it.
    pub fn finish(self) -> (BTreeMap<String, TensorInfo>, Diagnostics) {
        (self.tensors, self.faults)
    }

    /// The part, or with `weight` the tensor of this name, if there is one.
    pub fn stored(&self, part: &str) -> Option<&'a Stored> {
        if part == "weight" { self.weight } else { self.packed.get(part) }
    }

    /// The bytes of a part.
    pub fn bytes(&self, part: &str) -> Option<&'a [u8]> {
        let Stored { file, stored, .. } = self.stored(part)?;
        self.files.files.get(*file)?.bytes().get(stored.range.clone())
    }

    /// The name of the module, `model.layers.0.mlp.up_proj`.
    fn module(&self) -> &'a str {
        self.name.trim_end_matches(".weight")
    }

    /// Where a part is, for messages.
    pub fn place(&self, part: &str) -> String {
        match self.stored(part) {
            Some(Stored { file_name, stored, .. }) => format!("{file_name}: {}", stored.name),
            None => format!("{}: {}.{part}", self.files.root, self.module()),
        }
    }

    /// Which of `parts`, and of the weight's own name, there are, with type and shape.
    pub fn parts_in_words(&self, parts: &[&str]) -> String {
        let words = ["weight"].iter().chain(parts).filter_map(|part| {
            let stored = &self.stored(part)?.stored;
            Some(format!("{part} {} {:?}", stored.dtype.name, stored.shape))
        });
        words.collect::<Vec<_>>().join(", ")
    }

    /// Records a fault.
    pub fn fault(&mut self, fault: Diagnostic) {
        self.faults.push(fault);
    }

    /// The part as a weight; a fault, and nothing, where it is missing or is not as `expected`. What is of
    /// type I32 is taken for words: four bytes of U8 each.
    pub fn part(&mut self, part: &'static str, expected: &Expected<'_>) -> Option<Weight> {
        self.part_of_shape(part, expected, expected.shape)
    }

    /// Records that a part is not there.
    pub fn missing(&mut self, part: &str, expected: String) {
        let fault = Diagnostic::new(Code::MissingTensor).at(self.place(part)).expected(expected);
        self.fault(fault.message("a part of the quantized weight is not there").help(INCOMPLETE));
    }

    /// Whether rows are whole groups of `size` columns, or one group if `one` says that this may be; a fault
    /// at the part `scales` where they are not.
    pub fn has_whole_groups(&mut self, scales: &str, size: usize, one: bool) -> bool {
        let columns = self.shape[1];
        let whole = columns.is_multiple_of(size) || one && columns < size;
        if !whole {
            let fault = Diagnostic::new(Code::InconsistentConfig).at(self.place(scales));
            let expected = format!("a group_size that divides in_features {columns}");
            self.fault(fault.expected(expected).found(size.to_string()).help(OTHER_SETTINGS));
        }
        whole
    }

    /// As [`Module::part`], in another shape of as many numbers.
    pub fn part_of_shape(
        &mut self,
        part: &'static str,
        expected: &Expected<'_>,
        as_shape: &[usize],
    ) -> Option<Weight> {
        let Expected { dtypes, shape, why } = expected;
        let wanted = || format!("{shape:?}  ({why})");
        let Some(Stored { file, file_name, stored }) = self.stored(part) else {
            self.missing(part, wanted());
            return None;
        };
        let mut faults = Diagnostics::new();
        if !dtypes.contains(&stored.dtype.name) {
            let fault = Diagnostic::new(Code::WrongDtype).at(self.place(part));
            faults.push(fault.expected(dtypes.join(", ")).found(stored.dtype.name).help(OTHER_SETTINGS));
        }
        if stored.strides.is_some() || !same_numbers(&stored.shape, shape) {
            let fault = Diagnostic::new(Code::WrongShape).at(self.place(part)).expected(wanted());
            let (fault, found) = (fault.help(OTHER_SETTINGS), format!("{:?}", stored.shape));
            faults.push(match stored.strides {
                Some(_) => fault.found(format!("{found}, not row after row")),
                None => fault.found(found),
            });
        }
        if !faults.is_empty() {
            self.faults.extend(faults);
            return None;
        }
        let (dtype, shape) = stored_as(stored.dtype.name, as_shape)?;
        let name = if part == "weight" { self.name.to_owned() } else { format!("{}.{part}", self.module()) };
        let info = TensorInfo {
            file: Arc::clone(file_name),
            stored_name: stored.name.clone(),
            dtype,
            shape: shape.clone(),
            position: *file,
            range: stored.range.clone(),
            strides: None,
        };
        self.tensors.insert(name.clone(), info);
        let weight = Weight::source(&name, dtype, &shape);
        self.made(weight)
    }

    /// The columns' groups that a part of type I32 names, all of them below `groups`; a fault, and
    /// nothing, where it is not so.
    pub fn groups_of_columns(&mut self, part: &'static str, groups: usize) -> Option<Vec<i64>> {
        let columns = self.shape[1];
        let (place, bytes) = (self.place(part), self.bytes(part)?);
        let stored = &self.stored(part)?.stored;
        let numbers: Option<Vec<i64>> = match (stored.dtype.name, &stored.shape[..], &stored.strides) {
            ("I32", [count], None) if *count == columns => {
                Some(bytes.as_chunks().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect())
            }
            _ => None,
        };
        let Some(numbers) = numbers else {
            let found = format!("{} {:?}", stored.dtype.name, stored.shape);
            let fault = Diagnostic::new(Code::WrongShape).at(place);
            self.fault(fault.expected(format!("I32 [{columns}]  (in_features {columns})")).found(found));
            return None;
        };
        match numbers.iter().position(|group| !(0..groups as i64).contains(group)) {
            None => Some(numbers),
            Some(i) => {
                let fault = Diagnostic::new(Code::BadPackedWeight).at(format!("{place}[{i}]"));
                let expected = format!("a group from 0 to {}, of which there are scales", groups - 1);
                self.fault(fault.expected(expected).found(numbers[i].to_string()));
                None
            }
        }
    }

    /// A recipe of parts of checked shapes.
    pub fn made(&mut self, weight: Result<Weight, WeightError>) -> Option<Weight> {
        match weight {
            Ok(weight) => Some(weight),
            Err(error) => {
                self.fault(Diagnostic::new(Code::InvalidGraph).message(error.to_string()));
                None
            }
        }
    }
}

/// What the number of groups of a row comes from.
pub(super) fn groups_in_words(inputs: usize, group: Option<usize>) -> String {
    match group {
        Some(size) => format!("in_features {inputs} / group_size {size}"),
        None => "one group a row, as group_size is −1 or missing".to_owned(),
    }
}

/// Whether two shapes are the same but for ones: scalars and columns are written in several ways.
pub(super) fn same_numbers(a: &[usize], b: &[usize]) -> bool {
    let without_ones = |shape: &[usize]| shape.iter().copied().filter(|size| *size != 1).collect::<Vec<_>>();
    without_ones(a) == without_ones(b)
}

/// The type and the shape of a part in recipes; nothing for types that no part has.
fn stored_as(dtype: &str, shape: &[usize]) -> Option<(DType, Vec<usize>)> {
    let dtype = match dtype {
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "U8" => DType::U8,
        "I8" => DType::I8,
        "F8_E4M3" => DType::F8E4M3,
        "I32" if shape.len() == 1 => DType::I32,
        "I32" => {
            let (last, others) = shape.split_last()?;
            return Some((DType::U8, [others, &[4 * last]].concat()));
        }
        _ => return None,
    };
    Some((dtype, shape.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_belong_to_weights() {
        let q = "model.layers.3.self_attn.q_proj.weight".to_owned();
        for (stored, part) in [
            ("model.layers.3.self_attn.q_proj.qweight", "qweight"),
            ("module.layers.3.self_attn.q_proj.g_idx", "g_idx"),
            ("model.layers.3.self_attn.q_proj.weight.absmax", "weight.absmax"),
            ("model.layers.3.self_attn.q_proj.weight_scale_inv", "weight_scale_inv"),
        ] {
            assert_eq!(split(stored), Some((q.clone(), part)), "{stored}");
        }
        assert_eq!(split("lm_head.scales"), Some(("lm_head.weight".to_owned(), "scales")));
        for stored in ["scales", "model.layers.0.x.scales", "model.layers.0.mlp.up_proj.weight", "a.qweight"]
        {
            assert_eq!(split(stored), None, "{stored}");
        }
    }
}
