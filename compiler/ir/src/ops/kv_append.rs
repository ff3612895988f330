use ndarray::ArrayD;

use super::{Concat, SplitHeads};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require, require_type, take_args, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch, Steps};
use crate::{DType, Dim, Tensor, TensorType, Types, Weight};

/// `kv_append past, new`: a cache with new positions after the old ones.
///
/// `past [batch, heads, past, head_dim]`, `new [batch, seq, heads · head_dim]` →
/// `[batch, heads, past + seq, head_dim]`. Updating in place is a decision of memory planning, not of the graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KvAppend;

impl OpDef for KvAppend {
    const MNEMONIC: &'static str = "kv_append";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [past, new] = take_args(args)?;
        require(past, "past", DType::F32, 4)?;
        require(new, "new", DType::F32, 3)?;
        let [batch, heads, old, head_dim] = [0, 1, 2, 3].map(|i| past.shape[i].clone());
        let row: Dim = heads.clone() * head_dim.clone();
        let seq = new.shape[1].clone();
        require_type("new", new, &TensorType::new(DType::F32, [batch.clone(), seq.clone(), row]))?;
        Ok([TensorType::new(DType::F32, [batch, heads, old + seq, head_dim])].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let (past, new) = (args[0].as_f32()?, args[1].as_f32()?);
        let &[batch, heads, old, head_dim] = past.shape() else {
            return Err("past must have 4 dimensions".to_owned());
        };
        let total = ArrayD::from_shape_fn(vec![batch, heads, old + new.shape()[1], head_dim], |at| {
            let (row, head, position, i) = (at[0], at[1], at[2], at[3]);
            if position < old { past[&at] } else { new[[row, position - old, head * head_dim + i]] }
        });
        Ok(vec![total.into()])
    }

    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let (mut steps, past) = (Steps::new(node), node.operand(0));
            let heads = node.ty(past).shape[1].as_constant().and_then(|heads| usize::try_from(heads).ok());
            let heads = heads.ok_or_else(|| node.miss("the number of heads is not fixed"))?;
            let new = steps.add(SplitHeads { heads }, &[node.operand(1).into()])?;
            let all = steps.add(Concat { axis: 2 }, &[past.into(), new])?;
            Ok(steps.replace(node.value(), all))
        };
        Some(build())
    }
}
