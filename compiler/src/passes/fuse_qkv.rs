//! The projections to queries, keys and values as one: the normed hidden state is read once, and one matrix is
//! streamed.
//!
//! ```text
//! q = linear x, @q            qkv = linear x, concat(@q, @k, @v)
//! k = linear x, @k       →    q, k, v = split qkv
//! v = linear x, @v
//! ```
//!
//! Anchored at `attention`, and looks through what lies between it and the projections: rotations and caches.

use llamac_ir::ops::{Attention, KvAppend, Linear, Rope, Rotary, Split};
use llamac_ir::rewrite::{self, NoMatch, OpRef, OpSet, Patch, RewriteError, Rule, RuleSet};
use llamac_ir::{Graph, Loc, ValueId};

use super::join::join;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct FuseQkv;

impl Rule for FuseQkv {
    const NAME: &'static str = "FuseQkv";
    type Root = Attention;

    fn rewrite(&self, root: OpRef<'_, Attention>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        let (g, mut patch) = (root.graph(), Patch::new());
        let projection = |index: usize, name: &str| {
            let linear = g.op_of::<Linear>(behind_rotation(g, behind_cache(g, root.operand(index))));
            linear.map_err(|no_match| root.miss(format!("the {name}: {}", no_match.reason)))
        };
        let parts = [projection(0, "queries")?, projection(1, "keys")?, projection(2, "values")?];
        let joined = join(&mut patch, &parts)?;
        let sizes = parts.map(|part| part.weight.shape()[0]).to_vec();
        let loc = Loc::merge(parts.iter().map(|part| part.loc()));
        let split = patch.add(g, &loc, Split { sizes }, &[joined])?;
        patch.require_legal(g, target)?;
        Ok((0u32..).zip(parts).fold(patch, |patch, (i, part)| patch.replace(part.value(), split.result(i))))
    }
}

fn behind_cache(g: &Graph, value: ValueId) -> ValueId {
    g.op_of::<KvAppend>(value).map_or(value, |append| append.operand(1))
}

fn behind_rotation(g: &Graph, value: ValueId) -> ValueId {
    let rope = g.op_of::<Rope>(value).map(|rope| rope.operand(0));
    rope.or_else(|_| g.op_of::<Rotary>(value).map(|rotary| rotary.operand(0))).unwrap_or(value)
}

