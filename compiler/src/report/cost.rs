//! Arithmetic of a graph: what its matrix products and attentions multiply and add.
//!
//! Norms, rotations and activations are left out: together they are below a hundredth of any model's work.

use llamac_ir::{Bindings, Graph, Op, TensorType};

/// Floating-point operations of a forward at the sizes of `bindings`; a multiplication and an addition count as two.
/// Nothing for a graph that has other symbols.
pub fn flops(graph: &Graph, bindings: &Bindings) -> Option<u64> {
    let size = |ty: &TensorType, dim: usize| u64::try_from(ty.shape.get(dim)?.eval(bindings).ok()?).ok();
    let mut total = 0u64;
    for node in graph.order() {
        let operand = |i: usize| graph.ty(graph.operands(node)[i]);
        total += match graph.op(node) {
            Some(Op::Linear(linear)) => {
                let result = &graph.types(node)[0];
                let rank = result.shape.len();
                let rows = (0..rank - 1).map(|dim| size(result, dim)).product::<Option<u64>>()?;
                2 * rows * linear.weight.elements() as u64
            }
            Some(Op::Attention(attention)) => {
                let (queries, keys) = (operand(0), operand(1));
                let (batch, seq, seen) = (size(queries, 0)?, size(queries, 1)?, size(keys, 2)?);
                let hidden = if attention.causal { seq * seq.saturating_sub(1) / 2 } else { 0 };
                let pairs = (seq * seen).saturating_sub(hidden);
                4 * batch * pairs * (attention.heads * attention.head_dim) as u64
            }
            _ => 0,
        };
    }
    Some(total)
}
