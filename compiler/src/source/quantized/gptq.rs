//! GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization"), as AutoGPTQ and GPTQModel store it.
//!
//! Codes are packed along the inputs and lie beside those of other outputs, so that they are read down and
//! transposed; codes of zero are packed along the outputs. The first format stores them less one. With
//! act-order a column's group is whatever `g_idx` says.

use llamac_ir::Weight;
use llamac_ir::weight::{Group, PackOrder, Packing, Zeros};

use super::parts::{Expected, FLOATS, Module, groups_in_words};

/// The names of parts.
pub(super) const PARTS: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];

/// What the settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Bits of a code: 2, 3, 4 or 8.
    pub bits: usize,
    /// Inputs that share a scale; nothing where all do.
    pub group: Option<usize>,
    /// Whether zeros are stored less one.
    pub first_format: bool,
    /// Whether groups are of columns in another order, which `g_idx` has to say.
    pub act_order: bool,
    /// Whether modules may have settings of their own, which their sizes tell.
    pub may_differ: bool,
}

/// Bits that codes may have.
pub(super) const BITS: [usize; 4] = [2, 3, 4, 8];

impl Settings {
    /// The settings of `module`.
    fn of(self, module: &Module<'_>) -> Self {
        let rows = |part: &str| module.stored(part).and_then(|part| part.stored.shape.first().copied());
        if !self.may_differ {
            return self;
        }
        let inputs = module.shape[1];
        let of_bits = |bits: &usize| rows("qweight") == Some((inputs * bits).div_ceil(32));
        Self {
            bits: BITS.into_iter().find(of_bits).unwrap_or(self.bits),
            group: match rows("scales") {
                Some(1) => None,
                Some(groups) if groups > 0 && inputs.is_multiple_of(groups) => Some(inputs / groups),
                _ => self.group,
            },
            ..self
        }
    }
}

/// The weight of `module`.
pub(super) fn weight(module: &mut Module<'_>, settings: &Settings) -> Option<Weight> {
    let Settings { bits, group, first_format, act_order, .. } = settings.of(module);
    let [outputs, inputs] = module.shape;
    let of_groups = groups_in_words(inputs, group);
    let group = group.unwrap_or(inputs);
    let groups = inputs.div_ceil(group);
    let words = |count: usize| (count * bits).div_ceil(32);
    let codes = module.part(
        "qweight",
        &Expected {
            dtypes: &["I32"],
            shape: &[words(inputs), outputs],
            why: &format!("in_features {inputs} × bits {bits} / 32, out_features {outputs}"),
        },
    );
    let zeros = module.part(
        "qzeros",
        &Expected {
            dtypes: &["I32"],
            shape: &[groups, words(outputs)],
            why: &format!("{of_groups}, out_features {outputs} × bits {bits} / 32"),
        },
    );
    let scales = module.part(
        "scales",
        &Expected {
            dtypes: FLOATS,
            shape: &[groups, outputs],
            why: &format!("{of_groups}, out_features {outputs}"),
        },
    );
    let (codes, zeros, scales) = (codes?, zeros?, scales?);
    let order = match module.stored("g_idx") {
        Some(_) => Some(module.groups_of_columns("g_idx", groups)?),
        None if act_order && groups > 1 => {
            module.missing("g_idx", format!("[{inputs}]  (in_features {inputs}, by desc_act)"));
            return None;
        }
        None if !module.has_whole_groups("scales", group, true) => return None,
        None => None,
    };
    let plus = u8::from(first_format);
    let codes = codes.unpack(Packing { bits, order: PackOrder::Down, count: inputs, plus: 0 });
    let zeros = zeros.unpack(Packing { bits, order: PackOrder::Low, count: outputs, plus });
    let [codes, zeros, scales] =
        [module.made(codes)?, module.made(zeros)?, scales].map(|part| part.transpose());
    let (codes, zeros, scales) = (module.made(codes)?, module.made(zeros)?, module.made(scales)?);
    let in_order = order.is_none_or(|order| order.iter().enumerate().all(|(k, j)| *j == (k / group) as i64));
    let (zeros, scales, columns) = match in_order {
        true => (zeros, scales, group),
        false => {
            let index =
                module.part("g_idx", &Expected { dtypes: &["I32"], shape: &[inputs], why: "in_features" })?;
            let [zeros, scales] = [zeros, scales].map(|part| part.gather_columns(&index));
            (module.made(zeros)?, module.made(scales)?, 1)
        }
    };
    let weight = codes.dequantize_groups(&scales, Zeros::Each(zeros), Group { rows: 1, columns });
    module.made(weight)
}
