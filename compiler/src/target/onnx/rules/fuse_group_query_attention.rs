//! Attention of ONNX Runtime: it grows the cache itself, and wants to know how long it is.
//!
//! ```text
//! ck = kv_append pk, k                        total = the last dimension of bias, as i32
//! cv = kv_append pv, v                   →    last  = total - 1 for each row
//! a = attention q, ck, cv, bias               a, ck, cv = group_query_attention q, k, v, bias, last, total, pk, pv
//! ```
//!
//! Every row ends at the last position: what comes before the first token of a row is hidden by the bias, so padding on
//! either side is right. Where the cache lies in a longer buffer, `total` is what is filled of it.

use llamac_ir::DType;
use llamac_ir::ops::{Attention, BinaryFunction, Expand, GroupQueryAttention, Shape};
use llamac_ir::rewrite::{NoMatch, OpRef, OpSet, Patch, PatchValue, Rule, Steps};

use super::append::Append;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct FuseGroupQueryAttention;

impl Rule for FuseGroupQueryAttention {
    const NAME: &'static str = "FuseGroupQueryAttention";
    type Root = Attention;

    fn rewrite(&self, root: OpRef<'_, Attention>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        let Append { query, new, bias, past, grown, nodes } = Append::of(root)?;
        let &Attention { heads, kv_heads, head_dim, scale, .. } = root.op();
        let mut steps = Steps::at(root.graph(), root.graph().loc_of(bias).clone());
        let one = steps.literal(DType::I32, &[], &[1.0])?;
        let total = steps.add(Shape { start: 3, end: 4 }, &[bias.into()])?;
        let total = steps.cast(total, DType::I32)?;
        let total = steps.reshape(total, [])?;
        let last = steps.binary(BinaryFunction::Sub, total, one)?;
        let rows = steps.add(Shape { start: 0, end: 1 }, &[bias.into()])?;
        let last = steps.add(Expand { shape: vec![root.ty(bias).shape[0].clone()] }, &[last, rows])?;
        steps.move_to(root.loc());
        let operands: Vec<PatchValue> = [query, new[0], new[1], bias]
            .into_iter()
            .map(PatchValue::from)
            .chain([last, total])
            .chain(past.into_iter().flatten().map(PatchValue::from))
            .collect();
        let attended = steps.add(GroupQueryAttention { heads, kv_heads, head_dim, scale }, &operands)?;
        let patch = steps.replace(root.value(), attended);
        patch.require_legal(root.graph(), target)?;
        let patch = patch.erase([root.id()]);
        if past.is_none() {
            return Ok(patch);
        }
        let patch = patch.replace(grown[0], attended.result(1)).replace(grown[1], attended.result(2));
        Ok(patch.erase(nodes))
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::testing::run;

    use super::*;
    use crate::passes::testing::run_for;
    use crate::target::onnx::Onnx;

    const CACHED: &str = "graph(%q: f32[batch, seq, 16], %k: f32[batch, seq, 8], %v: f32[batch, seq, 8],
               %pk: f32[batch, 1, past, 8], %pv: f32[batch, 1, past, 8], %b: f32[batch, 1, seq, past + seq]) {
            %ck = kv_append %pk, %k
            %cv = kv_append %pv, %v
            %a = attention %q, %ck, %cv, %b {heads=2, kv_heads=1, head_dim=8, scale=0.5, causal=false} loc(self_attn)
            return out=%a, present.0.key=%ck, present.0.value=%cv }";

    #[test]
    fn the_cache_grows_inside_and_lengths_are_told() {
        assert_snapshot!(run(FuseGroupQueryAttention, CACHED), @"
        graph<batch: 1.., seq: 1.., past: 0..>(
          %q: f32[batch, seq, 16],
          %k: f32[batch, seq, 8],
          %v: f32[batch, seq, 8],
          %pk: f32[batch, 1, past, 8],
          %pv: f32[batch, 1, past, 8],
          %b: f32[batch, 1, seq, past + seq],
        ) {
          %0 = shape %b {start=3, end=4} : i64[1]
          %1 = cast %0 {to=i32} : i32[1]
          %2 = reshape %1 {shape=[]} : i32[]
          %3 = constant literal(dtype=i32, shape=[], values=[1.0]) : i32[]
          %4 = binary %2, %3 {function=sub} : i32[]
          %5 = shape %b {start=0, end=1} : i64[1]
          %6 = expand %4, %5 {shape=[batch]} : i32[batch]
          %7, %8, %9 = group_query_attention %q, %k, %v, %b, %6, %2, %pk, %pv {heads=2, kv_heads=1, head_dim=8, scale=0.5} : f32[batch, seq, 16], f32[batch, 1, past + seq, 8], f32[batch, 1, past + seq, 8]
          return out=%7, present.0.key=%8, present.0.value=%9
        }
        fired FuseGroupQueryAttention once
        ");
    }

    #[test]
    fn heads_that_the_kernel_refuses_stay() {
        let text = CACHED
            .replace("16]", "24]")
            .replace("8]", "12]")
            .replace("past, 8", "past, 12")
            .replace("=8", "=12");
        assert_snapshot!(run_for(FuseGroupQueryAttention, &Onnx::ORT, &text), @"
        graph<batch: 1.., seq: 1.., past: 0..>(
          %q: f32[batch, seq, 24],
          %k: f32[batch, seq, 12],
          %v: f32[batch, seq, 12],
          %pk: f32[batch, 1, past, 12],
          %pv: f32[batch, 1, past, 12],
          %b: f32[batch, 1, seq, past + seq],
        ) {
          %0 = kv_append %pk, %k : f32[batch, 1, past + seq, 12]
          %1 = kv_append %pv, %v : f32[batch, 1, past + seq, 12]
          %2 = attention %q, %0, %1, %b {heads=2, kv_heads=1, head_dim=12, scale=0.5, causal=false} : f32[batch, seq, 24]
          return out=%2, present.0.key=%0, present.0.value=%1
        }
        missed FuseGroupQueryAttention: self_attn: group_query_attention is not legal for onnx-ort: heads of size 12 are no multiple of 8
        ");
    }
}
