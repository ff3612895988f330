//! What quantized weights are stored as, in a few words.

use llamac_ir::weight::{Group, PackOrder, Packing, Zeros};
use llamac_ir::{DType, Weight, WeightExpr};

/// The format of `codes`, a recipe that makes numbers of stored codes ([`Weight::stored_codes`]): `q4_k`, or
/// `4 bits in groups of 128, with zeros`.
pub fn stored_format(codes: &Weight) -> String {
    match codes.expr() {
        WeightExpr::Dequantize { format, .. } => format.to_string(),
        WeightExpr::DequantizeGroups { codes, scales, zeros, group } => {
            let zeros = if matches!(zeros, Zeros::Each(_)) { ", with zeros" } else { "" };
            format!("{} {}{zeros}", numbers(codes), sharing(codes, scales, *group))
        }
        _ => codes.to_string(),
    }
}

fn numbers(codes: &Weight) -> String {
    match codes.expr() {
        WeightExpr::Unpack { packing: Packing { bits, order, .. }, .. } => match order {
            PackOrder::Awq => format!("{bits} bits (AWQ)"),
            _ => format!("{bits} bits"),
        },
        WeightExpr::Transpose { base } => numbers(base),
        WeightExpr::Lookup { codes, .. } => format!("{} of a table", numbers(codes)),
        _ if codes.dtype() == DType::I8 => "8 bits".to_owned(),
        _ => codes.dtype().to_string(),
    }
}

fn sharing(codes: &Weight, scales: &Weight, group: Group) -> String {
    let width = codes.shape().last().copied().unwrap_or(1);
    match group {
        _ if matches!(scales.expr(), WeightExpr::GatherColumns { .. }) => {
            "in groups of its own order".to_owned()
        }
        _ if scales.elements() == 1 => "with one scale".to_owned(),
        Group { rows, columns } if rows > 1 => format!("in blocks of {rows} × {columns}"),
        Group { columns, .. } if columns == width || scales.shape().len() == 2 && columns > width => {
            "with a scale a row".to_owned()
        }
        Group { columns, .. } => format!("in groups of {columns}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_in_words() {
        let source = |name: &str, dtype, shape: &[usize]| Weight::source(name, dtype, shape).unwrap();
        let packing = Packing { bits: 4, order: PackOrder::Down, count: 64, plus: 0 };
        let codes = source("q", DType::U8, &[8, 96]).unpack(packing).unwrap().transpose().unwrap();
        let of = |scales: &[usize], columns| {
            let scales = source("s", DType::F16, scales);
            codes.dequantize_groups(&scales, Zeros::Same(8), Group { rows: 1, columns }).unwrap()
        };
        assert_eq!(stored_format(&of(&[24, 2], 32)), "4 bits in groups of 32");
        assert_eq!(stored_format(&of(&[24, 1], 64)), "4 bits with a scale a row");
        assert_eq!(stored_format(&of(&[24], 64)), "4 bits with a scale a row");
        assert_eq!(stored_format(&of(&[1], 24 * 64)), "4 bits with one scale");
        let (scales, index) = (source("s", DType::F32, &[24, 2]), source("g", DType::I32, &[64]));
        let zeros = Zeros::Each(source("z", DType::U8, &[24, 2]).gather_columns(&index).unwrap());
        let scales = scales.gather_columns(&index).unwrap();
        let mixed = codes.dequantize_groups(&scales, zeros, Group { rows: 1, columns: 1 }).unwrap();
        assert_eq!(stored_format(&mixed), "4 bits in groups of its own order, with zeros");
        let float8 = source("f", DType::F8E4M3, &[200, 130]);
        let scales = source("s", DType::F32, &[2, 2]);
        let blocks = float8.dequantize_groups(&scales, Zeros::Same(0), Group { rows: 128, columns: 128 });
        assert_eq!(stored_format(&blocks.unwrap()), "f8_e4m3 in blocks of 128 × 128");
    }
}
