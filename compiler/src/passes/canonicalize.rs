//! One form for what can be written in several: nothing that no result needs, nothing that is computed twice, and no
//! weight recipe that says more than it must.
//!
//! ```text
//! linear x, concat(@w)                              →    linear x, @w
//! linear x, slice(concat(@q, @k), start=0, rows=8)  →    linear x, @q                 where @q has 8 rows
//! a = act x;  b = act x;  add a, b                  →    a = act x;  add a, a
//! ```
//!
//! Tied weights need no pass: recipes are equal by structure, so what is made from the same tensors is one weight.

use llamac_ir::rewrite::{self, DynRule, Firing, NoMatch, OpSet, Patch, PatchValue, RewriteError, RuleSet};
use llamac_ir::{Graph, NodeId, ValueId, Weight};

use super::simplify_weight::simplify;

/// Replaces weights by simpler recipes of the same values.
#[derive(Clone, Copy, Debug)]
pub struct FoldWeights;

impl DynRule for FoldWeights {
    fn name(&self) -> &'static str {
        "FoldWeights"
    }

    fn at(&self, node: NodeId, graph: &Graph, _: &dyn OpSet) -> Option<Result<Patch, NoMatch>> {
        let weights = graph.op(node)?.weights();
        let simple: Vec<Weight> = weights.iter().map(|weight| simplify(weight)).collect();
        let changed = weights.iter().zip(&simple).any(|(old, new)| *old != new);
        changed.then(|| with_weights(graph, node, simple))
    }
}

/// The operation at `node` with other weights.
pub(super) fn with_weights(graph: &Graph, node: NodeId, weights: Vec<Weight>) -> Result<Patch, NoMatch> {
    let (loc, mut patch) = (graph.loc(node), Patch::new());
    let missing = || NoMatch::new("a parameter has no weights", loc);
    let op = graph.op(node).ok_or_else(missing)?;
    let op = op.with_weights(weights).map_err(|message| NoMatch::new(message, loc))?;
    let operands: Vec<PatchValue> = graph.operands(node).iter().map(|&value| value.into()).collect();
    let first = patch.add(graph, loc, op, &operands)?;
    let results = graph.values(node).map(|old: ValueId| (old, first.result(old.result)));
    Ok(results.fold(patch, |patch, (old, new)| patch.replace(old, new)).erase([node]))
}

pub(super) fn run(graph: &mut Graph, target: &dyn OpSet) -> Result<rewrite::Report, RewriteError> {
    let dead = graph.remove_dead().len();
    let mut report = rewrite::apply(graph, &RuleSet::new().with(FoldWeights), target)?;
    let common = graph.merge_common();
    report.firings.push(Firing { rule: "DeadNodes", count: dead });
    report.firings.push(Firing { rule: "CommonSubexpressions", count: common });
    Ok(report)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::rewrite::AnyOp;
    use llamac_ir::testing::{assert_equivalent, parse, run, summary};

    use super::*;

    #[test]
    fn recipes_become_simple() {
        let text = "graph(%x: f32[batch, seq, 8], @q: bf16[8, 8], @k: bf16[4, 8], @b: f32[8], @n: f32[8]) {
            %0 = rms_norm %x, concat(@n) {eps=0.00001}
            %1 = linear %0, slice(concat(@q, concat(@k, @q)), start=0, rows=8), concat(slice(@b, start=0, rows=4), slice(@b, start=4, rows=4))
            return out=%1 }";
        assert_snapshot!(run(FoldWeights, text), @"
        graph<batch: 1.., seq: 1..>(
          %x: f32[batch, seq, 8],
          @n: f32[8],
          @q: bf16[8, 8],
          @b: f32[8],
        ) {
          %0 = rms_norm %x, @n {eps=1e-5} : f32[batch, seq, 8]
          %1 = linear %0, @q, @b : f32[batch, seq, 8]
          return out=%1
        }
        fired FoldWeights 2 times
        ");
    }

    #[test]
    fn equal_things_meet_and_dead_ones_go() {
        let before = parse(
            "graph(%x: f32[batch, seq, 8], @w: bf16[8, 8]) {
                %a = linear %x, @w loc(a)
                %b = linear %x, concat(@w) loc(b)
                %c = linear %x, transpose(transpose(@w))
                %s = add %a, %b
                return out=%s }",
        );
        let mut after = before.clone();
        let report = super::run(&mut after, &AnyOp).unwrap();
        assert_equivalent(&before, &after);
        assert_snapshot!(format!("{}{}", after.text_with_locs(), summary(&report)), @"
        graph<batch: 1.., seq: 1..>(
          %x: f32[batch, seq, 8],
          @w: bf16[8, 8],
        ) {
          %0 = linear %x, @w : f32[batch, seq, 8] loc(a, b)
          %1 = add %0, %0 : f32[batch, seq, 8]
          return out=%1
        }
        fired FoldWeights once
        fired DeadNodes once
        fired CommonSubexpressions once
        ");
    }
}
