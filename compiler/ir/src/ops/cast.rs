use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `cast x {to}`: the same numbers as another element type; a number that is not 0 is true. A primitive of
/// legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cast {
    /// The element type of the result.
    pub to: DType,
}

impl OpDef for Cast {
    const MNEMONIC: &'static str = "cast";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("to", self.to.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { to: attrs.get("to")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        Ok([TensorType::new(self.to, x.shape.iter().cloned())].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let truth = self.to == DType::Bool;
        Ok(vec![match (args[0], self.to.is_float()) {
            (Tensor::F32(x), true) => x.mapv(|x| self.to.round(x)).into(),
            (Tensor::F32(x), false) if truth => x.mapv(|x| i64::from(x != 0.0)).into(),
            (Tensor::F32(x), false) => x.mapv(|x| x as i64).into(),
            (Tensor::I64(x), true) => x.mapv(|x| self.to.round(x as f32)).into(),
            (Tensor::I64(x), false) if truth => x.mapv(|x| i64::from(x != 0)).into(),
            (Tensor::I64(x), false) => x.clone().into(),
        }])
    }
}
