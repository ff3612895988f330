use ndarray::ArrayD;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `shape x {start, end}`: the sizes of the dimensions from `start` to before `end`, as `i64[end - start]`. A
/// primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The first dimension.
    pub start: usize,
    /// The dimension after the last.
    pub end: usize,
}

impl OpDef for Shape {
    const MNEMONIC: &'static str = "shape";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("start", self.start.to_string()), ("end", self.end.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { start: attrs.get("start")?, end: attrs.get("end")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        if self.start >= self.end || self.end > x.rank() {
            return Err(format!("{x} has no dimensions {} to {}", self.start, self.end));
        }
        Ok([TensorType::new(DType::I64, [(self.end - self.start).into()])].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let sizes: Vec<i64> = args[0].shape()[self.start..self.end].iter().map(|&size| size as i64).collect();
        Ok(vec![ArrayD::from_shape_vec(vec![sizes.len()], sizes).map_err(|e| e.to_string())?.into()])
    }
}
