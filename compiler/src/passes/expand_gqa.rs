//! A legalization for targets without grouped-query attention: every key and value head is repeated for each of the
//! query heads that share it.
//!
//! ```text
//!                                                   k' = repeat_kv k {groups=4}
//! attention q, k, v {heads=8, kv_heads=2, …}   →    v' = repeat_kv v {groups=4}
//!                                                   attention q, k', v' {heads=8, kv_heads=8, …}
//! ```
//!
//! The cache keeps its own heads: what is repeated is what attention reads.

use llamac_ir::ops::{Attention, RepeatKv};
use llamac_ir::rewrite::{NoMatch, OpRef, OpSet, Patch, PatchValue, Rule};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct ExpandGqa;

impl Rule for ExpandGqa {
    const NAME: &'static str = "ExpandGqa";
    type Root = Attention;

    fn rewrite(&self, root: OpRef<'_, Attention>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        if root.heads == root.kv_heads {
            return Err(root.miss("every query head has its own key head"));
        }
        let (g, mut patch) = (root.graph(), Patch::new());
        let repeat = RepeatKv { groups: root.heads / root.kv_heads };
        let mut operands: Vec<PatchValue> = root.operands().iter().map(|&value| value.into()).collect();
        for operand in &mut operands[1..3] {
            *operand = patch.add(g, root.loc(), repeat.clone(), &[*operand])?;
        }
        let expanded = Attention { kv_heads: root.heads, ..root.op().clone() };
        let attended = patch.add(g, root.loc(), expanded, &operands)?;
        patch.require_legal(g, target)?;
        Ok(patch.replace(root.value(), attended).erase([root.id()]))
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::testing::run;

    use super::*;
    use crate::passes::testing::{Without, misses, run_for};

    const GROUPED: &str = "graph(%q: f32[batch, seq, 24], %k: f32[batch, 2, past, 4], %v: f32[batch, 2, past, 4],
               %m: i64[batch, past]) {
            %a = attention %q, %k, %v, %m {heads=6, kv_heads=2, head_dim=4, scale=0.5, causal=true} loc(self_attn)
            return out=%a }";

    #[test]
    fn every_query_head_gets_its_own() {
        assert_snapshot!(run(ExpandGqa, GROUPED), @"
        graph<batch: 1.., seq: 1.., past: 0..>(
          %q: f32[batch, seq, 24],
          %k: f32[batch, 2, past, 4],
          %v: f32[batch, 2, past, 4],
          %m: i64[batch, past],
        ) {
          %0 = repeat_kv %k {groups=3} : f32[batch, 6, past, 4]
          %1 = repeat_kv %v {groups=3} : f32[batch, 6, past, 4]
          %2 = attention %q, %0, %1, %m {heads=6, kv_heads=6, head_dim=4, scale=0.5, causal=true} : f32[batch, seq, 24]
          return out=%2
        }
        fired ExpandGqa once
        missed ExpandGqa: self_attn: every query head has its own key head
        ");
    }

    #[test]
    fn misses_have_reasons() {
        let whole = GROUPED.replace("2, past", "6, past").replace("kv_heads=2", "kv_heads=6");
        assert_snapshot!(misses(&run(ExpandGqa, &whole)), @"missed ExpandGqa: self_attn: every query head has its own key head");
        assert_snapshot!(misses(&run_for(ExpandGqa, &Without(&["repeat_kv"]), GROUPED)), @"missed ExpandGqa: self_attn: repeat_kv is not legal for small: there is no kernel");
    }
}
