//! Simpler recipes of the same values.
//!
//! Every case is exact: rows move or stay, and no number is computed. Recipes that compute (low-rank sums) are left as
//! they are but for what they are made of.

use llamac_ir::{Permutation, Weight, WeightExpr};

/// The simplest recipe of the same values that the rules below lead to; `weight` itself if none applies.
pub(super) fn simplify(weight: &Weight) -> Weight {
    let inner = |weight: &Weight| simplify(weight);
    let simpler = match weight.expr() {
        WeightExpr::Source { .. } | WeightExpr::InvFreq { .. } => None,
        WeightExpr::Concat { parts } => concat(parts.iter().map(inner).collect()),
        WeightExpr::Slice { base, start, rows } => slice(&inner(base), *start, *rows),
        WeightExpr::Permute { base, order } => permute(&inner(base), *order),
        WeightExpr::Transpose { base } => transpose(&inner(base)),
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
    Weight::concat(flat).ok()
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
        _ => base.permute(order).ok(),
    }
}

fn transpose(base: &Weight) -> Option<Weight> {
    match base.expr() {
        WeightExpr::Transpose { base } => Some(base.clone()),
        _ => base.transpose().ok(),
    }
}
