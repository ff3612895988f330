//! Gate and up projections of a feed-forward as one, with the activation and the product in one operation.
//!
//! ```text
//! g = linear x, @gate
//! a = act g                   y = linear x, concat(@gate, @up)
//! u = linear x, @up      →    p = gated y
//! p = mul a, u
//! ```
//!
//! Anchored at `mul`, whose operands may come in either order. The parts must have no other use: they would be computed
//! twice.

use llamac_ir::ops::{Act, Gated, Linear, Mul};
use llamac_ir::rewrite::{self, NoMatch, OpRef, OpSet, Patch, RewriteError, Rule, RuleSet};
use llamac_ir::{Graph, Loc};

use super::join::join;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct FuseGateUp;

impl Rule for FuseGateUp {
    const NAME: &'static str = "FuseGateUp";
    type Root = Mul;

    fn rewrite(&self, root: OpRef<'_, Mul>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        let (g, mut patch) = (root.graph(), Patch::new());
        let (act, other) = match (root.operand_as::<Act>(0), root.operand_as::<Act>(1)) {
            (Ok(act), _) => (act, 1),
            (_, Ok(act)) => (act, 0),
            _ => return Err(root.miss("neither operand is an activation")),
        };
        let named = |name: &'static str| move |miss: NoMatch| root.miss(format!("the {name}: {}", miss.reason));
        let up = root.operand_as::<Linear>(other).map_err(named("other operand"))?;
        let gate = act.operand_as::<Linear>(0).map_err(named("activation's operand"))?;
        act.only_use()?;
        gate.only_use()?;
        up.only_use()?;
        let joined = join(&mut patch, &[gate, up])?;
        let loc = Loc::merge([act.loc(), root.loc()]);
        let gated = patch.add(g, &loc, Gated { function: act.function }, &[joined])?;
        patch.require_legal(g, target)?;
        Ok(patch.replace(root.value(), gated).erase([root.id(), act.id(), gate.id(), up.id()]))
    }
}

pub(super) fn run(graph: &mut Graph, target: &dyn OpSet) -> Result<rewrite::Report, RewriteError> {
    rewrite::apply(graph, &RuleSet::new().with(FuseGateUp), target)
}
