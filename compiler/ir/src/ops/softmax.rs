use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `softmax x`: exponentials along the last dimension, divided by their sum. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Softmax;

impl OpDef for Softmax {
    const MNEMONIC: &'static str = "softmax";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        if x.dtype != DType::F32 || x.rank() == 0 {
            return Err(format!("x must be f32 of at least one dimension, found {x}"));
        }
        Ok([x.clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let mut y = args[0].as_f32()?.clone();
        for mut row in y.rows_mut() {
            let peak = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> = row.iter().map(|x| libm::exp(f64::from(*x) - f64::from(peak))).collect();
            let sum: f64 = weights.iter().sum();
            for (y, weight) in row.iter_mut().zip(weights) {
                *y = (weight / sum) as f32;
            }
        }
        Ok(vec![y.into()])
    }
}
