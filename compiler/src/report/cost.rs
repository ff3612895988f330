//! Arithmetic of a graph: what its matrix products and attentions multiply and add.
//!
//! Norms, rotations and activations are left out: together they are below a hundredth of any model's work.

use llamac_ir::{Bindings, Graph, Op, TensorType};

/// Floating-point operations of a forward at the sizes of `bindings`; a multiplication and an addition count as two.
/// Nothing for a graph that has other symbols, or where they are more than 2^64.
pub fn flops(graph: &Graph, bindings: &Bindings) -> Option<u64> {
    let size = |ty: &TensorType, dim: usize| u64::try_from(ty.shape.get(dim)?.eval(bindings).ok()?).ok();
    let product = |factors: &[u64]| factors.iter().try_fold(1u64, |all, &factor| all.checked_mul(factor));
    let mut total = 0u64;
    for node in graph.order() {
        let operand = |i: usize| graph.ty(graph.operands(node)[i]);
        let flops = match graph.op(node) {
            Some(Op::Linear(linear)) => {
                let result = &graph.types(node)[0];
                let rank = result.shape.len();
                let rows: Vec<u64> = (0..rank - 1).map(|dim| size(result, dim)).collect::<Option<_>>()?;
                product(&[2, product(&rows)?, linear.weight.elements() as u64])?
            }
            Some(Op::Attention(attention)) => {
                let (queries, keys) = (operand(0), operand(1));
                let (batch, seq, seen) = (size(queries, 0)?, size(queries, 1)?, size(keys, 2)?);
                let hidden = if attention.causal { product(&[seq, seq.saturating_sub(1)])? / 2 } else { 0 };
                let pairs = product(&[seq, seen])?.saturating_sub(hidden);
                product(&[4, batch, pairs, (attention.heads * attention.head_dim) as u64])?
            }
            _ => 0,
        };
        total = total.checked_add(flops)?;
    }
    Some(total)
}
