//! Rotary embeddings as constants: angles are computed once a forward, and every layer only rotates by them.
//!
//! ```text
//!                                                   cos, sin = rotary_angles positions, inv_freq(…) {factor}
//! rope x, positions {theta, scaling, …}        →    rotary x, cos, sin          in every layer
//! ```
//!
//! The scaling rule ends up in constant frequencies (LongRoPE: both sets; dynamic NTK: the rule's numbers, for it
//! stretches with the sequence), and the attention factor in the angles.
//!
//! A second rule turns rotations of neighbouring pairs (Meta's layout) into rotations of pairs half a head apart, which
//! vectorize:
//!
//! ```text
//! rotary (linear x, @q), … {interleaved=true}  →    rotary (linear x, interleaved_to_half(@q)), … {interleaved=false}
//! ```
//!
//! for the queries and the keys of an attention alike: reordered in the same way, their products are the same. The
//! cache then holds keys in the new order, so what fills it must be this graph alone: it starts as a parameter that
//! nothing else reads, and a cache that another graph filled is in another order.

use llamac_ir::ops::{Attention, KvAppend, Linear, Rope, Rotary};
use llamac_ir::rewrite::{
    self, DynRule, NoMatch, OpRef, OpSet, Patch, PatchValue, RewriteError, Rule, RuleSet,
};
use llamac_ir::{Graph, Loc, NodeId, Op, Permutation, ValueId, Weight};

use super::simplify_weight::simplify;

/// The module of transformers that computes angles.
const ANGLES: &str = "model.rotary_emb";

/// Angles out of every layer: see the module.
#[derive(Clone, Copy, Debug)]
pub struct FoldRope;

impl Rule for FoldRope {
    const NAME: &'static str = "FoldRope";
    type Root = Rope;

    fn rewrite(&self, root: OpRef<'_, Rope>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        let (g, mut patch) = (root.graph(), Patch::new());
        let angles: Op = root.angles().map_err(|error| root.miss(error.to_string()))?.into();
        let operands = &root.operands()[1..];
        let shared = g
            .uses(operands[0])
            .into_iter()
            .map(|(user, _)| user)
            .find(|&user| g.op(user) == Some(&angles) && g.operands(user) == operands);
        let (cos, sin) = match shared {
            Some(node) => {
                (PatchValue::Old(ValueId { node, result: 0 }), PatchValue::Old(ValueId { node, result: 1 }))
            }
            None => {
                let operands: Vec<PatchValue> = operands.iter().map(|&value| value.into()).collect();
                let cos = patch.add(g, &Loc::new(ANGLES), angles, &operands)?;
                (cos, cos.result(1))
            }
        };
        let rotated = patch.add(g, root.loc(), root.rotation(), &[root.operand(0).into(), cos, sin])?;
        patch.require_legal(g, target)?;
        Ok(patch.replace(root.value(), rotated).erase([root.id()]))
    }
}

/// Pairs half a head apart: see the module. It looks at attentions with interleaved rotations only, so that others are
/// no misses.
#[derive(Clone, Copy, Debug)]
pub struct FoldLayout;

impl DynRule for FoldLayout {
    fn name(&self) -> &'static str {
        "FoldLayout"
    }

    fn at(&self, node: NodeId, graph: &Graph, target: &dyn OpSet) -> Option<Result<Patch, NoMatch>> {
        let root: OpRef<'_, Attention> = graph.op_ref(node)?;
        let query = graph.op_of::<Rotary>(root.operand(0)).ok()?;
        query.interleaved.then(|| fold_layout(root, query, target))
    }
}

