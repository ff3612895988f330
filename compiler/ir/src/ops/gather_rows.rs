use ndarray::{ArrayD, Axis, stack};

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require, require_type, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `gather_rows x, index`: of each row of `x [batch, seq, width]` the position `index i64[batch, 1]` →
/// `[batch, width]`. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatherRows;

impl OpDef for GatherRows {
    const MNEMONIC: &'static str = "gather_rows";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x, index] = take_args(args)?;
        require(x, "x", DType::F32, 3)?;
        require_type("index", index, &TensorType::new(DType::I64, [x.shape[0].clone(), 1usize.into()]))?;
        Ok([TensorType::new(DType::F32, [x.shape[0].clone(), x.shape[2].clone()])].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let (x, index) = (args[0].as_f32()?, args[1].as_i64()?);
        let row = |(row, &at): (usize, &i64)| {
            let at = usize::try_from(at).ok().filter(|&at| at < x.shape()[1]);
            let at = at.ok_or_else(|| format!("there is no position {at:?} of {}", x.shape()[1]))?;
            Ok(x.index_axis(Axis(0), row).index_axis_move(Axis(0), at))
        };
        let rows = index.iter().enumerate().map(row).collect::<Result<Vec<_>, String>>()?;
        if rows.is_empty() {
            return Ok(vec![ArrayD::<f32>::zeros(vec![0, x.shape()[2]]).into()]);
        }
        Ok(vec![stack(Axis(0), &rows).map_err(|e| e.to_string())?.into()])
    }
}
