//! A legalization for targets without grouped-query attention: every key and value head is repeated for each of the
//! query heads that share it.
//!
//! ```text
//!                                                   k' = repeat_kv k {groups=4}
//! attention q, k, v {heads=8, kv_heads=2, …}   →    v' = repeat_kv v {groups=4}
//!                                                   attention q, k', v' {heads=8, kv_heads=8, …}
//! ```
//!
//! The cache keeps its own heads: what is repeated is what attention reads.

use llamac_ir::ops::{Attention, RepeatKv};
use llamac_ir::rewrite::{NoMatch, OpRef, OpSet, Patch, PatchValue, Rule};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct ExpandGqa;

impl Rule for ExpandGqa {
    const NAME: &'static str = "ExpandGqa";
    type Root = Attention;

    fn rewrite(&self, root: OpRef<'_, Attention>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        if root.heads == root.kv_heads {
            return Err(root.miss("every query head has its own key head"));
        }
        let (g, mut patch) = (root.graph(), Patch::new());
        let repeat = RepeatKv { groups: root.heads / root.kv_heads };
        let mut operands: Vec<PatchValue> = root.operands().iter().map(|&value| value.into()).collect();
        for operand in &mut operands[1..3] {
            *operand = patch.add(g, root.loc(), repeat.clone(), &[*operand])?;
        }
        let expanded = Attention { kv_heads: root.heads, ..root.op().clone() };
        let attended = patch.add(g, root.loc(), expanded, &operands)?;
        patch.require_legal(g, target)?;
        Ok(patch.replace(root.value(), attended).erase([root.id()]))
    }
}
