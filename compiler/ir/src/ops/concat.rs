use ndarray::{Axis, concatenate};

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_weights};
use crate::{Tensor, TensorType, Types, Weight};

/// `concat a, b, … {axis}`: tensors one after the other along a dimension. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Concat {
    /// The dimension that grows.
    pub axis: usize,
}

impl OpDef for Concat {
    const MNEMONIC: &'static str = "concat";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("axis", self.axis.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { axis: attrs.get("axis")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let (first, rest) = args.split_first().ok_or("takes at least one operand, found none")?;
        if self.axis >= first.rank() {
            return Err(format!("{first} has no dimension {}", self.axis));
        }
        let mut all = (*first).clone();
        for part in rest {
            let mut same = (*part).clone();
            if same.rank() == first.rank() {
                same.shape[self.axis] = first.shape[self.axis].clone();
            }
            if same != **first {
                return Err(format!("{part} does not fit to {first} along dimension {}", self.axis));
            }
            all.shape[self.axis] = all.shape[self.axis].clone() + part.shape[self.axis].clone();
        }
        Ok([all].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let axis = Axis(self.axis);
        let all = if let Tensor::F32(_) = args[0] {
            let parts =
                args.iter().map(|part| Ok(part.as_f32()?.view())).collect::<Result<Vec<_>, String>>()?;
            concatenate(axis, &parts).map(Tensor::F32)
        } else {
            let parts =
                args.iter().map(|part| Ok(part.as_i64()?.view())).collect::<Result<Vec<_>, String>>()?;
            concatenate(axis, &parts).map(Tensor::I64)
        };
        Ok(vec![all.map_err(|e| e.to_string())?.standardized()])
    }
}
