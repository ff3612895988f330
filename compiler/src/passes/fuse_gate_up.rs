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
        let named =
            |name: &'static str| move |miss: NoMatch| root.miss(format!("the {name}: {}", miss.reason));
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

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::testing::run;

    use super::*;
    use crate::passes::testing::{Without, misses, run_for};

    const WEIGHTS: &str = "%x: f32[batch, seq, 8], @gate: bf16[16, 8], @up: bf16[16, 8]";

    fn feed_forward(params: &str, body: &str) -> String {
        format!("graph({params}) {{ {body} return out=%3 }}")
    }

    const PLAIN: &str = "%0 = linear %x, @gate loc(mlp.gate_proj)
        %1 = act %0 {function=silu} loc(mlp)
        %2 = linear %x, @up loc(mlp.up_proj)
        %3 = mul %1, %2 loc(mlp)";

    #[test]
    fn shared_input() {
        assert_snapshot!(run(FuseGateUp, &feed_forward(WEIGHTS, PLAIN)), @"
        graph<batch: 1.., seq: 1..>(
          %x: f32[batch, seq, 8],
          @gate: bf16[16, 8],
          @up: bf16[16, 8],
        ) {
          %0 = linear %x, concat(@gate, @up) : f32[batch, seq, 32]
          %1 = gated %0 {function=silu} : f32[batch, seq, 16]
          return out=%1
        }
        fired FuseGateUp once
        ");
    }

    #[test]
    fn the_product_commutes() {
        let body = PLAIN.replace("mul %1, %2", "mul %2, %1").replace("silu", "gelu_tanh");
        assert_snapshot!(run(FuseGateUp, &feed_forward(WEIGHTS, &body)), @"
        graph<batch: 1.., seq: 1..>(
          %x: f32[batch, seq, 8],
          @gate: bf16[16, 8],
          @up: bf16[16, 8],
        ) {
          %0 = linear %x, concat(@gate, @up) : f32[batch, seq, 32]
          %1 = gated %0 {function=gelu_tanh} : f32[batch, seq, 16]
          return out=%1
        }
        fired FuseGateUp once
        ");
    }

    #[test]
    fn misses_have_reasons() {
        let miss = |params: &str, body: &str| misses(&run(FuseGateUp, &feed_forward(params, body)));
        let bias = format!("{WEIGHTS}, @b: f32[16]");
        assert_snapshot!(miss(&bias, &PLAIN.replace("@up", "@up, @b")), @"missed FuseGateUp: mlp.{gate,up}_proj: 1 of 2 projections have a bias, expected all or none");
        let f16 = WEIGHTS.replace("@up: bf16", "@up: f16");
        assert_snapshot!(miss(&f16, PLAIN), @"missed FuseGateUp: mlp.{gate,up}_proj: the weights are bf16, f16, expected one format");
        let other = format!("%y = add %x, %x {}", PLAIN.replace("linear %x, @up", "linear %y, @up"));
        assert_snapshot!(miss(WEIGHTS, &other), @"missed FuseGateUp: mlp.{gate,up}_proj: the projections read different values");
        assert_snapshot!(miss(WEIGHTS, "%0 = linear %x, @gate %1 = linear %x, @up %3 = mul %0, %1"), @"missed FuseGateUp: ?: neither operand is an activation");
        let twice = format!("{PLAIN} %4 = add %3, %1");
        let twice = feed_forward(WEIGHTS, &twice).replace("out=%3", "out=%4");
        assert_snapshot!(misses(&run(FuseGateUp, &twice)), @"missed FuseGateUp: mlp: the value has 2 uses, expected one");
        let result = feed_forward(WEIGHTS, PLAIN).replace("out=%3", "out=%3, up=%2");
        assert_snapshot!(misses(&run(FuseGateUp, &result)), @"missed FuseGateUp: mlp.up_proj: the value is a result of the graph too");
        let both =
            PLAIN.replace("mul %1, %2", "mul %1, %4").replace("%3 =", "%4 = act %2 {function=relu} %3 =");
        assert_snapshot!(miss(WEIGHTS, &both), @"missed FuseGateUp: mlp: the other operand: expected linear, found act");
        let deep = PLAIN.replace("act %0", "act %4").replace("%1 =", "%4 = add %0, %0 %1 =");
        assert_snapshot!(miss(WEIGHTS, &deep), @"missed FuseGateUp: mlp: the activation's operand: expected linear, found add");
    }

    #[test]
    fn only_what_the_target_can_take() {
        let text = run_for(FuseGateUp, &Without(&["gated"]), &feed_forward(WEIGHTS, PLAIN));
        assert_snapshot!(misses(&text), @"missed FuseGateUp: mlp: gated is not legal for small: there is no kernel");
    }
}
