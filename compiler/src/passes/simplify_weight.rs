//! Simpler recipes of the same values.
//!
//! Every case is exact: rows move or stay, and no number is computed. Recipes that compute (low-rank sums) are left as
//! they are but for what they are made of.
//!
//! Quantization goes to the root, so that whoever packs a matrix finds it there: the rows of a quantized matrix are the
//! quantized rows of the matrix, for blocks lie within rows. A transposition is not like that and stays outside.

use llamac_ir::{DType, Permutation, Scheme, Weight, WeightExpr};

/// The simplest recipe of the same values that the rules below lead to; `weight` itself if none applies.
pub(super) fn simplify(weight: &Weight) -> Weight {
    let inner = |weight: &Weight| simplify(weight);
    let simpler = match weight.expr() {
        WeightExpr::Source { .. } | WeightExpr::InvFreq { .. } | WeightExpr::Literal { .. } => None,
        WeightExpr::Concat { parts } => concat(parts.iter().map(inner).collect()),
        WeightExpr::ConcatColumns { parts } => Weight::concat_columns(parts.iter().map(inner)).ok(),
        WeightExpr::Slice { base, start, rows } => slice(&inner(base), *start, *rows),
        WeightExpr::ReplaceRows { base, new, rows, by } => {
            let (base, new, rows, by) = (inner(base), inner(new), rows.clone(), by.clone());
            Weight::new(WeightExpr::ReplaceRows { base, new, rows, by }).ok()
        }
        WeightExpr::Permute { base, order } => permute(&inner(base), *order),
        WeightExpr::Transpose { base } => transpose(&inner(base)),
        WeightExpr::Convert { base, dtype } => inner(base).convert(*dtype).ok(),
        WeightExpr::Quantize { base, scheme } => inner(base).quantize(*scheme).ok(),
        WeightExpr::QuantizedPart { of, part } => inner(of).quantized_part(*part).ok(),
        WeightExpr::PackNibbles { base } => inner(base).pack_nibbles().ok(),
        WeightExpr::Sum { parts } => Weight::sum(parts.iter().map(inner)).ok(),
        WeightExpr::Scale { base, factor } => inner(base).scale(*factor).ok(),
        WeightExpr::SetRowNorms { base, norms } => inner(base).set_row_norms(&inner(norms)).ok(),
        WeightExpr::Dequantize { base, format } => inner(base).dequantize(*format).ok(),
        // A recipe of the source's, which is simple.
        WeightExpr::DequantizeGroups { .. }
        | WeightExpr::Unpack { .. }
        | WeightExpr::Lookup { .. }
        | WeightExpr::GatherColumns { .. } => None,
        WeightExpr::Offset { base, term } => inner(base).offset(*term).ok(),
        WeightExpr::AddLowRank { base, a, b, scale } => {
            inner(base).add_low_rank(&inner(a), &inner(b), *scale).ok()
        }
    };
    // A recipe that has no type cannot come from one that has; if it did, the original stands.
    simpler.filter(|simpler| simpler.ty() == weight.ty()).unwrap_or_else(|| weight.clone())
}

/// Nested concatenations become one, neighbouring slices of one weight one slice, and one part itself.
fn concat(parts: Vec<Weight>) -> Option<Weight> {
    let mut flat: Vec<Weight> = Vec::with_capacity(parts.len());
    for part in parts {
        match part.expr() {
            WeightExpr::Concat { parts } => parts.iter().for_each(|part| push(&mut flat, part.clone())),
            _ => push(&mut flat, part),
        }
    }
    let bases: Vec<Weight> = flat.iter().filter_map(quantized).map(|(base, _)| base.clone()).collect();
    match quantized(flat.first()?) {
        Some((_, scheme)) if flat.iter().all(|part| part.scheme() == Some(scheme)) => {
            concat(one_type(bases)?)?.quantize(scheme).ok()
        }
        _ => Weight::concat(flat).ok(),
    }
}

/// What is quantized, and how.
fn quantized(weight: &Weight) -> Option<(&Weight, Scheme)> {
    match weight.expr() {
        WeightExpr::Quantize { base, scheme } => Some((base, *scheme)),
        _ => None,
    }
}

