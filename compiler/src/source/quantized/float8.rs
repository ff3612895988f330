//! Weights in eight-bit floating point: fine-grained, as DeepSeek's and transformers' `fp8`, and with a scale
//! for each row, as FBGEMM's. Scales multiply, also those that are called inverse.

use llamac_ir::Weight;
use llamac_ir::weight::{Group, Zeros};

use super::parts::{Expected, FLOATS, Module};

/// The names of parts of fine-grained weights.
pub(super) const FINE_GRAINED_PARTS: [&str; 1] = ["weight_scale_inv"];

/// The names of parts of weights with a scale for each row.
pub(super) const BY_ROW_PARTS: [&str; 1] = ["weight_scale"];

/// The weight of `module`, with a scale for each block of this many rows and columns, or one for all.
pub(super) fn fine_grained(module: &mut Module<'_>, block: Option<[usize; 2]>) -> Option<Weight> {
    let [outputs, inputs] = module.shape;
    let (shape, group, why) = match block {
        Some([rows, columns]) => (
            vec![outputs.div_ceil(rows), inputs.div_ceil(columns)],
            Group { rows, columns },
            format!(
                "out_features {outputs} / {rows}, in_features {inputs} / {columns}, by weight_block_size"
            ),
        ),
        None => (vec![1], Group { rows: 1, columns: outputs * inputs }, "one for all".to_owned()),
    };
    scaled(module, "weight_scale_inv", &shape, group, &why)
}

/// The weight of `module`, with a scale for each row.
pub(super) fn by_row(module: &mut Module<'_>) -> Option<Weight> {
    let [outputs, inputs] = module.shape;
    let why = format!("out_features {outputs}");
    scaled(module, "weight_scale", &[outputs, 1], Group { rows: 1, columns: inputs }, &why)
}

/// The weight of `module`, with scales of `shape` in the part `scales`.
pub(super) fn scaled(
    module: &mut Module<'_>,
    scales: &'static str,
    shape: &[usize],
    group: Group,
    why: &str,
) -> Option<Weight> {
    let [outputs, inputs] = module.shape;
    let codes = module.part(
        "weight",
        &Expected { dtypes: &["F8_E4M3"], shape: &[outputs, inputs], why: "out_features, in_features" },
    );
    let scales = module.part(scales, &Expected { dtypes: FLOATS, shape, why });
    let weight = codes?.dequantize_groups(&scales?, Zeros::Same(0), group);
    module.made(weight)
}
