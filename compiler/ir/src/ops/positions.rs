use ndarray::ArrayD;

use super::{Expand, Gather, Range, Shape};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch, Steps};
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
            let mut steps = Steps::new(node);
            let shape = node.ty(node.value()).shape.to_vec();
            let zero = steps.literal(DType::I64, &[], &[0.0])?;
            let one = steps.literal(DType::I64, &[], &[1.0])?;
            let sizes = steps.add(Shape { start: 0, end: 2 }, &[node.operand(0).into()])?;
            let seq = steps.add(Gather { axis: 0 }, &[sizes, one])?;
            let row = steps.add(Range { length: shape[1].clone() }, &[zero, seq])?;
            let rows = steps.add(Expand { shape }, &[row, sizes])?;
            Ok(steps.replace(node.value(), rows))
        };
        Some(build())
    }
}