fn fold_layout(
    root: OpRef<'_, Attention>,
    query: OpRef<'_, Rotary>,
    target: &dyn OpSet,
) -> Result<Patch, NoMatch> {
    let (g, mut patch) = (root.graph(), Patch::new());
    let cache = root.operand_as::<KvAppend>(1)?;
    let key = cache.operand_as::<Rotary>(1)?;
    if !key.interleaved {
        return Err(root.miss("queries and keys rotate in different layouts"));
    }
    let past = cache.operand(0);
    if g.param_name(past.node).is_none() || g.uses(past).len() != 1 || g.is_result(past) {
        return Err(cache.miss("the cache must be a parameter that nothing else reads"));
    }
    if g.uses(cache.value()).len() != 1 {
        return Err(cache.miss("the keys are read by more than this attention"));
    }
    let mut replaced = Vec::new();
    for rotary in [query, key] {
        rotary.only_use()?;
        let linear = rotary.operand_as::<Linear>(0);
        let linear = linear.map_err(|miss| root.miss(format!("the projection: {}", miss.reason)))?;
        linear.only_use()?;
        let order = Permutation::InterleavedToHalf { heads: rotary.heads, head_dim: rotary.head_dim };
        let permute = |weight: &Weight| match weight.permute(order) {
            Ok(permuted) => Ok(simplify(&permuted)),
            Err(error) => Err(linear.miss(error.to_string())),
        };
        let bias = linear.bias.as_ref().map(permute).transpose()?;
        let projection = Linear { weight: permute(&linear.weight)?, bias };
        let projected = patch.add(g, linear.loc(), projection, &[linear.operand(0).into()])?;
        let rotation = Rotary { interleaved: false, ..rotary.op().clone() };
        let operands = [projected, rotary.operand(1).into(), rotary.operand(2).into()];
        let rotated = patch.add(g, rotary.loc(), rotation, &operands)?;
        replaced.push((rotary.value(), rotated, [rotary.id(), linear.id()]));
    }
    patch.require_legal(g, target)?;
    let replace = |patch: Patch, (old, new, gone)| Patch::erase(patch.replace(old, new), gone);
    Ok(replaced.into_iter().fold(patch, replace))
}

