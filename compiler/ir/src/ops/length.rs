use ndarray::ArrayD;

use super::{Reduce, Reduction};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require, take_args, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch, Steps};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `length positions`: one more than the largest of `positions i64[batch, seq]`, as `i64[]`: what transformers takes for
/// the length of all sequences where rotary frequencies depend on one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Length;

impl OpDef for Length {
    const MNEMONIC: &'static str = "length";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [positions] = take_args(args)?;
        require(positions, "positions", DType::I64, 2)?;
        Ok([TensorType::new(DType::I64, [])].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let last = args[0].as_i64()?.iter().copied().max().unwrap_or(-1);
        Ok(vec![ArrayD::from_elem(Vec::new(), last.saturating_add(1)).into()])
    }

    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let mut steps = Steps::new(node);
            let one = steps.literal(DType::I64, &[], &[1.0])?;
            let max = Reduce { function: Reduction::Max, axis: None };
            let last = steps.add(max, &[node.operand(0).into()])?;
            let length = steps.sum(last, one)?;
            Ok(steps.replace(node.value(), length))
        };
        Some(build())
    }
}
