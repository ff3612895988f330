use ndarray::ArrayD;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::{Tensor, TensorType, Types, Weight};

/// `constant @w`: a weight as a value, of its own type. Shaped by legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Constant {
    /// What it holds.
    pub weight: Weight,
}

impl OpDef for Constant {
    const MNEMONIC: &'static str = "constant";

    fn weights(&self) -> Vec<&Weight> {
        vec![&self.weight]
    }

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [weight] = take_weights(weights)?;
        Ok(Self { weight })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [] = take_args(args)?;
        Ok([self.weight.ty()].into_iter().collect())
    }

    fn eval(&self, _: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let value: ArrayD<f32> = context.weight(&self.weight)?;
        Ok(vec![if self.weight.dtype().is_float() {
            value.into()
        } else {
            value.mapv(|element| element as i64).into()
        }])
    }
}
