//! AWQ (Lin et al., "AWQ: Activation-aware Weight Quantization"), as AutoAWQ stores it for its `gemm`
//! kernels.
//!
//! Codes and codes of zero are packed along the outputs, eight in a word in an order of their own. What
//! activations are scaled by is in the weights and norms before.

use llamac_ir::Weight;
use llamac_ir::weight::{Group, PackOrder, Packing, Zeros};

use super::parts::{Expected, FLOATS, Module, groups_in_words};

/// The names of parts.
pub(super) const PARTS: [&str; 3] = ["qweight", "qzeros", "scales"];

/// What the settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Inputs that share a scale; nothing where all do.
    pub group: Option<usize>,
}

/// Bits of a code.
pub(super) const BITS: usize = 4;

/// The weight of `module`.
pub(super) fn weight(module: &mut Module<'_>, settings: &Settings) -> Option<Weight> {
    let [outputs, inputs] = module.shape;
    let columns = settings.group.unwrap_or(inputs);
    if !module.has_whole_groups("scales", columns, false) {
        return None;
    }
    let groups = inputs / columns;
    let packed = |rows: usize| [rows, (outputs * BITS).div_ceil(32)];
    let (down, across) = (format!("in_features {inputs}"), format!("out_features {outputs}"));
    let of_groups = groups_in_words(inputs, settings.group);
    let codes = module.part(
        "qweight",
        &Expected {
            dtypes: &["I32"],
            shape: &packed(inputs),
            why: &format!("{down}, {across} × bits {BITS} / 32"),
        },
    );
    let zeros = module.part(
        "qzeros",
        &Expected {
            dtypes: &["I32"],
            shape: &packed(groups),
            why: &format!("{of_groups}, {across} × bits {BITS} / 32"),
        },
    );
    let scales = module.part(
        "scales",
        &Expected { dtypes: FLOATS, shape: &[groups, outputs], why: &format!("{of_groups}, {across}") },
    );
    let packing = Packing { bits: BITS, order: PackOrder::Awq, count: outputs, plus: 0 };
    let [codes, zeros] = [codes?, zeros?].map(|part| part.unpack(packing).and_then(|part| part.transpose()));
    let (codes, zeros, scales) =
        (module.made(codes)?, module.made(zeros)?, module.made(scales?.transpose())?);
    let weight = codes.dequantize_groups(&scales, Zeros::Each(zeros), Group { rows: 1, columns });
    module.made(weight)
}
