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
use llamac_ir::{Graph, ValueId};

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
        let loc = llamac_ir::Loc::merge(parts.iter().map(|part| part.loc()));
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
