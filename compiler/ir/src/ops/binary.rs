use std::fmt;
use std::str::FromStr;

use ndarray::{ArrayD, Zip};

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, broadcast, take_args, take_weights};
use crate::suggest::choose;
use crate::{DType, Tensor, TensorType, Types, Weight};

/// A function of two numbers, or of two truth values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryFunction {
    /// `a - b`.
    Sub,
    /// `a / b`.
    Div,
    /// `a` to the power `b`.
    Pow,
    /// The larger of both.
    Max,
    /// Whether `a ≤ b`.
    LessOrEqual,
    /// Whether `a > b`.
    Greater,
    /// Whether `a = b`.
    Equal,
    /// Whether both are true.
    And,
}

impl BinaryFunction {
    /// Every function.
    pub const ALL: [Self; 8] = [
        Self::Sub,
        Self::Div,
        Self::Pow,
        Self::Max,
        Self::LessOrEqual,
        Self::Greater,
        Self::Equal,
        Self::And,
    ];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sub => "sub",
            Self::Div => "div",
            Self::Pow => "pow",
            Self::Max => "max",
            Self::LessOrEqual => "less_or_equal",
            Self::Greater => "greater",
            Self::Equal => "equal",
            Self::And => "and",
        }
    }

    fn result(self, dtype: DType) -> Result<DType, String> {
        match self {
            Self::Div | Self::Pow if !dtype.is_float() => Err(format!("{self} takes floats, found {dtype}")),
            Self::And if dtype != DType::Bool => Err(format!("{self} takes truth values, found {dtype}")),
            Self::Sub | Self::Max if dtype == DType::Bool => Err(format!("{self} takes numbers, found bool")),
            Self::Sub | Self::Div | Self::Pow | Self::Max => Ok(dtype),
            Self::LessOrEqual | Self::Greater | Self::Equal | Self::And => Ok(DType::Bool),
        }
    }
}

impl fmt::Display for BinaryFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BinaryFunction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        choose(text, &Self::ALL, Self::name)
    }
}

/// `binary a, b {function}`: a function of two tensors of one type, element by element, with broadcasting.
///
/// A primitive of legalization; sums and products, of which rewrites speak, are operations of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Binary {
    /// The function.
    pub function: BinaryFunction,
}

impl OpDef for Binary {
    const MNEMONIC: &'static str = "binary";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("function", self.function.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { function: attrs.get("function")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [a, b] = take_args(args)?;
        if a.dtype != b.dtype {
            return Err(format!("a and b must be of one element type, found {a} and {b}"));
        }
        Ok([TensorType::new(self.function.result(a.dtype)?, broadcast(a, b)?)].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        use BinaryFunction::{And, Div, Equal, Greater, LessOrEqual, Max, Pow, Sub};
        Ok(vec![match (self.function, args[0], args[1]) {
            (Sub, Tensor::F32(a), Tensor::F32(b)) => zip(a, b, |a, b| a - b)?.into(),
            (Sub, Tensor::I64(a), Tensor::I64(b)) => zip(a, b, i64::wrapping_sub)?.into(),
            (Div, Tensor::F32(a), Tensor::F32(b)) => zip(a, b, |a, b| a / b)?.into(),
            (Pow, Tensor::F32(a), Tensor::F32(b)) => zip(a, b, libm::powf)?.into(),
            (Max, Tensor::F32(a), Tensor::F32(b)) => zip(a, b, f32::max)?.into(),
            (Max, Tensor::I64(a), Tensor::I64(b)) => zip(a, b, i64::max)?.into(),
            (LessOrEqual, Tensor::F32(a), Tensor::F32(b)) => zip(a, b, |a, b| i64::from(a <= b))?.into(),
            (LessOrEqual, Tensor::I64(a), Tensor::I64(b)) => zip(a, b, |a, b| i64::from(a <= b))?.into(),
            (Greater, Tensor::F32(a), Tensor::F32(b)) => zip(a, b, |a, b| i64::from(a > b))?.into(),
            (Greater, Tensor::I64(a), Tensor::I64(b)) => zip(a, b, |a, b| i64::from(a > b))?.into(),
            (Equal, Tensor::F32(a), Tensor::F32(b)) => zip(a, b, |a, b| i64::from(a == b))?.into(),
            (Equal, Tensor::I64(a), Tensor::I64(b)) => zip(a, b, |a, b| i64::from(a == b))?.into(),
            (And, Tensor::I64(a), Tensor::I64(b)) => zip(a, b, |a, b| i64::from(a != 0 && b != 0))?.into(),
            (function, ..) => return Err(format!("{function} does not take these operands")),
        }])
    }
}

/// The shape that two broadcast to.
pub(super) fn shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], at: usize| (at + shape.len()).checked_sub(rank).map_or(1, |at| shape[at]);
    (0..rank).map(|at| if size(a, at) == 1 { size(b, at) } else { size(a, at) }).collect()
}

/// `function` of the elements of both, with broadcasting.
pub(super) fn zip<T: Copy, U>(
    a: &ArrayD<T>,
    b: &ArrayD<T>,
    function: impl Fn(T, T) -> U,
) -> Result<ArrayD<U>, String> {
    let shape = shape(a.shape(), b.shape());
    let fails = || format!("{:?} and {:?} do not broadcast", a.shape(), b.shape());
    let (a, b) = (a.broadcast(&shape[..]).ok_or_else(fails)?, b.broadcast(&shape[..]).ok_or_else(fails)?);
    Ok(Zip::from(a).and(b).map_collect(|&a, &b| function(a, b)))
}
