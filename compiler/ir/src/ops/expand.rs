use crate::attrs::{Attrs, list_text};
use crate::op::{EvalContext, OpDef, broadcast, require_type, sizes, take_args, take_weights};
use crate::{DType, Dim, Tensor, TensorType, Types, Weight};

/// `expand x, sizes {shape}`: `x` repeated along its dimensions of size 1, and along new ones in front.
///
/// `sizes i64[rank]` holds the sizes that `shape` names: targets compute with them. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expand {
    /// The new sizes.
    pub shape: Vec<Dim>,
}

impl OpDef for Expand {
    const MNEMONIC: &'static str = "expand";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("shape", list_text(&self.shape))]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { shape: attrs.list("shape")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x, sizes] = take_args(args)?;
        let expanded = TensorType::new(x.dtype, self.shape.iter().cloned());
        if broadcast(x, &expanded)? != expanded.shape {
            return Err(format!("{x} cannot be expanded to {expanded}"));
        }
        require_type("sizes", sizes, &TensorType::new(DType::I64, [self.shape.len().into()]))?;
        Ok([expanded].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let shape = sizes(&self.shape, context)?;
        let found = args[1].as_i64()?;
        if !found.iter().copied().eq(shape.iter().map(|&size| size as i64)) {
            return Err(format!("sizes are {found}, the shape is {shape:?}"));
        }
        let fails = || format!("{:?} cannot be expanded to {shape:?}", args[0].shape());
        Ok(vec![match args[0] {
            Tensor::F32(x) => x.broadcast(&shape[..]).ok_or_else(fails)?.into_owned().into(),
            Tensor::I64(x) => x.broadcast(&shape[..]).ok_or_else(fails)?.into_owned().into(),
        }])
    }
}
