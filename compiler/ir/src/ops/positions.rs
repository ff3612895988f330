use ndarray::ArrayD;

use super::{Constant, Expand, Gather, Range, Shape};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `positions x`: 0, 1, 2, … in every row of `i64[batch, seq]`, for `x [batch, seq, …]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Positions;

impl OpDef for Positions {
    const MNEMONIC: &'static str = "positions";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        match &x.shape[..] {
            [batch, seq, ..] => {
                Ok([TensorType::new(DType::I64, [batch.clone(), seq.clone()])].into_iter().collect())
            }
            _ => Err(format!("x must have rows and positions, found {x}")),
        }
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let shape = args[0].shape()[..2].to_vec();
        Ok(vec![ArrayD::from_shape_fn(shape, |at| at[1] as i64).into()])
    }

    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let (g, mut patch) = (node.graph(), Patch::new());
            let shape = node.ty(node.value()).shape.to_vec();
            let zero = Weight::literal(DType::I64, &[], &[0.0]).map_err(|e| node.miss(e.to_string()))?;
            let one = Weight::literal(DType::I64, &[], &[1.0]).map_err(|e| node.miss(e.to_string()))?;
            let zero = patch.add(g, node.loc(), Constant { weight: zero }, &[])?;
            let one = patch.add(g, node.loc(), Constant { weight: one }, &[])?;
            let sizes = patch.add(g, node.loc(), Shape { start: 0, end: 2 }, &[node.operand(0).into()])?;
            let seq = patch.add(g, node.loc(), Gather { axis: 0 }, &[sizes, one])?;
            let row = patch.add(g, node.loc(), Range { length: shape[1].clone() }, &[zero, seq])?;
            let rows = patch.add(g, node.loc(), Expand { shape }, &[row, sizes])?;
            Ok(patch.replace(node.value(), rows))
        };
        Some(build())
    }
}
