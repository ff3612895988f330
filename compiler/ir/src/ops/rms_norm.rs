use ndarray::ArrayD;

use super::{BinaryFunction, Reduce, Reduction, UnaryFunction};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require_weight, take_args, take_weights, width};
use crate::rewrite::{NoMatch, OpRef, Patch, Steps};
use crate::{DType, Real, Tensor, TensorType, Types, Weight};

/// `rms_norm x @w {eps}`: `w · (x / √(mean(x²) + eps))` along the last dimension (Zhang and Sennrich, 2019).
///
/// The quotient is rounded to `f32` before the weight multiplies it, as in transformers' `LlamaRMSNorm`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Weight,
    /// Added to the mean of squares.
    pub eps: Real,
}

impl OpDef for RmsNorm {
    const MNEMONIC: &'static str = "rms_norm";

    fn weights(&self) -> Vec<&Weight> {
        vec![&self.weight]
    }

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("eps", self.eps.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [weight] = take_weights(weights)?;
        Ok(Self { weight, eps: attrs.get("eps")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        require_weight("the weight", &self.weight, &[width(x, "x")?])?;
        Ok([x.clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let weight = context.weight(&self.weight)?;
        Ok(vec![normalize(args[0].as_f32()?, &weight, self.eps).into()])
    }

    /// The form that runtimes recognize as a norm: a power, a mean, a sum, a root, a quotient, a product.
    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let (mut steps, x) = (Steps::new(node), node.operand(0));
            let axis = node.ty(x).rank() - 1;
            let (two, eps) = (steps.number(2.0)?, steps.number(node.eps.get())?);
            let squares = steps.binary(BinaryFunction::Pow, x.into(), two)?;
            let mean = steps.add(Reduce { function: Reduction::Mean, axis: Some(axis) }, &[squares])?;
            let mean = steps.sum(mean, eps)?;
            let root = steps.unary(UnaryFunction::Sqrt, mean)?;
            let unit = steps.binary(BinaryFunction::Div, x.into(), root)?;
            let weight = steps.constant(node.weight.clone())?;
            let weight = steps.cast(weight, DType::F32)?;
            let normed = steps.product(unit, weight)?;
            Ok(steps.replace(node.value(), normed))
        };
        Some(build())
    }
}

/// The meaning of [`RmsNorm`], which `add_rms_norm` shares.
pub(super) fn normalize(x: &ArrayD<f32>, weight: &ArrayD<f32>, eps: Real) -> ArrayD<f32> {
    let mut y = x.clone();
    for mut row in y.rows_mut() {
        let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let scale = 1.0 / (squares / row.len() as f64 + eps.get()).sqrt();
        for (x, w) in row.iter_mut().zip(weight) {
            *x = w * ((f64::from(*x) * scale) as f32);
        }
    }
    y
}
