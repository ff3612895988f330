use super::binary::zip;
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, broadcast, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `mul a, b`: the product of two tensors of numbers of one element type, element by element, with broadcasting.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mul;

impl OpDef for Mul {
    const MNEMONIC: &'static str = "mul";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [a, b] = take_args(args)?;
        if a.dtype != b.dtype || a.dtype == DType::Bool {
            return Err(format!("a and b must be numbers of one element type, found {a} and {b}"));
        }
        Ok([TensorType::new(a.dtype, broadcast(a, b)?)].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        Ok(vec![match args[0] {
            Tensor::F32(a) => zip(a, args[1].as_f32()?, |a, b| a * b)?.into(),
            Tensor::I64(a) => zip(a, args[1].as_i64()?, i64::wrapping_mul)?.into(),
        }])
    }
}
