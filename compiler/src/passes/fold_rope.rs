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
use llamac_ir::rewrite::{self, DynRule, NoMatch, OpRef, OpSet, Patch, PatchValue, RewriteError, Rule, RuleSet};
use llamac_ir::{Graph, Loc, NodeId, Op, Permutation, ValueId, Weight};

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
            Some(node) => (
                PatchValue::Old(ValueId { node, result: 0 }),
                PatchValue::Old(ValueId { node, result: 1 }),
            ),
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
        let linear = rotary.operand_as::<Linear>(0)?;
        linear.only_use()?;
        let order = Permutation::InterleavedToHalf { heads: rotary.heads, head_dim: rotary.head_dim };
        let permute =
            |weight: &Weight| weight.permute(order).map_err(|error| linear.miss(error.to_string()));
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
