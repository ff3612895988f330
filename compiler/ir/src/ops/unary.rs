use std::fmt;
use std::str::FromStr;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::suggest::choose;
use crate::{DType, Tensor, TensorType, Types, Weight};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryFunction {
    /// The cosine.
    Cos,
    /// The sine.
    Sin,
    /// The square root.
    Sqrt,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The error function.
    Erf,
    /// The hyperbolic tangent.
    Tanh,
    /// `-x`.
    Neg,
}

impl UnaryFunction {
    /// Every function.
    pub const ALL: [Self; 7] =
        [Self::Cos, Self::Sin, Self::Sqrt, Self::Sigmoid, Self::Erf, Self::Tanh, Self::Neg];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cos => "cos",
            Self::Sin => "sin",
            Self::Sqrt => "sqrt",
            Self::Sigmoid => "sigmoid",
            Self::Erf => "erf",
            Self::Tanh => "tanh",
            Self::Neg => "neg",
        }
    }

    fn apply(self, x: f32) -> f32 {
        match self {
            Self::Cos => libm::cosf(x),
            Self::Sin => libm::sinf(x),
            Self::Sqrt => x.sqrt(),
            Self::Sigmoid => 1.0 / (1.0 + libm::expf(-x)),
            Self::Erf => libm::erff(x),
            Self::Tanh => libm::tanhf(x),
            Self::Neg => -x,
        }
    }
}

impl fmt::Display for UnaryFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for UnaryFunction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        choose(text, &Self::ALL, Self::name)
    }
}

/// `unary x {function}`: a function of every element. A primitive of legalization.
///
/// Functions are of floats; `neg` is of integers, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unary {
    /// The function.
    pub function: UnaryFunction,
}

impl OpDef for Unary {
    const MNEMONIC: &'static str = "unary";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("function", self.function.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { function: attrs.get("function")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        if x.dtype == DType::F32 || (self.function == UnaryFunction::Neg && x.dtype == DType::I64) {
            return Ok([x.clone()].into_iter().collect());
        }
        Err(format!("x must be f32, found {x}"))
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        Ok(vec![match args[0] {
            Tensor::F32(x) => x.mapv(|x| self.function.apply(x)).into(),
            Tensor::I64(x) => x.mapv(i64::wrapping_neg).into(),
        }])
    }
}
