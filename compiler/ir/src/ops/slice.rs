use ndarray::{Axis, Slice as Range};

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require_type, sizes, take_args, take_weights};
use crate::{DType, Dim, Tensor, TensorType, Types, Weight};

/// `slice x, start {axis, size}`: what follows position `start i64[1]` of a dimension; a negative one counts from the
/// end. `size` is what is left of it. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The dimension.
    pub axis: usize,
    /// Its size in the result.
    pub size: Dim,
}

impl OpDef for Slice {
    const MNEMONIC: &'static str = "slice";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("axis", self.axis.to_string()), ("size", self.size.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { axis: attrs.get("axis")?, size: attrs.get("size")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x, start] = take_args(args)?;
        require_type("start", start, &TensorType::new(DType::I64, [1usize.into()]))?;
        let mut sliced = x.clone();
        match sliced.shape.get_mut(self.axis) {
            Some(size) => *size = self.size.clone(),
            None => return Err(format!("{x} has no dimension {}", self.axis)),
        }
        Ok([sliced].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let start = args[1].as_i64()?.first().copied().ok_or("there is no start")?;
        let length = args[0].shape()[self.axis] as i64;
        let from = if start < 0 { length + start } else { start }.clamp(0, length);
        let size = sizes(std::slice::from_ref(&self.size), context)?[0];
        if length - from != size as i64 {
            return Err(format!("{} positions are left, not {size}", length - from));
        }
        let (axis, range) = (Axis(self.axis), Range::from(from as isize..));
        Ok(vec![match args[0] {
            Tensor::F32(x) => Tensor::F32(x.slice_axis(axis, range).into_owned()).standardized(),
            Tensor::I64(x) => Tensor::I64(x.slice_axis(axis, range).into_owned()).standardized(),
        }])
    }
}
