//! Which keys a query sees, as numbers that are added to the products: the same for all layers, and for padding on either
//! side.
//!
//! ```text
//! attention q, k, v, mask {causal=true}    →    attention q, k, v, bias {causal=false}
//! ```
//!
//! `mask i64[batch, total]` is 1 for real tokens; `bias f32[batch, 1, seq, total]` is 0 where a query sees a key.

use llamac_ir::ops::{Attention, BinaryFunction, Range, Shape, Where};
use llamac_ir::rewrite::{NoMatch, OpRef, OpSet, Patch, PatchValue, Rule, Steps};
use llamac_ir::{DType, Loc, ValueId};

/// What hidden keys get: finite, so that a query that sees none has no NaN.
const HIDDEN: f64 = f32::MIN as f64;

/// Where the operations come from that layers share.
const SHARED: &str = "model.attention_bias";

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct MaskToBias;

impl Rule for MaskToBias {
    const NAME: &'static str = "MaskToBias";
    type Root = Attention;

    fn rewrite(&self, root: OpRef<'_, Attention>, _: &dyn OpSet) -> Result<Patch, NoMatch> {
        let mask = *root.operands().get(3).ok_or_else(|| root.miss("it has no mask"))?;
        if root.ty(mask).dtype != DType::I64 || !root.causal {
            return Err(root.miss("it is no causal attention with a mask"));
        }
        let mut steps = Steps::at(root.graph(), Loc::new(SHARED));
        let bias = bias(&mut steps, root, mask)?;
        steps.move_to(root.loc());
        let biased = Attention { causal: false, ..root.op().clone() };
        let operands = [root.operand(0).into(), root.operand(1).into(), root.operand(2).into(), bias];
        let attended = steps.add(biased, &operands)?;
        Ok(steps.replace(root.value(), attended).erase([root.id()]))
    }
}

/// `f32[batch, 1, seq, total]`: 0 for the keys that a query sees.
fn bias(steps: &mut Steps<'_>, root: OpRef<'_, Attention>, mask: ValueId) -> Result<PatchValue, NoMatch> {
    let (g, total) = (root.graph(), root.ty(mask).shape[1].clone());
    let (batch, seq) = (root.ty(root.operand(0)).shape[0].clone(), root.ty(root.operand(0)).shape[1].clone());
    let real = steps.cast(mask.into(), DType::Bool)?;
    let real = steps.reshape(real, [batch, 1usize.into(), 1usize.into(), total.clone()])?;
    // The number of queries is taken from an input, so that all layers compute the same.
    let queries = g.params().map(|(_, value)| value).find(|&value| g.ty(value).shape.get(1) == Some(&seq));
    let queries = queries.ok_or_else(|| root.miss("no input has as many positions as the queries"))?;
    let zero = steps.literal(DType::I64, &[], &[0.0])?;
    let end = steps.add(Shape { start: 1, end: 2 }, &[mask.into()])?;
    let end = steps.reshape(end, [])?;
    let count = steps.add(Shape { start: 1, end: 2 }, &[queries.into()])?;
    let count = steps.reshape(count, [])?;
    let keys = steps.add(Range { length: total }, &[zero, end])?;
    let first = steps.binary(BinaryFunction::Sub, end, count)?;
    let queries = steps.add(Range { length: seq.clone() }, &[first, end])?;
    let queries = steps.reshape(queries, [seq, 1usize.into()])?;
    let before = steps.binary(BinaryFunction::LessOrEqual, keys, queries)?;
    let seen = steps.binary(BinaryFunction::And, before, real)?;
    let (shown, hidden) = (steps.number(0.0)?, steps.number(HIDDEN)?);
    steps.add(Where, &[seen, shown, hidden])
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::testing::run;

    use super::*;
    use crate::passes::testing::misses;

    const MASKED: &str =
        "graph(%x: f32[batch, seq, 8], %k: f32[batch, 1, past + seq, 4], %v: f32[batch, 1, past + seq, 4],
               %m: i64[batch, past + seq], %past: f32[past]) {
            %a = attention %x, %k, %v, %m {heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=true}
            return out=%a }";

    #[test]
    fn order_and_padding_hide_keys() {
        assert_snapshot!(run(MaskToBias, MASKED), @"
        graph<batch: 1.., seq: 1.., past: 0..>(
          %x: f32[batch, seq, 8],
          %k: f32[batch, 1, past + seq, 4],
          %v: f32[batch, 1, past + seq, 4],
          %m: i64[batch, past + seq],
          %past: f32[past],
        ) {
          %0 = constant literal(dtype=i64, shape=[], values=[0.0]) : i64[]
          %1 = shape %m {start=1, end=2} : i64[1]
          %2 = reshape %1 {shape=[]} : i64[]
          %3 = range %0, %2 {length=past + seq} : i64[past + seq]
          %4 = shape %x {start=1, end=2} : i64[1]
          %5 = reshape %4 {shape=[]} : i64[]
          %6 = binary %2, %5 {function=sub} : i64[]
          %7 = range %6, %2 {length=seq} : i64[seq]
          %8 = reshape %7 {shape=[seq, 1]} : i64[seq, 1]
          %9 = binary %3, %8 {function=less_or_equal} : bool[seq, past + seq]
          %10 = cast %m {to=bool} : bool[batch, past + seq]
          %11 = reshape %10 {shape=[batch, 1, 1, past + seq]} : bool[batch, 1, 1, past + seq]
          %12 = binary %9, %11 {function=and} : bool[batch, 1, seq, past + seq]
          %13 = constant literal(dtype=f32, shape=[], values=[0.0]) : f32[]
          %14 = constant literal(dtype=f32, shape=[], values=[-3.4028234663852886e38]) : f32[]
          %15 = where %12, %13, %14 : f32[batch, 1, seq, past + seq]
          %16 = attention %x, %k, %v, %15 {heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=false} : f32[batch, seq, 8]
          return out=%16
        }
        fired MaskToBias once
        missed MaskToBias: ?: it is no causal attention with a mask
        ");
    }

    #[test]
    fn misses_say_why() {
        assert_snapshot!(misses(&run(MaskToBias, &MASKED.replace(", %m {", " {"))), @"missed MaskToBias: ?: it has no mask");
        assert_snapshot!(misses(&run(MaskToBias, &MASKED.replace("causal=true", "causal=false"))), @"missed MaskToBias: ?: it is no causal attention with a mask");
    }
}
