use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights, width};
use crate::{Activation, Tensor, TensorType, Types, Weight};

/// `act x {function}`: an activation function on every element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Act {
    /// The function.
    pub function: Activation,
}

impl OpDef for Act {
    const MNEMONIC: &'static str = "act";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("function", self.function.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { function: attrs.get("function")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        width(x, "x")?;
        Ok([x.clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        Ok(vec![args[0].as_f32()?.mapv(|x| self.function.apply(x)).into()])
    }
}
