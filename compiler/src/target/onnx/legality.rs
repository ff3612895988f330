//! What each profile can take, in one table.

use llamac_ir::ops::{Act, Embed, GroupQueryAttention, Linear, Rotary};
use llamac_ir::rewrite::Signature;
use llamac_ir::{Activation, Op, WeightExpr};

use super::{Onnx, Profile, quantized};

/// Why nothing is quantized there.
const IN_PLACE: &str = "weights that stay in place are not quantized; write them with --external-data file";

/// The kernel of ONNX Runtime's CPU takes heads of a multiple of this size.
const GROUPED_HEAD_DIM: usize = 8;

/// Why `target` cannot take `op`, if it cannot.
pub(super) fn reason(target: Onnx, op: &Op, signature: Signature<'_>) -> Option<String> {
    let profile = target.profile;
    let only = |profiles: &[Profile]| match profiles.contains(&profile) {
        true => None,
        false => Some("there is no such operator in this profile".to_owned()),
    };
    match op {
        Op::Add(_)
        | Op::Binary(_)
        | Op::Cast(_)
        | Op::Concat(_)
        | Op::Constant(_)
        | Op::Expand(_)
        | Op::Gather(_)
        | Op::GatherRows(_)
        | Op::Matmul(_)
        | Op::Mul(_)
        | Op::Range(_)
        | Op::Reduce(_)
        | Op::Reshape(_)
        | Op::Shape(_)
        | Op::Slice(_)
        | Op::Softmax(_)
        | Op::Split(_)
        | Op::Transpose(_)
        | Op::Unary(_)
        | Op::Where(_)
        | Op::Act(Act { function: Activation::Relu }) => None,
        Op::Embed(Embed { table }) => match table.scheme() {
            Some(_) if target.weights_in_place => Some(IN_PLACE.to_owned()),
            Some(scheme) => quantized::embed_reason(profile, table, scheme),
            None => None,
        },
        Op::Linear(linear) => linear_reason(target, linear, signature),
        Op::RmsNorm(_) => only(&[Profile::Standard, Profile::Ort]),
        Op::AddRmsNorm(_) | Op::RotaryLookup(_) => only(&[Profile::Ort]),
        Op::Rotary(Rotary { interleaved: true, .. }) => {
            Some("rotations pair the halves of a head".to_owned())
        }
        Op::Rotary(_) | Op::AppendAttention(_) => only(&[Profile::Standard]),
        Op::GroupQueryAttention(GroupQueryAttention { head_dim, .. })
            if head_dim % GROUPED_HEAD_DIM != 0 && profile == Profile::Ort =>
        {
            Some(format!("heads of size {head_dim} are no multiple of {GROUPED_HEAD_DIM}"))
        }
        Op::GroupQueryAttention(_) => only(&[Profile::Ort]),
        _ => Some("there is no such operator".to_owned()),
    }
}

/// A product with a matrix is a Gemm, of two dimensions and with the matrix as the checkpoint has it, or a MatMul with
/// the transposed one.
fn linear_reason(target: Onnx, linear: &Linear, signature: Signature<'_>) -> Option<String> {
    match linear.weight.scheme() {
        Some(_) if target.weights_in_place => return Some(IN_PLACE.to_owned()),
        Some(scheme) => return quantized::linear_reason(target.profile, linear, scheme),
        None if !target.weights_in_place => return None,
        None => {}
    }
    if !matches!(linear.weight.expr(), WeightExpr::Source { .. } | WeightExpr::Convert { .. }) {
        return Some("a weight that stays in place is one tensor of the checkpoint".to_owned());
    }
    match signature.operands[0].rank() {
        2 => None,
        _ => Some("a weight that stays in place is not transposed".to_owned()),
    }
}
