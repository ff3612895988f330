use super::rms_norm::normalize;
use super::{Add, RmsNorm};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require_type, require_weight, take_args, take_weights, width};
use crate::rewrite::{NoMatch, OpRef, Patch};
use crate::{Real, Tensor, TensorType, Types, Weight};

/// `add_rms_norm a, b @w {eps}`: `a + b` and its [`RmsNorm`], two results. Shaped by fusion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddRmsNorm {
    /// `[width]`.
    pub weight: Weight,
    /// Added to the mean of squares.
    pub eps: Real,
}

impl OpDef for AddRmsNorm {
    const MNEMONIC: &'static str = "add_rms_norm";

    fn weights(&self) -> Vec<&Weight> {
        vec![&self.weight]
    }

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("eps", self.eps.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [weight] = take_weights(weights)?;
        Ok(Self { weight, eps: attrs.get("eps")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [a, b] = take_args(args)?;
        require_weight("the weight", &self.weight, &[width(a, "a")?])?;
        require_type("b", b, a)?;
        Ok([a.clone(), a.clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let sum = args[0].as_f32()? + args[1].as_f32()?;
        let normed = normalize(&sum, &context.weight(&self.weight)?, self.eps);
        Ok(vec![sum.into(), normed.into()])
    }

    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let (g, mut patch) = (node.graph(), Patch::new());
            let sum = patch.add(g, node.loc(), Add, &[node.operand(0).into(), node.operand(1).into()])?;
            let norm = RmsNorm { weight: node.weight.clone(), eps: node.eps };
            let normed = patch.add(g, node.loc(), norm, &[sum])?;
            Ok(patch.replace(node.result(0), sum).replace(node.result(1), normed))
        };
        Some(build())
    }
}
