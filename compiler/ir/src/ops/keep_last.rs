use ndarray::{Axis, Slice as Part};

use super::{Slice, UnaryFunction};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require, require_type, sizes, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch, Steps};
use crate::{DType, Dim, Symbol, Tensor, TensorType, Types, Weight};

/// `keep_last x, count? {size}`: the last positions of `x [batch, seq, width]`, `size` of them: `keep` unless it says
/// otherwise, or a fixed number.
///
/// `count i64[]` is that size as a value, for targets that compute with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeepLast {
    /// How many positions stay.
    pub size: Dim,
}

impl Default for KeepLast {
    fn default() -> Self {
        Self { size: Symbol::Keep.into() }
    }
}

impl OpDef for KeepLast {
    const MNEMONIC: &'static str = "keep_last";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        if *self == Self::default() { Vec::new() } else { vec![("size", self.size.to_string())] }
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        if attrs.keys().next().is_none() {
            Ok(Self::default())
        } else {
            Ok(Self { size: attrs.get("size")? })
        }
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let (x, count) = match args {
            [x] => (x, None),
            [x, count] => (x, Some(count)),
            _ => return Err(format!("takes x and perhaps a count, found {} operands", args.len())),
        };
        require(x, "x", DType::F32, 3)?;
        if let Some(count) = count {
            require_type("count", count, &TensorType::new(DType::I64, []))?;
        }
        let mut kept = (*x).clone();
        kept.shape[1] = self.size.clone();
        Ok([kept].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let x = args[0].as_f32()?;
        let keep = sizes(std::slice::from_ref(&self.size), context)?[0];
        if let Some(count) = args.get(1)
            && count.as_i64()?.iter().any(|&count| count != keep as i64)
        {
            return Err(format!("keep is {keep}, but the count is {count:?}"));
        }
        let length = x.shape()[1];
        let start = length.checked_sub(keep);
        let start = start.ok_or_else(|| format!("keep is {keep}, but there are {length} positions"))?;
        let kept = x.slice_axis(Axis(1), Part::from(start..));
        Ok(vec![kept.as_standard_layout().into_owned().into()])
    }

    /// A count of 0 keeps all, as transformers' `logits_to_keep` does: positions from the minus first on are all.
    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let mut steps = Steps::new(node);
            let start = match (node.size.as_constant(), node.operands().get(1)) {
                (Some(size), _) => steps.literal(DType::I64, &[1], &[-(size as f64)])?,
                (None, Some(&count)) => {
                    let start = steps.unary(UnaryFunction::Neg, count.into())?;
                    steps.reshape(start, [1usize.into()])?
                }
                (None, None) => return Err(node.miss("there is no value of the size")),
            };
            let slice = Slice { axis: 1, size: node.size.clone() };
            let kept = steps.add(slice, &[node.operand(0).into(), start])?;
            Ok(steps.replace(node.value(), kept))
        };
        Some(build())
    }
}
