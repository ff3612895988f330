use ndarray::{ArrayD, Axis};

use super::Rotary;
use super::rotary::rotate;
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, heads_width, require, require_type, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `rotary_lookup x, rows, cos, sin {heads, head_dim}`: [`Rotary`] with the angles in a table.
///
/// `x [batch, seq, heads · head_dim]`, `rows i64[batch, seq]` the row of `cos` and `sin` `[rows, head_dim / 2]` for each
/// token. Shaped by legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RotaryLookup {
    /// Heads in `x`.
    pub heads: usize,
    /// The size of a head; even.
    pub head_dim: usize,
}

impl OpDef for RotaryLookup {
    const MNEMONIC: &'static str = "rotary_lookup";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("heads", self.heads.to_string()), ("head_dim", self.head_dim.to_string())]
    }

    fn build(weights: Vec<Weight>, a: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { heads: a.get("heads")?, head_dim: a.get("head_dim")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x, rows, cos, sin] = take_args(args)?;
        require(x, "x", DType::F32, 3)?;
        require_type("x", x, &x.with_width(heads_width(self.heads, self.head_dim)))?;
        require_type("rows", rows, &TensorType::new(DType::I64, x.shape[..2].iter().cloned()))?;
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(format!("heads of size {} cannot be rotated in pairs", self.head_dim));
        }
        require(cos, "cos", DType::F32, 2)?;
        require_type("cos", cos, &cos.with_width(self.head_dim / 2))?;
        require_type("sin", sin, cos)?;
        Ok([x.clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let (x, rows) = (args[0].as_f32()?, args[1].as_i64()?);
        let look_up = |table: &ArrayD<f32>| {
            let rows =
                rows.iter().map(|&row| usize::try_from(row).ok().filter(|&row| row < table.shape()[0]));
            let rows = rows.collect::<Option<Vec<_>>>().ok_or("a row is not in the table")?;
            let shape = [&x.shape()[..2], &[self.head_dim / 2]].concat();
            table.select(Axis(0), &rows).into_shape_with_order(shape).map_err(|e| e.to_string())
        };
        let (cos, sin) = (look_up(args[2].as_f32()?)?, look_up(args[3].as_f32()?)?);
        let rotary = Rotary { heads: self.heads, head_dim: self.head_dim, interleaved: false };
        Ok(vec![rotate(x, &cos, &sin, &rotary).into()])
    }
}
