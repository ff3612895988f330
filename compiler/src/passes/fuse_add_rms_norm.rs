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
            .map_err(|no_match| root.miss(format!("the operand: {}", no_match.reason)))?;
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
