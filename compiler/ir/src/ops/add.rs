use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require_type, take_args, take_weights, width};
use crate::{Tensor, TensorType, Types, Weight};

/// `add a, b`: the sum of two tensors of one type, element by element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Add;

impl OpDef for Add {
    const MNEMONIC: &'static str = "add";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [a, b] = take_args(args)?;
        width(a, "a")?;
        require_type("b", b, a)?;
        Ok([a.clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        Ok(vec![(args[0].as_f32()? + args[1].as_f32()?).into()])
    }
}
