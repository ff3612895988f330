use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require, take_args, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch, Steps};
use crate::{DType, Dim, Tensor, TensorType, Types, Weight};

/// `split_heads x {heads}`: `[batch, seq, heads · head_dim]` → `[batch, heads, seq, head_dim]`, the form of a cache that
/// holds the new positions and nothing before them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SplitHeads {
    /// Heads in `x`.
    pub heads: usize,
}

impl SplitHeads {
    fn head_dim(&self, x: &TensorType) -> Result<usize, String> {
        let width = x.width().and_then(|width| usize::try_from(width).ok());
        let width = width.filter(|width| self.heads > 0 && width % self.heads == 0);
        width
            .map(|width| width / self.heads)
            .ok_or_else(|| format!("{x} does not split into {} heads", self.heads))
    }
}

impl OpDef for SplitHeads {
    const MNEMONIC: &'static str = "split_heads";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("heads", self.heads.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { heads: attrs.get("heads")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        require(x, "x", DType::F32, 3)?;
        let head_dim = self.head_dim(x)?;
        let shape = [x.shape[0].clone(), self.heads.into(), x.shape[1].clone(), Dim::from(head_dim)];
        Ok([TensorType::new(DType::F32, shape)].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let x = args[0].as_f32()?;
        let &[batch, seq, width] = x.shape() else { return Err("x must have 3 dimensions".to_owned()) };
        let head_dim = width / self.heads;
        let split = ndarray::ArrayD::from_shape_fn(vec![batch, self.heads, seq, head_dim], |at| {
            x[[at[0], at[2], at[1] * head_dim + at[3]]]
        });
        Ok(vec![split.into()])
    }

    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let mut steps = Steps::new(node);
            let x = node.ty(node.operand(0));
            let head_dim = node.head_dim(x).map_err(|message| node.miss(message))?;
            let shape = [x.shape[0].clone(), x.shape[1].clone(), node.heads.into(), head_dim.into()];
            let split = steps.reshape(node.operand(0).into(), shape)?;
            let turned = steps.transpose(split, &[0, 2, 1, 3])?;
            Ok(steps.replace(node.value(), turned))
        };
        Some(build())
    }
}
