//! bitsandbytes: eight bits with a scale for each row (Dettmers et al., "LLM.int8()"), and four that name one
//! of sixteen numbers, with a scale for each block of numbers that follow each other (Dettmers et al.,
//! "QLoRA").
//!
//! Which of both a weight has, its type tells. Scales may be quantized themselves: numbers of eight bits,
//! with scales for blocks of them and an offset.

use std::ops::RangeInclusive;

use llamac_ir::weight::{Group, PackOrder, Packing, Zeros};
use llamac_ir::{Real, Weight};
use llamac_plan::diagnostic::{Code, Diagnostic};

use super::super::json::{self, Fields, Given};
use super::parts::{Expected, Module};

/// The names of parts.
pub(super) const PARTS: [&str; 8] = [
    "SCB",
    "weight_format",
    "weight.absmax",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    STATES[0],
    STATES[1],
];

/// The weight of `module`.
pub(super) fn weight(module: &mut Module<'_>) -> Option<Weight> {
    match module.stored("weight").map(|weight| weight.stored.dtype.name) {
        Some("U8") => four_bits(module),
        _ => eight_bits(module),
    }
}

/// One over the largest code, in single precision, as bitsandbytes multiplies by it.
const PER_CODE: f64 = 7.874_015_718_698_502e-3;

fn eight_bits(module: &mut Module<'_>) -> Option<Weight> {
    let [outputs, inputs] = module.shape;
    if let Some([layout]) = module.bytes("weight_format").filter(|bytes| *bytes != [0]) {
        let fault = Diagnostic::new(Code::UnsupportedConfig).at(module.place("weight_format"));
        module.fault(fault.expected("0, rows one after the other").found(layout.to_string()));
    }
    let codes = module.part(
        "weight",
        &Expected { dtypes: &["I8"], shape: &[outputs, inputs], why: "out_features, in_features" },
    );
    let scales = module.part(
        "SCB",
        &Expected { dtypes: &["F32"], shape: &[outputs], why: &format!("out_features {outputs}") },
    );
    let group = Group { rows: 1, columns: inputs };
    let weight = codes?.dequantize_groups(&scales?, Zeros::Same(0), group);
    let weight = weight.and_then(|weight| weight.scale(Real::new(PER_CODE)));
    module.made(weight)
}

/// Parts with the description of a weight of four bits.
const STATES: [&str; 2] = ["weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4"];

/// Bytes of a description, which has some two hundred.
const MAX_STATE: usize = 1 << 14;

/// Numbers of a block.
const BLOCKS: RangeInclusive<u64> = 1..=1 << 20;

/// What the description says.
struct State {
    block: usize,
    /// Of scales that are quantized: numbers of a block, and the offset.
    nested: Option<(usize, f64)>,
}

fn four_bits(module: &mut Module<'_>) -> Option<Weight> {
    let [outputs, inputs] = module.shape;
    let numbers = outputs * inputs;
    if !inputs.is_multiple_of(2) {
        let fault = Diagnostic::new(Code::UnsupportedConfig).at(module.place("weight"));
        module.fault(fault.expected("rows of an even number of four-bit codes").found(inputs.to_string()));
    }
    let packed = module.part_of_shape(
        "weight",
        &Expected {
            dtypes: &["U8"],
            shape: &[numbers / 2, 1],
            why: &format!("out_features {outputs} × in_features {inputs} / 2"),
        },
        &[outputs, inputs / 2],
    );
    let table = module.part(
        "weight.quant_map",
        &Expected { dtypes: &["F32"], shape: &[16], why: "a number for each code" },
    );
    let State { block, nested } = state(module)?;
    let has_bytes = module.stored("weight.absmax").is_some_and(|absmax| absmax.stored.dtype.name == "U8");
    if nested.is_none() && has_bytes {
        module.missing("weight.nested_absmax", "scales of weight.absmax, which is in bytes".to_owned());
        return None;
    }
    let blocks = numbers.div_ceil(block);
    let why = format!("{outputs} × {inputs} numbers / blocksize {block}");
    let dtypes: &[&str] = if nested.is_some() { &["U8"] } else { &["F32"] };
    let absmax = module.part("weight.absmax", &Expected { dtypes, shape: &[blocks], why: &why });
    let scales = match nested {
        None => absmax?,
        Some((size, offset)) => {
            let outer = module.part(
                "weight.nested_absmax",
                &Expected {
                    dtypes: &["F32"],
                    shape: &[blocks.div_ceil(size)],
                    why: &format!("{blocks} scales / nested_blocksize {size}"),
                },
            );
            let map = module.part(
                "weight.nested_quant_map",
                &Expected { dtypes: &["F32"], shape: &[256], why: "a number for each code" },
            );
            let group = Group { rows: 1, columns: size };
            let outer = outer?;
            let scales = absmax?.lookup(&map?).and_then(|numbers| {
                numbers.dequantize_groups(&outer, Zeros::Same(0), group)?.offset(Real::new(offset))
            });
            module.made(scales)?
        }
    };
    let packing = Packing { bits: 4, order: PackOrder::High, count: inputs, plus: 0 };
    let group = Group { rows: 1, columns: block };
    let table = table?;
    let weight = packed?
        .unpack(packing)
        .and_then(|codes| codes.lookup(&table)?.dequantize_groups(&scales, Zeros::Same(0), group));
    module.made(weight)
}

/// The description of `module`; a fault, and nothing, where it is missing or wrong.
fn state(module: &mut Module<'_>) -> Option<State> {
    let part = STATES.into_iter().find(|part| module.stored(part).is_some()).unwrap_or(STATES[0]);
    let place = module.place(part);
    let Some(bytes) = module.bytes(part) else {
        module.missing(part, "the description of the quantized weight".to_owned());
        return None;
    };
    let map = match json::object(&place, &bytes[..bytes.len().min(MAX_STATE)]) {
        Ok(map) => map,
        Err(fault) => {
            module.fault(fault);
            return None;
        }
    };
    let mut fields = Fields::new(&place, &map);
    let block = fields.integer("blocksize", BLOCKS, 64);
    let nested = module.stored("weight.nested_absmax").map(|_| {
        let size = fields.integer("nested_blocksize", BLOCKS, 256);
        let offset = fields.maybe_number("nested_offset", "a number", |_| true).map(Given::value);
        if offset == Some(None) {
            fields.fault(Code::MissingConfigKey, "nested_offset", |d| {
                d.message("scales that are quantized have an offset")
            });
        }
        Some((size? as usize, offset??))
    });
    let shape = fields.maybe_list("shape", "a list of sizes", |size| size.as_u64());
    let [outputs, inputs] = module.shape.map(|size| size as u64);
    if let Some(Given::Value(shape)) = shape
        && shape != [outputs, inputs]
    {
        fields.fault(Code::BadPackedWeight, "shape", |d| {
            d.expected(format!("[{outputs}, {inputs}]  (out_features, in_features)"))
                .found(format!("{:?}", &shape[..shape.len().min(8)]))
        });
    }
    let faults = fields.faults;
    let fine = faults.is_empty();
    faults.iter().for_each(|fault| module.fault(fault.clone()));
    let block = block? as usize;
    match nested {
        _ if !fine => None,
        Some(nested) => Some(State { block, nested: Some(nested?) }),
        None => Some(State { block, nested: None }),
    }
}
