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

use llamac_ir::rewrite::{
    self, DynRule, Firing, NoMatch, OpSet, Patch, PatchValue, RewriteError, RuleSet,
};
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
        changed.then(|| replace(graph, node, simple))
    }
}

fn replace(graph: &Graph, node: NodeId, weights: Vec<Weight>) -> Result<Patch, NoMatch> {
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
