use ndarray::ArrayD;

use super::rope::require_length;
use super::{BinaryFunction, UnaryFunction, Where};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch, PatchValue, Steps};
use crate::weight::FrequencySet;
use crate::{
    DType, Real, RopeScaling, Tensor, TensorType, Types, Weight, WeightError, WeightExpr, frequencies,
};

/// Where the inverse frequencies of a forward come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Frequencies {
    /// One constant vector `f32[head_dim / 2]`.
    Static {
        /// The vector.
        inv_freq: Weight,
    },
    /// `short` for sequences of at most `threshold` positions, `long` beyond (LongRoPE).
    ByLength {
        /// Up to the threshold; `f32[head_dim / 2]`.
        short: Weight,
        /// Beyond it; of the same shape.
        long: Weight,
        /// A number of positions.
        threshold: u64,
    },
    /// Stretched with the length of the sequence once it exceeds `max_position` (dynamic NTK).
    Dynamic {
        /// The base.
        theta: Real,
        /// Growth of the base with length.
        stretch: Real,
        /// No change up to this length.
        max_position: u64,
        /// The size of a head; even, more than 2.
        head_dim: usize,
    },
}

impl Frequencies {
    /// The frequencies of a scaling rule.
    pub fn of(theta: Real, head_dim: usize, scaling: &RopeScaling) -> Result<Self, WeightError> {
        let vector =
            |set| Weight::new(WeightExpr::InvFreq { theta, head_dim, scaling: scaling.clone(), set });
        let short = vector(FrequencySet::Short)?;
        Ok(match scaling {
            RopeScaling::Dynamic { factor, max_position } => {
                Self::Dynamic { theta, stretch: *factor, max_position: *max_position, head_dim }
            }
            RopeScaling::LongRope { original_max_position, .. } => {
                Self::ByLength { short, long: vector(FrequencySet::Long)?, threshold: *original_max_position }
            }
            _ => Self::Static { inv_freq: short },
        })
    }

    fn depends_on_length(&self) -> bool {
        !matches!(self, Self::Static { .. })
    }

    /// The number of frequencies, or why they are wrong.
    fn count(&self) -> Result<usize, String> {
        match self {
            Self::Static { inv_freq } => vector_length(inv_freq),
            Self::ByLength { short, long, .. } => match (vector_length(short)?, vector_length(long)?) {
                (short, long) if short == long => Ok(short),
                (short, long) => Err(format!("{short} short frequencies, but {long} long ones")),
            },
            Self::Dynamic { theta, stretch, max_position, head_dim } => {
                let scaling = RopeScaling::Dynamic { factor: *stretch, max_position: *max_position };
                scaling.check(*head_dim).map_err(|e| format!("{e} (theta {theta})"))?;
                Ok(head_dim / 2)
            }
        }
    }
}

fn vector_length(weight: &Weight) -> Result<usize, String> {
    match (weight.shape(), weight.dtype()) {
        (&[n], DType::F32) => Ok(n),
        _ => Err(format!("frequencies must be an f32 vector, found {}", weight.ty())),
    }
}

/// `rotary_angles positions, length? @inv_freq (@long)? {factor, …}`: cosines and sines of the phases
/// `position · frequency`, both `[batch, seq, head_dim / 2]`, times `factor`. Shaped by passes: one for all layers.
///
/// `positions i64[batch, seq]`; `length i64[]` is present exactly where the frequencies depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RotaryAngles {
    /// The inverse frequencies.
    pub frequencies: Frequencies,
    /// The attention factor.
    pub factor: Real,
}

impl OpDef for RotaryAngles {
    const MNEMONIC: &'static str = "rotary_angles";

    fn weights(&self) -> Vec<&Weight> {
        match &self.frequencies {
            Frequencies::Static { inv_freq } => vec![inv_freq],
            Frequencies::ByLength { short, long, .. } => vec![short, long],
            Frequencies::Dynamic { .. } => Vec::new(),
        }
    }

    fn attrs(&self) -> Vec<(&'static str, String)> {
        let mut attrs = vec![("factor", self.factor.to_string())];
        match &self.frequencies {
            Frequencies::Static { .. } => {}
            Frequencies::ByLength { threshold, .. } => attrs.push(("threshold", threshold.to_string())),
            Frequencies::Dynamic { theta, stretch, max_position, head_dim } => attrs.extend([
                ("theta", theta.to_string()),
                ("stretch", stretch.to_string()),
                ("max_position", max_position.to_string()),
                ("head_dim", head_dim.to_string()),
            ]),
        }
        attrs
    }

