//! Rotations that look their angles up in tables: the angles of this forward's tokens are the tables.
//!
//! ```text
//!                               tc, ts = reshape cos, sin {shape=[batch*seq, head_dim / 2]}
//! y = rotary x, cos, sin   →    rows   = 0, 1, … in the order of tokens, i64[batch, seq]
//!                               y      = rotary_lookup x, rows, tc, ts
//! ```
//!
//! So no table has to be as long as the longest context, and frequencies may depend on the length.

use llamac_ir::DType;
use llamac_ir::ops::{Gather, Range, Rotary, RotaryLookup, Shape};
use llamac_ir::rewrite::{NoMatch, OpRef, OpSet, Patch, Rule, Steps};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct LookUpRotary;

impl Rule for LookUpRotary {
    const NAME: &'static str = "LookUpRotary";
    type Root = Rotary;

    fn rewrite(&self, root: OpRef<'_, Rotary>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        if root.interleaved {
            return Err(root.miss("it pairs neighbours"));
        }
        let (cos, sin) = (root.operand(1), root.operand(2));
        let [batch, seq, half] = &root.ty(cos).shape[..] else {
            return Err(root.miss("the angles have no rows and positions"));
        };
        let mut steps = Steps::at(root.graph(), root.graph().loc_of(cos).clone());
        let (zero, one) = (steps.literal(DType::I64, &[], &[0.0])?, steps.literal(DType::I64, &[], &[1.0])?);
        let sizes = steps.add(Shape { start: 0, end: 2 }, &[cos.into()])?;
        let count = steps.add(Gather { axis: 0 }, &[sizes, zero])?;
        let length = steps.add(Gather { axis: 0 }, &[sizes, one])?;
        let first = steps.add(Range { length: batch.clone() }, &[zero, count])?;
        let first = steps.reshape(first, [batch.clone(), 1usize.into()])?;
        let first = steps.product(first, length)?;
        let within = steps.add(Range { length: seq.clone() }, &[zero, length])?;
        let rows = steps.sum(first, within)?;
        let table = [batch.clone() * seq.clone(), half.clone()];
        let cos = steps.reshape(cos.into(), table.clone())?;
        let sin = steps.reshape(sin.into(), table)?;
        steps.move_to(root.loc());
        let lookup = RotaryLookup { heads: root.heads, head_dim: root.head_dim };
        let rotated = steps.add(lookup, &[root.operand(0).into(), rows, cos, sin])?;
        let patch = steps.replace(root.value(), rotated);
        patch.require_legal(root.graph(), target)?;
        Ok(patch.erase([root.id()]))
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::testing::run;

    use super::*;

    #[test]
    fn angles_of_tokens_are_tables() {
        let text = "graph(%x: f32[batch, seq, 8], %c: f32[batch, seq, 2], %s: f32[batch, seq, 2]) {
            %y = rotary %x, %c, %s {heads=2, head_dim=4, interleaved=false} return out=%y }";
        assert_snapshot!(run(LookUpRotary, text), @"
        graph<batch: 1.., seq: 1..>(
          %x: f32[batch, seq, 8],
          %c: f32[batch, seq, 2],
          %s: f32[batch, seq, 2],
        ) {
          %0 = constant literal(dtype=i64, shape=[], values=[0.0]) : i64[]
          %1 = shape %c {start=0, end=2} : i64[2]
          %2 = gather %1, %0 {axis=0} : i64[]
          %3 = range %0, %2 {length=batch} : i64[batch]
          %4 = reshape %3 {shape=[batch, 1]} : i64[batch, 1]
          %5 = constant literal(dtype=i64, shape=[], values=[1.0]) : i64[]
          %6 = gather %1, %5 {axis=0} : i64[]
          %7 = mul %4, %6 : i64[batch, 1]
          %8 = range %0, %6 {length=seq} : i64[seq]
          %9 = add %7, %8 : i64[batch, seq]
          %10 = reshape %c {shape=[batch*seq, 2]} : f32[batch*seq, 2]
          %11 = reshape %s {shape=[batch*seq, 2]} : f32[batch*seq, 2]
          %12 = rotary_lookup %x, %9, %10, %11 {heads=2, head_dim=4} : f32[batch, seq, 8]
          return out=%12
        }
        fired LookUpRotary once
        ");
        let neighbours = text.replace("interleaved=false", "interleaved=true");
        assert_snapshot!(crate::passes::testing::misses(&run(LookUpRotary, &neighbours)), @"missed LookUpRotary: ?: it pairs neighbours");
    }
}
