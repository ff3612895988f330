//! What `config_groups` say of weights, and which of them a module's tensors are of.

use llamac_ir::weight::Group;
use llamac_plan::diagnostic::{Code, Diagnostic};

use super::super::parts::{Module, same_numbers};
use super::PARTS;

/// What a group of settings says of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Settings {
    pub kind: Kind,
    pub sharing: Sharing,
    /// Whether zero is in the middle.
    pub symmetric: bool,
    /// Whether groups are of columns in another order, which an index has to say.
    pub act_order: bool,
}

/// What numbers are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    /// Integers of so many bits, packed in words.
    Packed(usize),
    /// Integers in bytes.
    Int8,
    /// Eight-bit floating point.
    Float8,
}

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Sharing {
    /// All of a weight.
    Tensor,
    /// A row.
    Channel,
    /// So many columns of a row.
    Group(usize),
    /// So many rows and columns.
    Block([usize; 2]),
}

/// Scales of a module: their shape, what shares one, and where the sizes come from.
pub(super) struct Scales {
    pub shape: Vec<usize>,
    pub group: Group,
    pub why: String,
}

impl Sharing {
    pub(super) fn scales(self, [outputs, inputs]: [usize; 2]) -> Scales {
        let (shape, rows, columns, why) = match self {
            Self::Tensor => (vec![1], 1, outputs * inputs, "one for all, by the strategy tensor".to_owned()),
            Self::Channel => {
                (vec![outputs, 1], 1, inputs, format!("out_features {outputs}, by the strategy channel"))
            }
            Self::Group(size) => (
                vec![outputs, inputs.div_ceil(size)],
                1,
                size.min(inputs),
                format!("out_features {outputs}, in_features {inputs} / group_size {size}"),
            ),
            Self::Block([rows, columns]) => (
                vec![outputs.div_ceil(rows), inputs.div_ceil(columns)],
                rows,
                columns,
                format!(
                    "out_features {outputs} / {rows}, in_features {inputs} / {columns}, by block_structure"
                ),
            ),
        };
        Scales { shape, group: Group { rows, columns }, why }
    }
}

impl Settings {
    /// Whether the tensors of `module` are of these settings.
    fn fit(&self, module: &Module<'_>) -> bool {
        let shape = |part: &str| module.stored(part).map(|part| &part.stored.shape[..]);
        let [outputs, inputs] = module.shape;
        let dtype = module.stored("weight").map(|weight| weight.stored.dtype.name);
        let stored = match self.kind {
            Kind::Packed(bits) => {
                shape("weight_packed").is_some_and(|shape| *shape == [outputs, (inputs * bits).div_ceil(32)])
            }
            Kind::Int8 => dtype == Some("I8"),
            Kind::Float8 => dtype == Some("F8_E4M3"),
        };
        let whole = match self.sharing {
            Sharing::Group(size) => inputs.is_multiple_of(size) || inputs < size,
            _ => true,
        };
        let scales = self.sharing.scales(module.shape).shape;
        let has_zeros = shape("weight_zero_point").is_some();
        let has_index = shape("weight_g_idx").is_some();
        stored
            && whole
            && shape("weight_scale").is_some_and(|shape| same_numbers(shape, &scales))
            && if self.is_symmetric() { !self.has_other_zeros(module) } else { has_zeros }
            && (has_index || !self.act_order)
    }

    /// Whether zero is in the middle: of floating-point numbers it is.
    pub(super) fn is_symmetric(&self) -> bool {
        self.symmetric || self.kind == Kind::Float8
    }

    /// Whether `module` has codes of zero that are not in the middle.
    pub(super) fn has_other_zeros(&self, module: &Module<'_>) -> bool {
        let Some(bytes) = module.bytes("weight_zero_point") else { return false };
        let scales = self.sharing.scales(module.shape).shape;
        let (count, across) = (scales[0], scales.get(1).copied().unwrap_or(1));
        let dtype = module.stored("weight_zero_point").map(|part| part.stored.dtype.name);
        match self.kind {
            Kind::Packed(bits) if dtype == Some("I32") => !in_the_middle(bytes, bits, count, across),
            _ => bytes.iter().any(|byte| *byte != 0),
        }
    }

    /// The settings in words, for messages.
    fn words(&self) -> String {
        let kind = match self.kind {
            Kind::Packed(bits) => format!("{bits} bits in words"),
            Kind::Int8 => "8 bits".to_owned(),
            Kind::Float8 => "F8_E4M3".to_owned(),
        };
        let sharing = match self.sharing {
            Sharing::Tensor => "with one scale".to_owned(),
            Sharing::Channel => "with a scale a row".to_owned(),
            Sharing::Group(size) => format!("in groups of {size}"),
            Sharing::Block([rows, columns]) => format!("in blocks of {rows} × {columns}"),
        };
        let zeros = if self.is_symmetric() { "" } else { ", with zeros" };
        format!("{kind} {sharing}{zeros}")
    }
}

/// Whether the first `count` codes of each of `across` columns, packed down, are in the middle.
fn in_the_middle(bytes: &[u8], bits: usize, count: usize, across: usize) -> bool {
    let in_word = 32 / bits;
    let middle = (0..in_word).fold(0u32, |word, i| word | 1 << (bits * i + bits - 1));
    bytes.as_chunks().0.iter().enumerate().all(|(i, word)| {
        let codes = in_word.min(count.saturating_sub(i / across * in_word));
        let unused = u32::MAX.checked_shl((bits * codes) as u32).unwrap_or(0);
        (u32::from_le_bytes(*word) ^ middle) & !unused == 0
    })
}

/// The one of `groups` that the tensors of `module` are of; a fault, and nothing, where none is, or several
/// that do not mean the same.
pub(super) fn choose<'a>(module: &mut Module<'_>, groups: &'a [Settings]) -> Option<&'a Settings> {
    if let [] | [_] = groups {
        return groups.first();
    }
    let mut fitting = groups.iter().filter(|group| group.fit(module));
    let found = fitting.next();
    let scales = |group: &Settings| group.sharing.scales(module.shape).group;
    let other = found.and_then(|found| fitting.find(|other| scales(other) != scales(found)));
    if found.is_none() || other.is_some() {
        let part = PARTS.into_iter().find(|part| module.stored(part).is_some()).unwrap_or("weight");
        let fault = Diagnostic::new(Code::BadPackedWeight).at(module.place(part));
        let words: Vec<String> = groups.iter().map(Settings::words).collect();
        let fault = fault.expected(format!("parts of one of the config_groups: {}", words.join("; ")));
        let found = match other {
            Some(_) => "parts that go with several of them".to_owned(),
            None => module.parts_in_words(&PARTS),
        };
        module.fault(fault.found(found));
        return None;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_in_the_middle() {
        // Nine codes down in two columns: eight in the first words, one in the second.
        let bytes = |words: [u32; 4]| words.map(u32::to_le_bytes).concat();
        assert!(in_the_middle(&bytes([0x8888_8888, 0x8888_8888, 8, 0x1238]), 4, 9, 2));
        assert!(!in_the_middle(&bytes([0x8888_8888, 0x8888_7888, 8, 8]), 4, 9, 2));
        assert!(!in_the_middle(&bytes([0x8888_8888, 0x8888_8888, 8, 7]), 4, 9, 2));
        assert!(in_the_middle(&bytes([0xAAAA_AAAA; 4]), 2, 32, 2));
    }
}