    fn build(weights: Vec<Weight>, a: &Attrs) -> Result<Self, String> {
        let frequencies = match weights.len() {
            0 => Frequencies::Dynamic {
                theta: a.get("theta")?,
                stretch: a.get("stretch")?,
                max_position: a.get("max_position")?,
                head_dim: a.get("head_dim")?,
            },
            1 => {
                let [inv_freq] = take_weights(weights)?;
                Frequencies::Static { inv_freq }
            }
            _ => {
                let [short, long] = take_weights(weights)?;
                Frequencies::ByLength { short, long, threshold: a.get("threshold")? }
            }
        };
        Ok(Self { frequencies, factor: a.get("factor")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let (positions, length) = match args {
            [positions] => (positions, None),
            [positions, length] => (positions, Some(*length)),
            _ => return Err(format!("takes positions and perhaps a length, found {} operands", args.len())),
        };
        require(positions, "positions", DType::I64, 2)?;
        require_length(length, self.frequencies.depends_on_length())?;
        let shape = positions.shape.iter().cloned().chain([self.frequencies.count()?.into()]);
        let angles = TensorType::new(DType::F32, shape);
        Ok([angles.clone(), angles].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let positions = args[0].as_i64()?;
        let length = args.get(1).map(|length| length.as_i64()).transpose()?;
        let length = length.and_then(|length| length.first().copied()).unwrap_or(0);
        let inv_freq: Vec<f32> = match &self.frequencies {
            Frequencies::Static { inv_freq } => context.weight(inv_freq)?.into_iter().collect(),
            Frequencies::ByLength { short, long, threshold } => {
                let beyond = u64::try_from(length).is_ok_and(|length| length > *threshold);
                context.weight(if beyond { long } else { short })?.into_iter().collect()
            }
            Frequencies::Dynamic { theta, stretch, max_position, head_dim } => {
                frequencies::dynamic(*theta, *head_dim, *stretch, *max_position, length)
            }
        };
        let shape = [positions.shape(), &[inv_freq.len()]].concat();
        let factor = self.factor.f32();
        let angles: Vec<(f32, f32)> = positions
            .iter()
            .flat_map(|&position| inv_freq.iter().map(move |&f| frequencies::cos_sin(position, f, factor)))
            .collect();
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.into_iter().unzip();
        let tensor = |values| ArrayD::from_shape_vec(shape.clone(), values).map_err(|e| e.to_string());
        Ok(vec![tensor(cos)?.into(), tensor(sin)?.into()])
    }

    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let (mut steps, positions) = (Steps::new(node), node.operand(0));
            let inv_freq = match (&node.frequencies, node.operands().get(1)) {
                (Frequencies::Static { inv_freq }, _) => steps.constant(inv_freq.clone())?,
                (Frequencies::ByLength { short, long, threshold }, Some(&length)) => {
                    let (short, long) = (steps.constant(short.clone())?, steps.constant(long.clone())?);
                    let threshold = steps.literal(DType::I64, &[], &[*threshold as f64])?;
                    let beyond = steps.binary(BinaryFunction::Greater, length.into(), threshold)?;
                    steps.add(Where, &[beyond, long, short])?
                }
                (Frequencies::Dynamic { theta, stretch, max_position, head_dim }, Some(&length)) => {
                    stretched(&mut steps, *theta, *stretch, *max_position as f64, *head_dim, length.into())?
                }
                _ => return Err(node.miss("the length is missing")),
            };
            let positions_f32 = steps.cast(positions.into(), DType::F32)?;
            let column = node.ty(positions).shape.iter().cloned().chain([1usize.into()]);
            let column = steps.reshape(positions_f32, column)?;
            let phases = steps.product(column, inv_freq)?;
            let factor = node.factor.get();
            let mut patch_values = Vec::new();
            for function in [UnaryFunction::Cos, UnaryFunction::Sin] {
                let mut angles = steps.unary(function, phases)?;
                if factor != 1.0 {
                    let factor = steps.number(factor)?;
                    angles = steps.product(angles, factor)?;
                }
                patch_values.push(angles);
            }
            let patch = steps.replace(node.result(0), patch_values[0]);
            Ok(patch.replace(node.result(1), patch_values[1]))
        };
        Some(build())
    }
}

/// [`frequencies::dynamic`] as operations: the base grows with the length beyond the context.
fn stretched(
    steps: &mut Steps<'_>,
    theta: Real,
    stretch: Real,
    context: f64,
    head_dim: usize,
    length: PatchValue,
) -> Result<PatchValue, NoMatch> {
    let size = head_dim as f64;
    let exponents: Vec<f64> = (0..head_dim / 2).map(|i| -((2 * i) as f64) / size).collect();
    let length = steps.cast(length, DType::F32)?;
    let (context_value, slope) = (steps.number(context)?, steps.number(stretch.get() / context)?);
    let (offset, exponent) = (steps.number(stretch.get() - 1.0)?, steps.number(size / (size - 2.0))?);
    let (theta, exponents) =
        (steps.number(theta.get())?, steps.literal(DType::F32, &[head_dim / 2], &exponents)?);
    let length = steps.binary(BinaryFunction::Max, length, context_value)?;
    let growth = steps.product(length, slope)?;
    let growth = steps.binary(BinaryFunction::Sub, growth, offset)?;
    let growth = steps.binary(BinaryFunction::Pow, growth, exponent)?;
    let base = steps.product(growth, theta)?;
    steps.binary(BinaryFunction::Pow, base, exponents)
}
