use ndarray::ArrayD;

use super::{Act, Mul, Split};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights, width};
use crate::rewrite::{NoMatch, OpRef, Patch};
use crate::{Activation, Tensor, TensorType, Types, Weight};

/// `gated x {function}`: `function(gate) · up` for `x = gate | up` along the last dimension, which halves it.
///
/// Shaped by fusion (Shazeer, "GLU Variants Improve Transformer").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gated {
    /// The function of the first half.
    pub function: Activation,
}

impl OpDef for Gated {
    const MNEMONIC: &'static str = "gated";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("function", self.function.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { function: attrs.get("function")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        match width(x, "x")? {
            width if width % 2 == 0 => Ok([x.with_width(width / 2)].into_iter().collect()),
            width => Err(format!("the last dimension of x must be even, found {width}")),
        }
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let x = args[0].as_f32()?;
        let mut shape = x.shape().to_vec();
        let half = shape.last().map_or(0, |width| width / 2);
        if let Some(last) = shape.last_mut() {
            *last = half;
        }
        let mut y = ArrayD::zeros(shape);
        for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = self.function.apply(x[i]) * x[half + i];
            }
        }
        Ok(vec![y.into()])
    }

    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let (g, mut patch) = (node.graph(), Patch::new());
            let half = node.ty(node.value()).width().and_then(|half| usize::try_from(half).ok());
            let half = half.ok_or_else(|| node.miss("the width is not fixed"))?;
            let halves =
                patch.add(g, node.loc(), Split { sizes: vec![half; 2] }, &[node.operand(0).into()])?;
            let act = patch.add(g, node.loc(), Act { function: node.function }, &[halves])?;
            let product = patch.add(g, node.loc(), Mul, &[act, halves.result(1)])?;
            Ok(patch.replace(node.value(), product))
        };
        Some(build())
    }
}
