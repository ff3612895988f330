use ndarray::ArrayD;

use super::{Concat, Split, UnaryFunction};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, heads_width, require, require_type, take_args, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch, PatchValue, Steps};
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

    /// `x · (cos | cos) + (second half of x | first half) · (-sin | sin)` in every head. The angles are the same for all
    /// layers and computed once.
    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        if node.interleaved {
            return None;
        }
        let build = || {
            let (mut steps, x) = (Steps::new(node), node.operand(0));
            let (cos, sin): (PatchValue, PatchValue) = (node.operand(1).into(), node.operand(2).into());
            let (batch, seq) = (node.ty(x).shape[0].clone(), node.ty(x).shape[1].clone());
            let half = node.head_dim / 2;
            steps.move_to(node.graph().loc(node.operand(1).node));
            let wide = [batch.clone(), seq.clone(), 1usize.into(), node.head_dim.into()];
            let minus_sin = steps.unary(UnaryFunction::Neg, sin)?;
            let cos = steps.add(Concat { axis: 2 }, &[cos, cos])?;
            let cos = steps.reshape(cos, wide.clone())?;
            let sin = steps.add(Concat { axis: 2 }, &[minus_sin, sin])?;
            let sin = steps.reshape(sin, wide)?;
            steps.move_to(node.loc());
            let heads = steps.reshape(x.into(), [batch, seq, node.heads.into(), node.head_dim.into()])?;
            let first = steps.add(Split { sizes: vec![half; 2] }, &[heads])?;
            let turned = steps.add(Concat { axis: 3 }, &[first.result(1), first])?;
            let straight = steps.product(heads, cos)?;
            let turned = steps.product(turned, sin)?;
            let rotated = steps.sum(straight, turned)?;
            let rotated = steps.reshape(rotated, node.ty(x).shape.iter().cloned())?;
            Ok(steps.replace(node.value(), rotated))
        };
        Some(build())
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