/// The same numbers in one element type, which is f32 where they have several.
fn one_type(parts: Vec<Weight>) -> Option<Vec<Weight>> {
    match parts.iter().all(|part| part.dtype() == parts[0].dtype()) {
        true => Some(parts),
        false => parts.iter().map(|part| part.convert(DType::F32).ok()).collect(),
    }
}

fn push(flat: &mut Vec<Weight>, next: Weight) {
    if let Some(joined) = flat.last().and_then(|last| adjacent(last, &next)) {
        flat.pop();
        flat.push(joined);
    } else {
        flat.push(next);
    }
}

/// One slice for two where the second begins at the end of the first.
fn adjacent(first: &Weight, second: &Weight) -> Option<Weight> {
    match (first.expr(), second.expr()) {
        (
            WeightExpr::Slice { base, start, rows },
            WeightExpr::Slice { base: other, start: next, rows: more },
        ) if base == other && start + rows == *next => slice(base, *start, rows + more),
        _ => None,
    }
}

/// A slice of everything is the whole, a slice of a slice one slice, and a slice of a concatenation the parts that it
/// meets.
fn slice(base: &Weight, start: usize, rows: usize) -> Option<Weight> {
    if start == 0 && base.shape().first() == Some(&rows) {
        return Some(base.clone());
    }
    match base.expr() {
        WeightExpr::Slice { base, start: outer, .. } => slice(base, outer + start, rows),
        WeightExpr::Concat { parts } if rows > 0 => {
            let (mut met, mut at, end) = (Vec::new(), 0, start + rows);
            for part in parts {
                let length = part.shape()[0];
                let (from, to) = (start.max(at), end.min(at + length));
                if from < to {
                    met.push(slice(part, from - at, to - from)?);
                }
                at += length;
            }
            concat(met)
        }
        WeightExpr::Quantize { base, scheme } => slice(base, start, rows)?.quantize(*scheme).ok(),
        _ => base.slice(start, rows).ok(),
    }
}

/// Orders that leave every row in its place vanish, and so do an order and its inverse.
fn permute(base: &Weight, order: Permutation) -> Option<Weight> {
    let (Permutation::InterleavedToHalf { head_dim, .. } | Permutation::HalfToInterleaved { head_dim, .. }) =
        order;
    // A head of one pair is in both orders at once.
    if head_dim == 2 {
        return Some(base.clone());
    }
    match base.expr() {
        WeightExpr::Permute { base, order: first } if *first == order.inverse() => Some(base.clone()),
        WeightExpr::Quantize { base, scheme } => permute(base, order)?.quantize(*scheme).ok(),
        _ => base.permute(order).ok(),
    }
}

fn transpose(base: &Weight) -> Option<Weight> {
    match base.expr() {
        WeightExpr::Transpose { base } => Some(base.clone()),
        _ => base.transpose().ok(),
    }
}

#[cfg(test)]
mod tests {
    use llamac_ir::Real;
    use llamac_ir::testing::random_weight;

    use super::*;

    fn source(name: &str, rows: usize) -> Weight {
        Weight::source(name, DType::F32, &[rows, 4]).unwrap()
    }

    /// The simple recipe as text; its values are those of `weight`.
    fn simple(weight: &Weight) -> String {
        let simple = simplify(weight);
        assert_eq!(random_weight(&simple, 1), random_weight(weight, 1), "{weight} → {simple}");
        assert_eq!(simplify(&simple), simple, "once is enough");
        simple.to_string()
    }

    #[test]
    fn concatenations_are_flat() {
        let (q, k) = (source("q", 8), source("k", 4));
        let nested = Weight::concat([q.clone(), Weight::concat([k.clone(), q.clone()]).unwrap()]).unwrap();
        assert_eq!(simple(&nested), "concat(@q, @k, @q)");
        assert_eq!(simple(&Weight::new(WeightExpr::Concat { parts: vec![q.clone()] }).unwrap()), "@q");
        let halves = Weight::concat([q.slice(0, 4).unwrap(), q.slice(4, 4).unwrap()]).unwrap();
        assert_eq!(simple(&halves), "@q");
        let apart = Weight::concat([q.slice(0, 4).unwrap(), q.slice(5, 3).unwrap()]).unwrap();
        assert_eq!(simple(&apart), "concat(slice(@q, start=0, rows=4), slice(@q, start=5, rows=3))");
    }

