//! Attention takes the new keys and values, and grows the cache itself.
//!
//! ```text
//! ck = kv_append pk, k
//! cv = kv_append pv, v                   →    a, ck, cv = append_attention q, k, v, bias, pk, pv
//! a = attention q, ck, cv, bias
//! ```

use llamac_ir::ops::{AppendAttention, Attention};
use llamac_ir::rewrite::{NoMatch, OpRef, OpSet, Patch, PatchValue, Rule};

use super::append::Append;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct FuseAppendAttention;

impl Rule for FuseAppendAttention {
    const NAME: &'static str = "FuseAppendAttention";
    type Root = Attention;

    fn rewrite(&self, root: OpRef<'_, Attention>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        let Append { query, new, bias, past, grown, nodes } = Append::of(root)?;
        let &Attention { heads, kv_heads, head_dim, scale, .. } = root.op();
        let operands = [query, new[0], new[1], bias].into_iter().chain(past.into_iter().flatten());
        let operands: Vec<PatchValue> = operands.map(PatchValue::from).collect();
        let mut patch = Patch::new();
        let fused = AppendAttention { heads, kv_heads, head_dim, scale };
        let attended = patch.add(root.graph(), root.loc(), fused, &operands)?;
        patch.require_legal(root.graph(), target)?;
        let patch = patch.replace(root.value(), attended).erase([root.id()]);
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
    use crate::passes::testing::misses;

    const CACHED: &str = "graph(%q: f32[batch, seq, 8], %k: f32[batch, seq, 4], %v: f32[batch, seq, 4],
               %pk: f32[batch, 1, past, 4], %pv: f32[batch, 1, past, 4], %b: f32[batch, 1, seq, past + seq]) {
            %ck = kv_append %pk, %k
            %cv = kv_append %pv, %v
            %a = attention %q, %ck, %cv, %b {heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=false} loc(self_attn)
            return out=%a, present.0.key=%ck, present.0.value=%cv }";

    #[test]
    fn the_cache_grows_inside() {
        assert_snapshot!(run(FuseAppendAttention, CACHED), @"
        graph<batch: 1.., seq: 1.., past: 0..>(
          %q: f32[batch, seq, 8],
          %k: f32[batch, seq, 4],
          %v: f32[batch, seq, 4],
          %pk: f32[batch, 1, past, 4],
          %pv: f32[batch, 1, past, 4],
          %b: f32[batch, 1, seq, past + seq],
        ) {
          %0, %1, %2 = append_attention %q, %k, %v, %b, %pk, %pv {heads=2, kv_heads=1, head_dim=4, scale=0.5} : f32[batch, seq, 8], f32[batch, 1, past + seq, 4], f32[batch, 1, past + seq, 4]
          return out=%0, present.0.key=%1, present.0.value=%2
        }
        fired FuseAppendAttention once
        ");
    }

    #[test]
    fn without_a_cache_there_is_no_past() {
        let text = "graph(%q: f32[batch, seq, 8], %k: f32[batch, seq, 4], %v: f32[batch, seq, 4],
               %b: f32[batch, 1, seq, seq]) {
            %ck = split_heads %k {heads=1}
            %cv = split_heads %v {heads=1}
            %a = attention %q, %ck, %cv, %b {heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=false}
            return out=%a }";
        assert_snapshot!(run(FuseAppendAttention, text), @"
        graph<batch: 1.., seq: 1..>(
          %q: f32[batch, seq, 8],
          %k: f32[batch, seq, 4],
          %v: f32[batch, seq, 4],
          %b: f32[batch, 1, seq, seq],
        ) {
          %0 = append_attention %q, %k, %v, %b {heads=2, kv_heads=1, head_dim=4, scale=0.5} : f32[batch, seq, 8]
          return out=%0
        }
        fired FuseAppendAttention once
        ");
    }

    #[test]
    fn misses_say_why() {
        assert_snapshot!(misses(&run(FuseAppendAttention, &CACHED.replace("%cv, %b", "%cv").replace("causal=false", "causal=true"))), @"missed FuseAppendAttention: self_attn: it has no bias");
        assert_snapshot!(misses(&run(FuseAppendAttention, &CACHED.replace("causal=false", "causal=true"))), @"missed FuseAppendAttention: self_attn: it is causal beside its bias");
        assert_snapshot!(misses(&run(FuseAppendAttention, &CACHED.replace("kv_append %pv, %v", "repeat_kv %ck {groups=1}"))), @"missed FuseAppendAttention: ?: expected split_heads, found repeat_kv");
    }
}
