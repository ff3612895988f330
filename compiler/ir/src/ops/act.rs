use super::{BinaryFunction, UnaryFunction};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights, width};
use crate::rewrite::{NoMatch, OpRef, Patch, PatchValue, Steps};
use crate::{Activation, Tensor, TensorType, Types, Weight};

/// `act x {function}`: an activation function on every element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Act {
    /// The function.
    pub function: Activation,
}

impl OpDef for Act {
    const MNEMONIC: &'static str = "act";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("function", self.function.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { function: attrs.get("function")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        width(x, "x")?;
        Ok([x.clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        Ok(vec![args[0].as_f32()?.mapv(|x| self.function.apply(x)).into()])
    }

    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = |activate: Activate| {
            let mut steps = Steps::new(node);
            let y = activate(&mut steps, node.operand(0).into())?;
            Ok(steps.replace(node.value(), y))
        };
        match node.function {
            Activation::Silu => Some(build(silu)),
            Activation::Gelu => Some(build(gelu)),
            Activation::GeluTanh => Some(build(gelu_tanh)),
            Activation::QuickGelu => Some(build(quick_gelu)),
            Activation::Relu => None,
        }
    }
}

/// Adds what computes an activation of a value.
type Activate = fn(&mut Steps<'_>, PatchValue) -> Result<PatchValue, NoMatch>;

/// `x · σ(x)`.
fn silu(steps: &mut Steps<'_>, x: PatchValue) -> Result<PatchValue, NoMatch> {
    let gate = steps.unary(UnaryFunction::Sigmoid, x)?;
    steps.product(x, gate)
}

/// `x · σ(1.702 x)`.
fn quick_gelu(steps: &mut Steps<'_>, x: PatchValue) -> Result<PatchValue, NoMatch> {
    let factor = steps.number(1.702)?;
    let inner = steps.product(x, factor)?;
    let gate = steps.unary(UnaryFunction::Sigmoid, inner)?;
    steps.product(x, gate)
}

/// `x · (1 + erf(x / √2)) / 2`.
fn gelu(steps: &mut Steps<'_>, x: PatchValue) -> Result<PatchValue, NoMatch> {
    let root = steps.number(std::f64::consts::SQRT_2)?;
    let inner = steps.binary(BinaryFunction::Div, x, root)?;
    let erf = steps.unary(UnaryFunction::Erf, inner)?;
    half_of_one_more(steps, x, erf)
}

/// `x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2`.
fn gelu_tanh(steps: &mut Steps<'_>, x: PatchValue) -> Result<PatchValue, NoMatch> {
    let (three, cubic) = (steps.number(3.0)?, steps.number(0.044715)?);
    let root = steps.number((2.0 / std::f64::consts::PI).sqrt())?;
    let cube = steps.binary(BinaryFunction::Pow, x, three)?;
    let cube = steps.product(cube, cubic)?;
    let inner = steps.sum(x, cube)?;
    let inner = steps.product(inner, root)?;
    let tanh = steps.unary(UnaryFunction::Tanh, inner)?;
    half_of_one_more(steps, x, tanh)
}

/// `x · (1 + y) / 2`.
fn half_of_one_more(steps: &mut Steps<'_>, x: PatchValue, y: PatchValue) -> Result<PatchValue, NoMatch> {
    let (one, half) = (steps.number(1.0)?, steps.number(0.5)?);
    let more = steps.sum(y, one)?;
    let whole = steps.product(x, more)?;
    steps.product(whole, half)
}
