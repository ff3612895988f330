use crate::attrs::{Attrs, list_text};
use crate::op::{EvalContext, OpDef, sizes, take_args, take_weights};
use crate::{Dim, Tensor, TensorType, Types, Weight};

/// `reshape x {shape}`: the same elements in the same order, in another shape. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reshape {
    /// The new sizes.
    pub shape: Vec<Dim>,
}

impl OpDef for Reshape {
    const MNEMONIC: &'static str = "reshape";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("shape", list_text(&self.shape))]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { shape: attrs.list("shape")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        let elements = |shape: &[Dim]| shape.iter().cloned().fold(Dim::from(1usize), |all, dim| all * dim);
        let reshaped = TensorType::new(x.dtype, self.shape.iter().cloned());
        if elements(&x.shape) != elements(&self.shape) {
            return Err(format!("{x} and {reshaped} have different numbers of elements"));
        }
        Ok([reshaped].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let shape = sizes(&self.shape, context)?;
        let reshaped = match args[0] {
            Tensor::F32(x) => x.clone().into_shape_with_order(shape).map(Tensor::F32),
            Tensor::I64(x) => x.clone().into_shape_with_order(shape).map(Tensor::I64),
        };
        Ok(vec![reshaped.map_err(|e| e.to_string())?])
    }
}
