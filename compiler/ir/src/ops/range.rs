use ndarray::ArrayD;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require_type, sizes, take_args, take_weights};
use crate::{DType, Dim, Tensor, TensorType, Types, Weight};

/// `range start, limit {length}`: the integers from `start i64[]` to before `limit i64[]`, which are `length` many. A
/// primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// How many there are.
    pub length: Dim,
}

impl OpDef for Range {
    const MNEMONIC: &'static str = "range";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("length", self.length.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { length: attrs.get("length")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [start, limit] = take_args(args)?;
        let scalar = TensorType::new(DType::I64, []);
        require_type("start", start, &scalar)?;
        require_type("limit", limit, &scalar)?;
        Ok([TensorType::new(DType::I64, [self.length.clone()])].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let scalar = |arg: &Tensor| arg.as_i64()?.first().copied().ok_or("an operand is empty".to_owned());
        let (start, limit) = (scalar(args[0])?, scalar(args[1])?);
        let length = sizes(std::slice::from_ref(&self.length), context)?[0];
        if limit.checked_sub(start) != Some(length as i64) {
            return Err(format!("{start} to {limit} are not {length} integers"));
        }
        let values: Vec<i64> = (start..limit).collect();
        Ok(vec![ArrayD::from_shape_vec(vec![length], values).map_err(|e| e.to_string())?.into()])
    }
}