pub(super) fn run(graph: &mut Graph, target: &dyn OpSet) -> Result<rewrite::Report, RewriteError> {
    rewrite::apply(graph, &RuleSet::new().with(FoldRope).with(FoldLayout), target)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::rewrite::AnyOp;
    use llamac_ir::testing::{parse, random_weight, run, run_set};
    use llamac_ir::{Bindings, Tensor, evaluate};

    use super::*;
    use crate::passes::testing::{Without, misses, run_for};

    /// Two rotations with these attributes and the other operands of `rope`.
    fn ropes(params: &str, operands: &str, attrs: &str) -> String {
        format!(
            "graph(%q: f32[batch, seq, 8], %k: f32[batch, seq, 4], {params}) {{
                %0 = rope %q, {operands} {{heads=2, head_dim=4, {attrs}}} loc(layers.0)
                %1 = rope %k, {operands} {{heads=1, head_dim=4, {attrs}}} loc(layers.1)
                return q=%0, k=%1 }}"
        )
    }

    const POSITIONS: &str = "%p: i64[batch, seq]";
    const BOTH: &str = "%p: i64[batch, seq], %n: i64[]";

    #[test]
    fn layers_share_their_angles() {
        let attrs = "theta=100.0, scaling=linear(factor=4.0), interleaved=true";
        assert_snapshot!(run(FoldRope, &ropes(POSITIONS, "%p", attrs)), @"
        graph<batch: 1.., seq: 1..>(
          %q: f32[batch, seq, 8],
          %k: f32[batch, seq, 4],
          %p: i64[batch, seq],
        ) {
          %0, %1 = rotary_angles %p, inv_freq(theta=100.0, head_dim=4, scaling=linear(factor=4.0), set=short) {factor=1.0} : f32[batch, seq, 2], f32[batch, seq, 2]
          %2 = rotary %q, %0, %1 {heads=2, head_dim=4, interleaved=true} : f32[batch, seq, 8]
          %3 = rotary %k, %0, %1 {heads=1, head_dim=4, interleaved=true} : f32[batch, seq, 4]
          return q=%2, k=%3
        }
        fired FoldRope 2 times
        ");
    }

    #[test]
    fn the_attention_factor_goes_into_the_angles() {
        let yarn = "yarn(factor=4.0, original_max_position=16, beta_fast=32.0, beta_slow=1.0, attention_factor=1.5, \
                    truncate=true)";
        let attrs = format!("theta=100.0, scaling={yarn}, interleaved=false");
        assert_snapshot!(run(FoldRope, &ropes(POSITIONS, "%p", &attrs)), @"
        graph<batch: 1.., seq: 1..>(
          %q: f32[batch, seq, 8],
          %k: f32[batch, seq, 4],
          %p: i64[batch, seq],
        ) {
          %0, %1 = rotary_angles %p, inv_freq(theta=100.0, head_dim=4, scaling=yarn(factor=4.0, original_max_position=16, beta_fast=32.0, beta_slow=1.0, attention_factor=1.5, truncate=true), set=short) {factor=1.5} : f32[batch, seq, 2], f32[batch, seq, 2]
          %2 = rotary %q, %0, %1 {heads=2, head_dim=4, interleaved=false} : f32[batch, seq, 8]
          %3 = rotary %k, %0, %1 {heads=1, head_dim=4, interleaved=false} : f32[batch, seq, 4]
          return q=%2, k=%3
        }
        fired FoldRope 2 times
        ");
    }

    #[test]
    fn rules_that_need_a_length_keep_it() {
        let longrope =
            "longrope(short=[1.0, 2.0], long=[4.0, 8.0], original_max_position=16, attention_factor=1.25)";
        let attrs = format!("theta=100.0, scaling={longrope}, interleaved=false");
        assert_snapshot!(run(FoldRope, &ropes(BOTH, "%p, %n", &attrs)), @"
        graph<batch: 1.., seq: 1..>(
          %q: f32[batch, seq, 8],
          %k: f32[batch, seq, 4],
          %p: i64[batch, seq],
          %n: i64[],
        ) {
          %0, %1 = rotary_angles %p, %n, inv_freq(theta=100.0, head_dim=4, scaling=longrope(short=[1.0, 2.0], long=[4.0, 8.0], original_max_position=16, attention_factor=1.25), set=short), inv_freq(theta=100.0, head_dim=4, scaling=longrope(short=[1.0, 2.0], long=[4.0, 8.0], original_max_position=16, attention_factor=1.25), set=long) {factor=1.25, threshold=16} : f32[batch, seq, 2], f32[batch, seq, 2]
          %2 = rotary %q, %0, %1 {heads=2, head_dim=4, interleaved=false} : f32[batch, seq, 8]
          %3 = rotary %k, %0, %1 {heads=1, head_dim=4, interleaved=false} : f32[batch, seq, 4]
          return q=%2, k=%3
        }
        fired FoldRope 2 times
        ");
        let attrs = "theta=100.0, scaling=dynamic(factor=2.0, max_position=16), interleaved=false";
        assert_snapshot!(run(FoldRope, &ropes(BOTH, "%p, %n", attrs)), @"
        graph<batch: 1.., seq: 1..>(
          %q: f32[batch, seq, 8],
          %k: f32[batch, seq, 4],
          %p: i64[batch, seq],
          %n: i64[],
        ) {
          %0, %1 = rotary_angles %p, %n {factor=1.0, theta=100.0, stretch=2.0, max_position=16, head_dim=4} : f32[batch, seq, 2], f32[batch, seq, 2]
          %2 = rotary %q, %0, %1 {heads=2, head_dim=4, interleaved=false} : f32[batch, seq, 8]
          %3 = rotary %k, %0, %1 {heads=1, head_dim=4, interleaved=false} : f32[batch, seq, 4]
          return q=%2, k=%3
        }
        fired FoldRope 2 times
        ");
    }

    #[test]
    fn other_positions_or_frequencies_have_other_angles() {
        let attrs = "theta=100.0, scaling=default, interleaved=false";
        let other =
            ropes("%p: i64[batch, seq], %r: i64[batch, seq]", "%p", attrs).replace("%k, %p", "%k, %r");
        assert_eq!(run(FoldRope, &other).matches("= rotary_angles").count(), 2);
        let other = ropes(POSITIONS, "%p", attrs).replacen("theta=100.0", "theta=50.0", 1);
        assert_eq!(run(FoldRope, &other).matches("= rotary_angles").count(), 2);
    }

    #[test]
    fn only_what_the_target_can_take() {
        let text = ropes(POSITIONS, "%p", "theta=100.0, scaling=default, interleaved=false");
        assert_snapshot!(misses(&run_for(FoldRope, &Without(&["rotary"]), &text)), @"
        missed FoldRope: layers.0: rotary is not legal for small: there is no kernel
        missed FoldRope: layers.1: rotary is not legal for small: there is no kernel
        ");
    }

    /// An attention with interleaved rotations of queries and keys, and biases.
    const INTERLEAVED: &str = "graph<past: 0..=0>(%x: f32[batch, seq, 8], %p: i64[batch, seq],
               %pk: f32[batch, 1, past, 4], %v: f32[batch, 1, past + seq, 4],
               @q: bf16[8, 8], @bq: f32[8], @k: bf16[4, 8], @bk: f32[4]) {
            %q = linear %x, @q, @bq loc(l.q_proj)
            %k = linear %x, @k, @bk loc(l.k_proj)
            %rq = rope %q, %p {heads=2, head_dim=4, theta=100.0, scaling=default, interleaved=true} loc(l)
            %rk = rope %k, %p {heads=1, head_dim=4, theta=100.0, scaling=default, interleaved=true} loc(l)
            %ck = kv_append %pk, %rk loc(l)
            %a = attention %rq, %ck, %v {heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=true} loc(l)
            return out=%a }";

    fn layout(text: &str) -> String {
        run_set(&RuleSet::new().with(FoldRope).with(FoldLayout), &AnyOp, text)
    }

    #[test]
    fn neighbouring_pairs_move_apart_in_the_weights() {
        assert_snapshot!(layout(INTERLEAVED), @"
        graph<batch: 1.., seq: 1.., past: 0..=0>(
          %x: f32[batch, seq, 8],
          %p: i64[batch, seq],
          %pk: f32[batch, 1, past, 4],
          %v: f32[batch, 1, past + seq, 4],
          @q: bf16[8, 8],
          @bq: f32[8],
          @k: bf16[4, 8],
          @bk: f32[4],
        ) {
          %0 = linear %x, interleaved_to_half(@q, heads=2, head_dim=4), interleaved_to_half(@bq, heads=2, head_dim=4) : f32[batch, seq, 8]
          %1, %2 = rotary_angles %p, inv_freq(theta=100.0, head_dim=4, scaling=default, set=short) {factor=1.0} : f32[batch, seq, 2], f32[batch, seq, 2]
          %3 = rotary %0, %1, %2 {heads=2, head_dim=4, interleaved=false} : f32[batch, seq, 8]
          %4 = linear %x, interleaved_to_half(@k, heads=1, head_dim=4), interleaved_to_half(@bk, heads=1, head_dim=4) : f32[batch, seq, 4]
          %5 = rotary %4, %1, %2 {heads=1, head_dim=4, interleaved=false} : f32[batch, seq, 4]
          %6 = kv_append %pk, %5 : f32[batch, 1, past + seq, 4]
          %7 = attention %3, %6, %v {heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=true} : f32[batch, seq, 8]
          return out=%7
        }
        fired FoldRope 2 times
        fired FoldLayout once
        ");
    }

    /// A prefill and a step on the cache that it left: the order of the cache is the graph's own affair.
    #[test]
    fn a_cache_that_the_graph_filled_is_in_its_order() {
        let text = INTERLEAVED.replace("<past: 0..=0>", "").replace("out=%a", "out=%a, present=%ck");
        let before = parse(&text);
        let mut after = before.clone();
        assert_eq!(run_pass(&mut after), [2, 1]);
        let floats = |shape: &[usize], seed: usize| {
            let data = (0..shape.iter().product()).map(|i| ((i * 7 + seed) as f32).sin()).collect();
            Tensor::floats(shape, data).unwrap()
        };
        let weights = |weight: &Weight| random_weight(weight, 3);
        let step = |graph: &Graph, past: Tensor, seq: usize| {
            let start = past.shape()[2];
            let positions = (0..seq).map(|i| i64::try_from(start + i).unwrap()).collect();
            let inputs = [
                ("x", floats(&[1, seq, 8], start)),
                ("p", Tensor::integers(&[1, seq], positions).unwrap()),
                ("pk", past),
                ("v", floats(&[1, 1, start + seq, 4], 1)),
            ];
            let inputs = inputs.map(|(name, tensor)| (name.to_owned(), tensor)).into();
            evaluate(graph, &inputs, &Bindings::new(), &weights).unwrap()
        };
        let two_steps = |graph: &Graph| {
            let first = step(graph, Tensor::floats(&[1, 1, 0, 4], vec![]).unwrap(), 3);
            let second = step(graph, first[1].1.clone(), 2);
            [first[0].1.clone(), second[0].1.clone(), second[1].1.clone()]
        };
        let ([a, b, keys], [c, d, moved]) = (two_steps(&before), two_steps(&after));
        for (expected, found) in [(a, c), (b, d)] {
            let (expected, found) = (expected.as_f32().unwrap().clone(), found.as_f32().unwrap().clone());
            assert!((expected - found).iter().all(|difference| difference.abs() < 1e-5));
        }
        assert_ne!(keys, moved, "the keys are in another order");
    }

    fn run_pass(graph: &mut Graph) -> Vec<usize> {
        let report = super::run(graph, &AnyOp).unwrap();
        report.firings.iter().map(|firing| firing.count).collect()
    }

    #[test]
    fn layouts_that_cannot_change_have_reasons() {
        let miss = |from: &str, to: &str| {
            let text = INTERLEAVED.replacen(from, to, 1);
            assert_ne!(text, INTERLEAVED);
            layout(&text).lines().filter(|line| line.starts_with("missed")).collect::<Vec<_>>().join("\n")
        };
        assert_snapshot!(miss("interleaved=true} loc(l)\n            %ck", "interleaved=false} loc(l)\n            %ck"), @"missed FoldLayout: l: queries and keys rotate in different layouts");
        assert_snapshot!(miss("out=%a", "out=%a, past=%pk"), @"missed FoldLayout: l: the cache must be a parameter that nothing else reads");
        assert_snapshot!(miss("return out=%a", "%z = kv_append %ck, %rk return out=%a, z=%z"), @"missed FoldLayout: l: the keys are read by more than this attention");
        assert_snapshot!(miss("out=%a", "out=%a, q=%q"), @"missed FoldLayout: l.q_proj: the value is a result of the graph too");
        assert_snapshot!(miss("out=%a", "out=%a, k=%rk"), @"missed FoldLayout: l: the value is a result of the graph too");
        assert_snapshot!(miss("%rq = rope %q", "%qq = add %q, %q %rq = rope %qq"), @"missed FoldLayout: l: the projection: expected linear, found add");
    }

    #[test]
    fn pairs_that_are_apart_already_are_no_misses() {
        let text = layout(&INTERLEAVED.replace("interleaved=true", "interleaved=false"));
        assert!(text.ends_with("fired FoldRope 2 times\n"), "{text}");
    }
}
