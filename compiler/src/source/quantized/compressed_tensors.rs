//! What the compressed-tensors library stores, for LLM Compressor, vLLM and others: integers in words,
//! integers in bytes, and eight-bit floating point.
//!
//! Modules may have settings of different groups. Which are a module's, its tensors tell.

use llamac_ir::Weight;
use llamac_ir::weight::{Group, PackOrder, Packing, Zeros};
use llamac_plan::diagnostic::{Code, Diagnostic};

use super::float8::scaled;
use super::parts::{Expected, FLOATS, Module, middle};

/// What a group of settings says of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub kind: Kind,
    pub sharing: Sharing,
    /// Whether zero is in the middle.
    pub symmetric: bool,
}

/// What numbers are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Integers of so many bits, packed in words.
    Packed(usize),
    /// Integers in bytes.
    Int8,
    /// Eight-bit floating point.
    Float8,
}

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
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
struct Scales {
    shape: Vec<usize>,
    group: Group,
    why: String,
}

impl Sharing {
    fn scales(self, [outputs, inputs]: [usize; 2]) -> Scales {
        let (shape, rows, columns, why) = match self {
            Self::Tensor => (vec![1], 1, outputs * inputs, "one for all, by the strategy tensor".to_owned()),
            Self::Channel => {
                (vec![outputs, 1], 1, inputs, format!("out_features {outputs}, by the strategy channel"))
            }
            Self::Group(size) => (
                vec![outputs, inputs.div_ceil(size)],
                1,
                size,
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
        let scales = self.sharing.scales(module.shape).shape.iter().product::<usize>();
        stored && shape("weight_scale").is_some_and(|shape| shape.iter().product::<usize>() == scales)
    }
}

/// The weight of `module`, by the first of `groups` that fits it.
pub(super) fn weight(module: &mut Module<'_>, groups: &[Settings]) -> Option<Weight> {
    let settings = groups.iter().find(|group| group.fit(module)).or(groups.first())?;
    check_shape(module);
    let Scales { shape, group, why } = settings.sharing.scales(module.shape);
    match settings.kind {
        Kind::Float8 => scaled(module, "weight_scale", &shape, group, &why),
        Kind::Int8 => {
            let [outputs, inputs] = module.shape;
            let codes = module.part(
                "weight",
                &Expected { dtypes: &["I8"], shape: &[outputs, inputs], why: "out_features, in_features" },
            );
            let scales = module.part("weight_scale", &Expected { dtypes: FLOATS, shape: &shape, why: &why });
            let zeros = match settings.symmetric {
                true => Some(Zeros::Same(0)),
                false => {
                    let expected = Expected { dtypes: &["I8"], shape: &shape, why: &why };
                    module.part("weight_zero_point", &expected).map(Zeros::Each)
                }
            };
            let weight = codes?.dequantize_groups(&scales?, zeros?, group);
            module.made(weight)
        }
        Kind::Packed(bits) => packed(module, bits, settings, &Scales { shape, group, why }),
    }
}

fn packed(module: &mut Module<'_>, bits: usize, settings: &Settings, of: &Scales) -> Option<Weight> {
    let [outputs, inputs] = module.shape;
    let Scales { shape, group, why } = of;
    let codes = module.part(
        "weight_packed",
        &Expected {
            dtypes: &["I32"],
            shape: &[outputs, (inputs * bits).div_ceil(32)],
            why: &format!("out_features {outputs}, in_features {inputs} × num_bits {bits} / 32"),
        },
    );
    let scales = module.part("weight_scale", &Expected { dtypes: FLOATS, shape, why });
    let zeros = match settings.symmetric {
        true => Some(middle(bits)),
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
    let order = column_order(module, shape.get(1).copied().unwrap_or(1), group.columns)?;
    let codes = codes?.unpack(Packing { bits, order: PackOrder::Low, count: inputs, plus: 0 });
    let (codes, mut scales, mut zeros, mut group) = (module.made(codes)?, scales?, zeros?, *group);
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
    // What was never set is −1 in all columns.
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
    let Some(bytes) = module.bytes("weight_shape") else { return };
    let sizes: Vec<i64> = bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
    let expected = module.shape.map(|size| size as i64);
    if sizes != expected {
        let fault = Diagnostic::new(Code::BadPackedWeight).at(module.place("weight_shape"));
        let expected = format!("{expected:?}  (out_features, in_features)");
        let found = format!("{:?}", &sizes[..sizes.len().min(8)]);
        module.fault(fault.expected(expected).found(found));
    }
}