    #[test]
    fn slices_reach_what_they_take() {
        let (q, k) = (source("q", 8), source("k", 4));
        let both = Weight::concat([q.clone(), k]).unwrap();
        assert_eq!(simple(&both.slice(0, 12).unwrap()), "concat(@q, @k)");
        assert_eq!(simple(&both.slice(8, 4).unwrap()), "@k");
        assert_eq!(simple(&both.slice(9, 2).unwrap()), "slice(@k, start=1, rows=2)");
        assert_eq!(
            simple(&both.slice(6, 4).unwrap()),
            "concat(slice(@q, start=6, rows=2), slice(@k, start=0, rows=2))"
        );
        assert_eq!(simple(&q.slice(2, 5).unwrap().slice(1, 3).unwrap()), "slice(@q, start=3, rows=3)");
        assert_eq!(simple(&both.slice(8, 0).unwrap()), "slice(concat(@q, @k), start=8, rows=0)");
    }

    #[test]
    fn orders_undo_each_other() {
        let q = source("q", 8);
        let order = |heads, head_dim| Permutation::InterleavedToHalf { heads, head_dim };
        let there = q.permute(order(2, 4)).unwrap();
        assert_eq!(simple(&there), "interleaved_to_half(@q, heads=2, head_dim=4)");
        assert_eq!(simple(&there.permute(order(2, 4).inverse()).unwrap()), "@q");
        assert_eq!(
            simple(&there.permute(order(1, 8).inverse()).unwrap()),
            "half_to_interleaved(interleaved_to_half(@q, heads=2, head_dim=4), heads=1, head_dim=8)"
        );
        assert_eq!(simple(&q.permute(order(4, 2)).unwrap()), "@q");
        assert_eq!(simple(&q.transpose().unwrap().transpose().unwrap()), "@q");
    }

    #[test]
    fn what_computes_stays_and_its_parts_become_simple() {
        let (q, a, b) = (source("q", 8), source("a", 2), Weight::source("b", DType::F32, &[8, 2]).unwrap());
        let whole = q.slice(0, 8).unwrap();
        let sum = whole.add_low_rank(&a, &b.slice(0, 8).unwrap(), Real::new(0.5)).unwrap();
        assert_eq!(simple(&sum), "add_low_rank(@q, @a, @b, scale=0.5)");
    }

    #[test]
    fn quantization_goes_to_the_root() {
        let (q, k) = (source("q", 8), source("k", 4));
        let [q4, k4] = [&q, &k].map(|weight| weight.quantize(Scheme::Q4).unwrap());
        let both = Weight::concat([q4.clone(), k4.clone()]).unwrap();
        assert_eq!(simple(&both), "quantize(concat(@q, @k), scheme=q4)");
        assert_eq!(simple(&both.slice(8, 4).unwrap()), "quantize(@k, scheme=q4)");
        assert_eq!(
            simple(&both.slice(1, 9).unwrap()),
            "quantize(concat(slice(@q, start=1, rows=7), slice(@k, start=0, rows=2)), scheme=q4)"
        );
        let order = Permutation::InterleavedToHalf { heads: 2, head_dim: 4 };
        assert_eq!(
            simple(&q4.permute(order).unwrap()),
            "quantize(interleaved_to_half(@q, heads=2, head_dim=4), scheme=q4)"
        );
        let half = Weight::source("h", DType::F16, &[2, 4]).unwrap().quantize(Scheme::Q4).unwrap();
        assert_eq!(
            simple(&Weight::concat([q4.clone(), half]).unwrap()),
            "quantize(concat(@q, convert(@h, dtype=f32)), scheme=q4)"
        );
        let k8 = k.quantize(Scheme::Q8).unwrap();
        assert_eq!(
            simple(&Weight::concat([q4.clone(), k8]).unwrap()),
            "concat(quantize(@q, scheme=q4), quantize(@k, scheme=q8))"
        );
        assert_eq!(simple(&q4.transpose().unwrap()), "transpose(quantize(@q, scheme=q4))");
    }
}
