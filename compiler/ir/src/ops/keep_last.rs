use ndarray::{Axis, Slice};

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require, take_args, take_weights};
use crate::{DType, Symbol, Tensor, TensorType, Types, Weight};

/// `keep_last x`: the last `keep` positions of `x [batch, seq, width]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeepLast;

impl OpDef for KeepLast {
    const MNEMONIC: &'static str = "keep_last";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        require(x, "x", DType::F32, 3)?;
        let mut kept = x.clone();
        kept.shape[1] = Symbol::Keep.into();
        Ok([kept].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let x = args[0].as_f32()?;
        let keep = context.bindings().get(Symbol::Keep).ok_or("the symbol keep has no value")?;
        let length = x.shape()[1];
        let start = usize::try_from(keep).ok().and_then(|keep| length.checked_sub(keep));
        let start = start.ok_or_else(|| format!("keep is {keep}, but there are {length} positions"))?;
        let kept = x.slice_axis(Axis(1), Slice::from(start..));
        Ok(vec![kept.as_standard_layout().into_owned().into()])
    }
}
