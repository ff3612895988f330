//! A residual sum and the norm of it as one: the hidden state is written once and not read back.
//!
//! ```text
//! s = add a, b
//! n = rms_norm s, @w     →    s, n = add_rms_norm a, b, @w
//! ```
//!
//! Anchored at `rms_norm`. The sum may have other uses, for it stays a result.

use llamac_ir::ops::{Add, AddRmsNorm, RmsNorm};
use llamac_ir::rewrite::{self, NoMatch, OpRef, OpSet, Patch, RewriteError, Rule, RuleSet};
use llamac_ir::{Graph, Loc};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct FuseAddRmsNorm;

impl Rule for FuseAddRmsNorm {
    const NAME: &'static str = "FuseAddRmsNorm";
    type Root = RmsNorm;

    fn rewrite(&self, root: OpRef<'_, RmsNorm>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        let (g, mut patch) = (root.graph(), Patch::new());
        let add = root
            .operand_as::<Add>(0)
            .map_err(|no_match| root.miss(format!("nothing is added before it: {}", no_match.reason)))?;
        let fused = AddRmsNorm { weight: root.weight.clone(), eps: root.eps };
        let loc = Loc::merge([add.loc(), root.loc()]);
        let operands = [add.operand(0).into(), add.operand(1).into()];
        let fused = patch.add(g, &loc, fused, &operands)?;
        patch.require_legal(g, target)?;
        let patch = patch.replace(add.value(), fused).replace(root.value(), fused.result(1));
        Ok(patch.erase([add.id(), root.id()]))
    }
}

pub(super) fn run(graph: &mut Graph, target: &dyn OpSet) -> Result<rewrite::Report, RewriteError> {
    rewrite::apply(graph, &RuleSet::new().with(FuseAddRmsNorm), target)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::testing::run;

    use super::*;
    use crate::passes::testing::{Without, misses, run_for};

    const RESIDUAL: &str = "graph(%x: f32[batch, seq, 8], %y: f32[batch, seq, 8], @w: f32[8]) {
        %s = add %x, %y loc(layers.0)
        %n = rms_norm %s, @w {eps=0.00001} loc(layers.0.norm)
        %t = add %s, %n
        return out=%t, hidden=%s }";

    #[test]
    fn the_sum_stays_a_result() {
        assert_snapshot!(run(FuseAddRmsNorm, RESIDUAL), @"
        graph<batch: 1.., seq: 1..>(
          %x: f32[batch, seq, 8],
          %y: f32[batch, seq, 8],
          @w: f32[8],
        ) {
          %0, %1 = add_rms_norm %x, %y, @w {eps=1e-5} : f32[batch, seq, 8], f32[batch, seq, 8]
          %2 = add %0, %1 : f32[batch, seq, 8]
          return out=%2, hidden=%0
        }
        fired FuseAddRmsNorm once
        ");
    }

    #[test]
    fn one_norm_of_a_sum() {
        let text = "graph(%x: f32[batch, seq, 8], %y: f32[batch, seq, 8], @w: f32[8], @v: f32[8]) {
            %s = add %x, %y
            %n = rms_norm %s, @w {eps=0.00001}
            %m = rms_norm %s, @v {eps=0.00001}
            return n=%n, m=%m }";
        assert_snapshot!(run(FuseAddRmsNorm, text), @"
        graph<batch: 1.., seq: 1..>(
          %x: f32[batch, seq, 8],
          %y: f32[batch, seq, 8],
          @w: f32[8],
          @v: f32[8],
        ) {
          %0, %1 = add_rms_norm %x, %y, @w {eps=1e-5} : f32[batch, seq, 8], f32[batch, seq, 8]
          %2 = rms_norm %0, @v {eps=1e-5} : f32[batch, seq, 8]
          return n=%1, m=%2
        }
        fired FuseAddRmsNorm once
        missed FuseAddRmsNorm: ?: nothing is added before it: expected add, found add_rms_norm
        ");
    }

    #[test]
    fn misses_have_reasons() {
        let text = "graph(%x: f32[batch, seq, 8], @w: f32[8]) {
            %n = rms_norm %x, @w {eps=0.00001} loc(norm)
            %m = rms_norm %n, @w {eps=0.00001} loc(again)
            return out=%m }";
        assert_snapshot!(misses(&run(FuseAddRmsNorm, text)), @"
        missed FuseAddRmsNorm: norm: nothing is added before it: expected add, found a parameter
        missed FuseAddRmsNorm: again: nothing is added before it: expected add, found rms_norm
        ");
        assert_snapshot!(misses(&run_for(FuseAddRmsNorm, &Without(&["add_rms_norm"]), RESIDUAL)), @"missed FuseAddRmsNorm: layers.{0,0.norm}: add_rms_norm is not legal for small: there is no kernel");
    }
}
