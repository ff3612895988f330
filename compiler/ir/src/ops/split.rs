use ndarray::{Axis, Slice};

use crate::attrs::{Attrs, list_text};
use crate::op::{EvalContext, OpDef, take_args, take_weights, width};
use crate::{Tensor, TensorType, Types, Weight};

/// `split x {sizes}`: consecutive parts of the last dimension, one result each. Shaped by fusion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Split {
    /// The sizes of the parts.
    pub sizes: Vec<usize>,
}

impl OpDef for Split {
    const MNEMONIC: &'static str = "split";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("sizes", list_text(&self.sizes))]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { sizes: attrs.list("sizes")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        let width = width(x, "x")?;
        let sum = self.sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        if self.sizes.is_empty() || sum.and_then(|sum| i64::try_from(sum).ok()) != Some(width) {
            return Err(format!("sizes {:?} do not add up to {width}", self.sizes));
        }
        Ok(self.sizes.iter().map(|&size| x.with_width(size)).collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let x = args[0].as_f32()?;
        let last = Axis(x.ndim() - 1);
        let mut start = 0;
        let parts = self.sizes.iter().map(|&size| {
            let part = x.slice_axis(last, Slice::from(start..start + size));
            start += size;
            part.as_standard_layout().into_owned().into()
        });
        Ok(parts.collect())
    }
}
