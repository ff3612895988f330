//! What the compressed-tensors library stores, for LLM Compressor, vLLM and others: integers in words,
//! integers in bytes, and eight-bit floating point.
//!
//! Modules may have settings of different groups. Which are a module's, its tensors tell.

mod settings;

use llamac_ir::Weight;
use llamac_ir::weight::{Group, PackOrder, Packing, Zeros};
use llamac_plan::diagnostic::{Code, Diagnostic};

pub(super) use self::settings::{Kind, Settings, Sharing};
use self::settings::{Scales, choose};
use super::float8::scaled;
use super::parts::{Expected, FLOATS, Module};

/// The names of parts.
pub(super) const PARTS: [&str; 5] =
    ["weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"];

/// The weight of `module`, by the one of `groups` that fits it.
pub(super) fn weight(module: &mut Module<'_>, groups: &[Settings]) -> Option<Weight> {
    let settings = choose(module, groups)?;
    check_shape(module);
    if settings.is_symmetric() && settings.has_other_zeros(module) {
        let fault = Diagnostic::new(Code::BadPackedWeight).at(module.place("weight_zero_point"));
        let fault = fault.expected("zeros in the middle, as config_groups say that the weight is symmetric");
        module.fault(fault.found("others"));
        return None;
    }
    if let Sharing::Group(size) = settings.sharing
        && !module.has_whole_groups("weight_scale", size, true)
    {
        return None;
    }
    let scales = settings.sharing.scales(module.shape);
    match settings.kind {
        Kind::Float8 => scaled(module, "weight_scale", &scales.shape, scales.group, &scales.why),
        Kind::Int8 => int8(module, settings, &scales),
        Kind::Packed(bits) => packed(module, bits, settings, &scales),
    }
}

fn int8(module: &mut Module<'_>, settings: &Settings, of: &Scales) -> Option<Weight> {
    let [outputs, inputs] = module.shape;
    let codes = module.part(
        "weight",
        &Expected { dtypes: &["I8"], shape: &[outputs, inputs], why: "out_features, in_features" },
    );
    let Scales { shape, why, .. } = of;
    let zeros = match settings.symmetric {
        true => Some(Zeros::Same(0)),
        false => {
            let part = module.part("weight_zero_point", &Expected { dtypes: &["I8"], shape, why });
            part.map(Zeros::Each)
        }
    };
    grouped(module, settings, codes, zeros, of)
}

fn packed(module: &mut Module<'_>, bits: usize, settings: &Settings, of: &Scales) -> Option<Weight> {
    let [outputs, inputs] = module.shape;
    let Scales { shape, why, .. } = of;
    let codes = module.part(
        "weight_packed",
        &Expected {
            dtypes: &["I32"],
            shape: &[outputs, (inputs * bits).div_ceil(32)],
            why: &format!("out_features {outputs}, in_features {inputs} × num_bits {bits} / 32"),
        },
    );
    let packing = Packing { bits, order: PackOrder::Low, count: inputs, plus: 0 };
    let codes = codes.and_then(|codes| module.made(codes.unpack(packing)));
    let zeros = match settings.symmetric {
        true => Some(Zeros::Same(1 << (bits - 1))),
        false => {
            let (down, across) = (shape[0], shape.get(1).copied().unwrap_or(1));
            let part = module.part(
                "weight_zero_point",
                &Expected {
                    dtypes: &["I32"],
                    shape: &[(down * bits).div_ceil(32), across],
                    why: &format!("num_bits {bits} / 32 of {why}"),
                },
            );
            let packing = Packing { bits, order: PackOrder::Down, count: down, plus: 0 };
            part.and_then(|part| module.made(part.unpack(packing))).map(Zeros::Each)
        }
    };
    grouped(module, settings, codes, zeros, of)
}

/// The weight of codes and zeros, with the scales `of` the module and the order of its columns.
fn grouped(
    module: &mut Module<'_>,
    settings: &Settings,
    codes: Option<Weight>,
    zeros: Option<Zeros>,
    of: &Scales,
) -> Option<Weight> {
    let Scales { shape, group, why } = of;
    let (groups, inputs) = (shape.get(1).copied().unwrap_or(1), module.shape[1]);
    let scales = module.part("weight_scale", &Expected { dtypes: FLOATS, shape, why });
    if settings.act_order && groups > 1 && module.stored("weight_g_idx").is_none() {
        module.missing("weight_g_idx", format!("[{inputs}]  (in_features {inputs}, by actorder)"));
        return None;
    }
    let order = column_order(module, groups, group.columns)?;
    let (codes, mut scales, mut zeros, mut group) = (codes?, scales?, zeros?, *group);
    if let Some(index) = order {
        let gathered = scales.gather_columns(&index);
        scales = module.made(gathered)?;
        if let Zeros::Each(part) = &zeros {
            let gathered = part.gather_columns(&index);
            zeros = Zeros::Each(module.made(gathered)?);
        }
        group = Group { rows: 1, columns: 1 };
    }
    let weight = codes.dequantize_groups(&scales, zeros, group);
    module.made(weight)
}

/// The groups of columns where they are in another order than that of the columns; nothing where that is
/// wrong.
#[expect(clippy::option_option, reason = "wrong, not given, given")]
fn column_order(module: &mut Module<'_>, groups: usize, size: usize) -> Option<Option<Weight>> {
    // What was never set is −1 in all columns, which are then in order, whatever `actorder` says.
    let unset = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0xFF);
    if module.bytes("weight_g_idx").is_none_or(unset) {
        return Some(None);
    }
    let numbers = module.groups_of_columns("weight_g_idx", groups)?;
    if numbers.iter().enumerate().all(|(k, j)| *j == (k / size) as i64) {
        return Some(None);
    }
    let shape = [module.shape[1]];
    module.part("weight_g_idx", &Expected { dtypes: &["I32"], shape: &shape, why: "in_features" }).map(Some)
}

/// Compares what the files say of the shape with that of the model.
fn check_shape(module: &mut Module<'_>) {
    let Some(part) = module.stored("weight_shape") else { return };
    let bytes = module.bytes("weight_shape").unwrap_or_default();
    let sizes: Vec<i64> = match part.stored.dtype.name {
        "I64" => bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        "I32" => bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
        other => {
            let fault = Diagnostic::new(Code::WrongDtype).at(module.place("weight_shape"));
            module.fault(fault.expected("I64 or I32").found(other));
            return;
        }
    };
    let expected = module.shape.map(|size| size as i64);
    if sizes != expected {
        let fault = Diagnostic::new(Code::BadPackedWeight).at(module.place("weight_shape"));
        let expected = format!("{expected:?}  (out_features, in_features)");
        let found = format!("{:?}", &sizes[..sizes.len().min(8)]);
        module.fault(fault.expected(expected).found(found));
    }
}