pub(super) fn run(graph: &mut Graph, target: &dyn OpSet) -> Result<rewrite::Report, RewriteError> {
    rewrite::apply(graph, &RuleSet::new().with(FuseQkv), target)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::testing::run;

    use super::*;
    use crate::passes::testing::{Without, misses, run_for};

    /// An attention over projections that `projections` defines as `%q`, `%k` and `%v`.
    fn attention(weights: &str, projections: &str) -> String {
        format!(
            "graph(%x: f32[batch, seq, 8], %p: i64[batch, seq], {weights},
                   %pk: f32[batch, 1, past, 4], %pv: f32[batch, 1, past, 4]) {{
                {projections}
                %rq = rope %q, %p {{heads=2, head_dim=4, theta=100.0, scaling=default, interleaved=false}}
                %rk = rope %k, %p {{heads=1, head_dim=4, theta=100.0, scaling=default, interleaved=false}}
                %ck = kv_append %pk, %rk
                %cv = kv_append %pv, %v
                %a = attention %rq, %ck, %cv {{heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=true}}
                return out=%a, present.key=%ck }}"
        )
    }

    const WEIGHTS: &str = "@q: bf16[8, 8], @k: bf16[4, 8], @v: bf16[4, 8]";
    const PLAIN: &str = "%q = linear %x, @q loc(l.q_proj)
        %k = linear %x, @k loc(l.k_proj)
        %v = linear %x, @v loc(l.v_proj)";

    #[test]
    fn behind_rotations_and_caches() {
        assert_snapshot!(run(FuseQkv, &attention(WEIGHTS, PLAIN)), @"
        graph<batch: 1.., seq: 1.., past: 0..>(
          %x: f32[batch, seq, 8],
          %p: i64[batch, seq],
          %pk: f32[batch, 1, past, 4],
          %pv: f32[batch, 1, past, 4],
          @q: bf16[8, 8],
          @k: bf16[4, 8],
          @v: bf16[4, 8],
        ) {
          %0 = linear %x, concat(@q, @k, @v) : f32[batch, seq, 16]
          %1, %2, %3 = split %0 {sizes=[8, 4, 4]} : f32[batch, seq, 8], f32[batch, seq, 4], f32[batch, seq, 4]
          %4 = rope %1, %p {heads=2, head_dim=4, theta=100.0, scaling=default, interleaved=false} : f32[batch, seq, 8]
          %5 = rope %2, %p {heads=1, head_dim=4, theta=100.0, scaling=default, interleaved=false} : f32[batch, seq, 4]
          %6 = kv_append %pk, %5 : f32[batch, 1, past + seq, 4]
          %7 = kv_append %pv, %3 : f32[batch, 1, past + seq, 4]
          %8 = attention %4, %6, %7 {heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=true} : f32[batch, seq, 8]
          return out=%8, present.key=%6
        }
        fired FuseQkv once
        ");
    }

    #[test]
    fn biases_of_all() {
        let weights = format!("{WEIGHTS}, @bq: f32[8], @bk: f32[4], @bv: f32[4]");
        let projections = "%q = linear %x, @q, @bq
            %k = linear %x, @k, @bk
            %v = linear %x, @v, @bv";
        assert_snapshot!(run(FuseQkv, &attention(&weights, projections)), @"
        graph<batch: 1.., seq: 1.., past: 0..>(
          %x: f32[batch, seq, 8],
          %p: i64[batch, seq],
          %pk: f32[batch, 1, past, 4],
          %pv: f32[batch, 1, past, 4],
          @q: bf16[8, 8],
          @k: bf16[4, 8],
          @v: bf16[4, 8],
          @bq: f32[8],
          @bk: f32[4],
          @bv: f32[4],
        ) {
          %0 = linear %x, concat(@q, @k, @v), concat(@bq, @bk, @bv) : f32[batch, seq, 16]
          %1, %2, %3 = split %0 {sizes=[8, 4, 4]} : f32[batch, seq, 8], f32[batch, seq, 4], f32[batch, seq, 4]
          %4 = rope %1, %p {heads=2, head_dim=4, theta=100.0, scaling=default, interleaved=false} : f32[batch, seq, 8]
          %5 = rope %2, %p {heads=1, head_dim=4, theta=100.0, scaling=default, interleaved=false} : f32[batch, seq, 4]
          %6 = kv_append %pk, %5 : f32[batch, 1, past + seq, 4]
          %7 = kv_append %pv, %3 : f32[batch, 1, past + seq, 4]
          %8 = attention %4, %6, %7 {heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=true} : f32[batch, seq, 8]
          return out=%8, present.key=%6
        }
        fired FuseQkv once
        ");
    }

    fn miss(weights: &str, projections: &str) -> String {
        misses(&run(FuseQkv, &attention(weights, projections)))
    }

    #[test]
    fn quantized_alike() {
        let all = PLAIN.replace("@q loc", "quantize(@q, scheme=q4) loc");
        let all = all.replace("@k loc", "quantize(@k, scheme=q4) loc");
        let some = all.replace("@v loc", "quantize(@v, scheme=q8) loc");
        assert_snapshot!(miss(WEIGHTS, &some), @"missed FuseQkv: l.{q,k,v}_proj: the weights are q4, q8, expected one format");
        let all = all.replace("@v loc", "quantize(@v, scheme=q4) loc");
        let text = run(FuseQkv, &attention(WEIGHTS, &all));
        assert_snapshot!(text.lines().find(|line| line.contains("linear")).unwrap_or_default(), @"  %0 = linear %x, quantize(concat(@q, @k, @v), scheme=q4) : f32[batch, seq, 16]");
    }

    #[test]
    fn misses_have_reasons() {
        let biases = format!("{WEIGHTS}, @b: f32[8]");
        let some = PLAIN.replace("@q", "@q, @b");
        assert_snapshot!(miss(&biases, &some), @"missed FuseQkv: l.{q,k,v}_proj: 1 of 3 projections have a bias, expected all or none");
        assert_snapshot!(miss("@q: bf16[8, 8], @k: f16[4, 8], @v: bf16[4, 8]", PLAIN), @"missed FuseQkv: l.{q,k,v}_proj: the weights are bf16, f16, bf16, expected one format");
        let others = PLAIN.replace("linear %x, @v", "linear %y, @v");
        assert_snapshot!(miss(WEIGHTS, &format!("%y = act %x {{function=silu}}\n{others}")), @"missed FuseQkv: l.{q,k,v}_proj: the projections read different values");
        let activated =
            PLAIN.replace("%v = linear %x, @v", "%w = linear %x, @v\n%v = act %w {function=relu}");
        assert_snapshot!(miss(WEIGHTS, &activated), @"missed FuseQkv: ?: the values: expected linear, found act");
        let one = "%q = linear %x, @q\n%k = linear %x, @k\n%v = add %k, %k";
        assert_snapshot!(miss("@q: bf16[8, 8], @k: bf16[4, 8]", one), @"missed FuseQkv: ?: the values: expected linear, found add");
        let same = attention("@q: bf16[8, 8], @k: bf16[4, 8]", "%q = linear %x, @q\n%k = linear %x, @k")
            .replace("kv_append %pv, %v", "kv_append %pv, %k");
        assert_snapshot!(misses(&run(FuseQkv, &same)), @"missed FuseQkv: ?: two of the projections are the same");
    }

    #[test]
    fn only_what_the_target_can_take() {
        let text = run_for(FuseQkv, &Without(&["split"]), &attention(WEIGHTS, PLAIN));
        assert_snapshot!(misses(&text), @"missed FuseQkv: l.{q,k,v}_proj: split is not legal for small: there is no kernel");
    }
}
