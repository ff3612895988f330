use ndarray::Zip;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, broadcast, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `where condition, a, b`: elements of `a` where the condition holds, of `b` elsewhere, with broadcasting.
///
/// `condition` is `bool`, `a` and `b` are of one type. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Where;

impl OpDef for Where {
    const MNEMONIC: &'static str = "where";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [condition, a, b] = take_args(args)?;
        if condition.dtype != DType::Bool || a.dtype != b.dtype {
            return Err(format!("takes a bool and two tensors of one type, found {condition}, {a} and {b}"));
        }
        let both = TensorType::new(a.dtype, broadcast(a, b)?);
        Ok([TensorType::new(a.dtype, broadcast(condition, &both)?)].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let (condition, a, b) = (args[0].as_i64()?, args[1].as_f32()?, args[2].as_f32()?);
        let shape =
            super::binary::shape(super::binary::shape(a.shape(), b.shape()).as_slice(), condition.shape());
        let fails = || format!("no shape for {:?}, {:?} and {:?}", condition.shape(), a.shape(), b.shape());
        let condition = condition.broadcast(&shape[..]).ok_or_else(fails)?;
        let (a, b) = (a.broadcast(&shape[..]).ok_or_else(fails)?, b.broadcast(&shape[..]).ok_or_else(fails)?);
        Ok(vec![
            Zip::from(condition).and(a).and(b).map_collect(|&c, &a, &b| if c != 0 { a } else { b }).into(),
        ])
    }
}
