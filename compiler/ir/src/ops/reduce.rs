use std::fmt;
use std::str::FromStr;

use ndarray::{ArrayD, Axis};

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::suggest::choose;
use crate::{DType, Tensor, TensorType, Types, Weight};

/// What is made of many numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Their mean.
    Mean,
    /// The largest.
    Max,
}

impl Reduction {
    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Max => "max",
        }
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Reduction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        choose(text, &[Self::Mean, Self::Max], Self::name)
    }
}

/// `reduce x {function, axis}`: one number for all along a dimension, whose size becomes 1; of all elements, a scalar,
/// where `axis` is `none`. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// What is made of them.
    pub function: Reduction,
    /// The dimension.
    pub axis: Option<usize>,
}

impl OpDef for Reduce {
    const MNEMONIC: &'static str = "reduce";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        let axis = crate::attrs::optional_text(self.axis.as_ref());
        vec![("function", self.function.to_string()), ("axis", axis)]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { function: attrs.get("function")?, axis: attrs.optional("axis")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        if x.dtype == DType::Bool || (self.function == Reduction::Mean && x.dtype != DType::F32) {
            return Err(format!("there is no {} of {x}", self.function));
        }
        let mut reduced = x.clone();
        match self.axis {
            None => reduced.shape.clear(),
            Some(axis) => match reduced.shape.get_mut(axis) {
                Some(size) => *size = 1usize.into(),
                None => return Err(format!("{x} has no dimension {axis}")),
            },
        }
        Ok([reduced].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        Ok(vec![match (self.function, args[0]) {
            (Reduction::Mean, Tensor::F32(x)) => fold(x, self.axis, |values| {
                let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
                (sum / values.len() as f64) as f32
            })
            .into(),
            (Reduction::Max, Tensor::F32(x)) => {
                fold(x, self.axis, |values| values.iter().copied().fold(f32::NEG_INFINITY, f32::max)).into()
            }
            (Reduction::Max, Tensor::I64(x)) => {
                fold(x, self.axis, |values| values.iter().copied().fold(i64::MIN, i64::max)).into()
            }
            (Reduction::Mean, Tensor::I64(_)) => return Err("there is no mean of integers".to_owned()),
        }])
    }
}

fn fold<T: Copy>(x: &ArrayD<T>, axis: Option<usize>, one: impl Fn(&[T]) -> T) -> ArrayD<T> {
    match axis {
        None => ArrayD::from_elem(Vec::new(), one(&x.iter().copied().collect::<Vec<T>>())),
        Some(axis) => x.map_axis(Axis(axis), |lane| one(&lane.to_vec())).insert_axis(Axis(axis)),
    }
}
