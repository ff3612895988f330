use ndarray::ArrayD;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, heads_width, require, require_type, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `rotary x, cos, sin {heads, head_dim, interleaved}`: the rotation of [`super::Rope`] with given angles.
///
/// `x [batch, seq, heads · head_dim]`, `cos` and `sin` `[batch, seq, head_dim / 2]`. Shaped by passes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rotary {
    /// Heads in `x`.
    pub heads: usize,
    /// The size of a head; even.
    pub head_dim: usize,
    /// Whether pairs are neighbours and not half a head apart.
    pub interleaved: bool,
}

impl OpDef for Rotary {
    const MNEMONIC: &'static str = "rotary";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("heads", self.heads.to_string()),
            ("head_dim", self.head_dim.to_string()),
            ("interleaved", self.interleaved.to_string()),
        ]
    }

    fn build(weights: Vec<Weight>, a: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { heads: a.get("heads")?, head_dim: a.get("head_dim")?, interleaved: a.get("interleaved")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x, cos, sin] = take_args(args)?;
        require(x, "x", DType::F32, 3)?;
        require_type("x", x, &x.with_width(heads_width(self.heads, self.head_dim)))?;
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(format!("heads of size {} cannot be rotated in pairs", self.head_dim));
        }
        require_type("cos", cos, &x.with_width(self.head_dim / 2))?;
        require_type("sin", sin, cos)?;
        Ok([x.clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        Ok(vec![rotate(args[0].as_f32()?, args[1].as_f32()?, args[2].as_f32()?, self).into()])
    }
}

/// The meaning of [`Rotary`], which `rope` shares.
pub(super) fn rotate(x: &ArrayD<f32>, cos: &ArrayD<f32>, sin: &ArrayD<f32>, op: &Rotary) -> ArrayD<f32> {
    let half = op.head_dim / 2;
    let mut y = x.clone();
    for ((mut row, cos), sin) in y.rows_mut().into_iter().zip(cos.rows()).zip(sin.rows()) {
        for (head, i) in (0..op.heads).flat_map(|head| (0..half).map(move |i| (head * op.head_dim, i))) {
            let (a, b) =
                if op.interleaved { (head + 2 * i, head + 2 * i + 1) } else { (head + i, head + i + half) };
            let (x, y) = (row[a], row[b]);
            row[a] = x * cos[i] - y * sin[i];
            row[b] = y * cos[i] + x * sin[i];
        }
    }
    y
}
