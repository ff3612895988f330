use ndarray::{ArrayD, Axis};

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `gather x, index {axis}`: the slice of `x` at a position `index i64[]` of a dimension, which vanishes; a negative
/// one counts from the end. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gather {
    /// The dimension.
    pub axis: usize,
}

impl OpDef for Gather {
    const MNEMONIC: &'static str = "gather";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("axis", self.axis.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { axis: attrs.get("axis")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x, index] = take_args(args)?;
        crate::op::require(index, "index", DType::I64, 0)?;
        if self.axis >= x.rank() {
            return Err(format!("{x} has no dimension {}", self.axis));
        }
        let mut gathered = x.clone();
        gathered.shape.remove(self.axis);
        Ok([gathered].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let index = args[1].as_i64()?.first().copied().ok_or("there is no index")?;
        let length = args[0].shape()[self.axis];
        let at = if index < 0 { index + length as i64 } else { index };
        let at = usize::try_from(at).ok().filter(|&at| at < length);
        let at = at.ok_or_else(|| format!("there is no position {index} of {length}"))?;
        fn take<T: Clone>(x: &ArrayD<T>, axis: usize, at: usize) -> ArrayD<T> {
            x.index_axis(Axis(axis), at).as_standard_layout().into_owned()
        }
        Ok(vec![match args[0] {
            Tensor::F32(x) => take(x, self.axis, at).into(),
            Tensor::I64(x) => take(x, self.axis, at).into(),
        }])
    }
}
