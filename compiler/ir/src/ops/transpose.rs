use crate::attrs::{Attrs, list_text};
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::{Tensor, TensorType, Types, Weight};

/// `transpose x {perm}`: dimension `i` of the result is dimension `perm[i]` of `x`. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transpose {
    /// The old place of each dimension.
    pub perm: Vec<usize>,
}

impl OpDef for Transpose {
    const MNEMONIC: &'static str = "transpose";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("perm", list_text(&self.perm))]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { perm: attrs.list("perm")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..x.rank()) {
            return Err(format!("{:?} is no order of the dimensions of {x}", self.perm));
        }
        let shape = self.perm.iter().map(|&at| x.shape[at].clone());
        Ok([TensorType::new(x.dtype, shape)].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        Ok(vec![match args[0] {
            Tensor::F32(x) => Tensor::F32(x.clone().permuted_axes(self.perm.clone())).standardized(),
            Tensor::I64(x) => Tensor::I64(x.clone().permuted_axes(self.perm.clone())).standardized(),
        }])
    }
}
