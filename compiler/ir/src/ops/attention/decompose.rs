//! Attention as matrix products.

use super::Attention;
use crate::Dim;
use crate::ops::{Concat, Matmul, Softmax};
use crate::rewrite::{NoMatch, OpRef, Patch, PatchValue, Steps};

/// Attention with a bias or without, as matrix products.
pub(super) fn products(node: OpRef<'_, Attention>) -> Result<Patch, NoMatch> {
    let (mut steps, q) = (Steps::new(node), node.operand(0));
    let (batch, seq) = (node.ty(q).shape[0].clone(), node.ty(q).shape[1].clone());
    let groups = node.heads / node.kv_heads;
    let [kv_heads, group, head_dim]: [Dim; 3] = [node.kv_heads.into(), groups.into(), node.head_dim.into()];
    let mut queries: PatchValue = q.into();
    if groups == 1 {
        queries = steps.reshape(queries, [batch.clone(), seq.clone(), kv_heads.clone(), head_dim.clone()])?;
        queries = steps.transpose(queries, &[0, 2, 1, 3])?;
    } else {
        let split = [batch.clone(), seq.clone(), kv_heads.clone(), group.clone(), head_dim.clone()];
        queries = steps.reshape(queries, split)?;
        queries = steps.transpose(queries, &[0, 2, 3, 1, 4])?;
        let stacked = [batch.clone(), kv_heads.clone(), group.clone() * seq.clone(), head_dim.clone()];
        queries = steps.reshape(queries, stacked)?;
    }
    let scale = steps.number(node.scale.get())?;
    queries = steps.product(queries, scale)?;
    let keys = steps.transpose(node.operand(1).into(), &[0, 1, 3, 2])?;
    let mut scores = steps.add(Matmul, &[queries, keys])?;
    if let Some(&bias) = node.operands().get(3) {
        let mut bias: PatchValue = bias.into();
        if groups > 1 {
            // From where the bias comes from: all layers share it.
            steps.move_to(node.graph().loc(node.operand(3).node));
            bias = steps.add(Concat { axis: 2 }, &vec![bias; groups])?;
            steps.move_to(node.loc());
        }
        scores = steps.sum(scores, bias)?;
    }
    let shares = steps.add(Softmax, &[scores])?;
    let mut attended = steps.add(Matmul, &[shares, node.operand(2).into()])?;
    if groups == 1 {
        attended = steps.transpose(attended, &[0, 2, 1, 3])?;
    } else {
        attended = steps.reshape(attended, [batch, kv_heads, group, seq, head_dim])?;
        attended = steps.transpose(attended, &[0, 3, 1, 2, 4])?;
    }
    attended = steps.reshape(attended, node.ty(q).shape.iter().cloned())?;
    Ok(steps.replace(node.value(), attended))
}
