use super::rotary::rotate;
use super::{Frequencies, Rotary, RotaryAngles};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, heads_width, require, require_type, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch};
use crate::{DType, Loc, Real, RopeScaling, Tensor, TensorType, Types, Weight, WeightError};

/// `rope x, positions, length? {heads, head_dim, theta, scaling, interleaved}`: rotary position embedding
/// (Su et al., "RoFormer") of every head of `x [batch, seq, heads · head_dim]`.
///
/// `positions` is `i64[batch, seq]`; `length` is `i64[]`, present where the scaling depends on the number of
/// positions of the whole sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rope {
    /// Heads in `x`.
    pub heads: usize,
    /// The size of a head; even.
    pub head_dim: usize,
    /// The base of the frequencies.
    pub theta: Real,
    /// How they are scaled.
    pub scaling: RopeScaling,
    /// Whether pairs are neighbours (Meta's layout) and not half a head apart (Hugging Face's layout).
    pub interleaved: bool,
}

impl Rope {
    /// The operation that computes this one's angles.
    pub fn angles(&self) -> Result<RotaryAngles, WeightError> {
        let frequencies = Frequencies::of(self.theta, self.head_dim, &self.scaling)?;
        Ok(RotaryAngles { frequencies, factor: self.scaling.attention_factor() })
    }

    /// The operation that applies them.
    pub fn rotation(&self) -> Rotary {
        Rotary { heads: self.heads, head_dim: self.head_dim, interleaved: self.interleaved }
    }
}

impl OpDef for Rope {
    const MNEMONIC: &'static str = "rope";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("heads", self.heads.to_string()),
            ("head_dim", self.head_dim.to_string()),
            ("theta", self.theta.to_string()),
            ("scaling", self.scaling.to_string()),
            ("interleaved", self.interleaved.to_string()),
        ]
    }

    fn build(weights: Vec<Weight>, a: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self {
            heads: a.get("heads")?,
            head_dim: a.get("head_dim")?,
            theta: a.get("theta")?,
            scaling: a.get("scaling")?,
            interleaved: a.get("interleaved")?,
        })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let (x, positions, length) = match args {
            [x, positions] => (x, positions, None),
            [x, positions, length] => (x, positions, Some(*length)),
            _ => {
                return Err(format!(
                    "takes x, positions and perhaps a length, found {} operands",
                    args.len()
                ));
            }
        };
        self.scaling.check(self.head_dim)?;
        require(x, "x", DType::F32, 3)?;
        require_type("x", x, &x.with_width(heads_width(self.heads, self.head_dim)))?;
        require_type("positions", positions, &TensorType::new(DType::I64, x.shape[..2].iter().cloned()))?;
        require_length(length, self.scaling.depends_on_length())?;
        Ok([(*x).clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let angles = self.angles().map_err(|e| e.to_string())?.eval(&args[1..], context)?;
        let (cos, sin) = (angles[0].as_f32()?, angles[1].as_f32()?);
        Ok(vec![rotate(args[0].as_f32()?, cos, sin, &self.rotation()).into()])
    }

    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let (g, mut patch) = (node.graph(), Patch::new());
            let angles = node.angles().map_err(|e| node.miss(e.to_string()))?;
            let args: Vec<_> = node.operands()[1..].iter().map(|&v| v.into()).collect();
            // Of the whole model: what layers share is computed once.
            let cos = patch.add(g, &Loc::new("model.rotary_emb"), angles, &args)?;
            let args = [node.operand(0).into(), cos, cos.result(1)];
            let rotated = patch.add(g, node.loc(), node.rotation(), &args)?;
            Ok(patch.replace(node.value(), rotated))
        };
        Some(build())
    }
}

/// Fails unless a length is there exactly if it is needed.
pub(super) fn require_length(length: Option<&TensorType>, needed: bool) -> Result<(), String> {
    match (length, needed) {
        (None, false) => Ok(()),
        (Some(length), true) => require_type("length", length, &TensorType::new(DType::I64, [])),
        (None, true) => Err("these frequencies depend on a length, and there is none".to_owned()),
        (Some(_), false) => Err("these frequencies depend on no length".to_owned()),
    }
}
