//! What attention over a growing cache is made of.

use llamac_ir::ops::{Attention, KvAppend, SplitHeads};
use llamac_ir::rewrite::{NoMatch, OpRef};
use llamac_ir::{DType, NodeId, ValueId};

/// An attention with a bias whose keys and values were appended to a cache, or are new.
pub(super) struct Append {
    pub(super) query: ValueId,
    /// The new keys and values, `[batch, seq, kv_heads · head_dim]`.
    pub(super) new: [ValueId; 2],
    pub(super) bias: ValueId,
    /// The cache before, where there is one.
    pub(super) past: Option<[ValueId; 2]>,
    /// The cache after: what attention reads.
    pub(super) grown: [ValueId; 2],
    /// The nodes that make it.
    pub(super) nodes: [NodeId; 2],
}

impl Append {
    /// Matches `root`, or tells what is missing.
    pub(super) fn of(root: OpRef<'_, Attention>) -> Result<Self, NoMatch> {
        let bias = root.operands().get(3).copied().filter(|&bias| root.ty(bias).dtype == DType::F32);
        let bias = bias.ok_or_else(|| root.miss("it has no bias"))?;
        if root.causal {
            return Err(root.miss("it is causal beside its bias"));
        }
        let grown = [root.operand(1), root.operand(2)];
        let part = |value: ValueId| {
            if let Ok(append) = root.graph().op_of::<KvAppend>(value) {
                return Ok((append.operand(1), Some(append.operand(0)), append.id()));
            }
            let split = root.graph().op_of::<SplitHeads>(value)?;
            Ok((split.operand(0), None, split.id()))
        };
        let [(key, past_key, key_node), (value, past_value, value_node)] = [part(grown[0])?, part(grown[1])?];
        let past = match (past_key, past_value) {
            (Some(key), Some(value)) => Some([key, value]),
            (None, None) => None,
            _ => return Err(root.miss("either keys or values have a past, not both")),
        };
        let nodes = [key_node, value_node];
        Ok(Self { query: root.operand(0), new: [key, value], bias, past, grown, nodes })
    }
}
