use ndarray::ArrayD;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require, take_args, take_weights};
use crate::{DType, Dim, Tensor, TensorType, Types, Weight};

/// `repeat_kv x {groups}`: every head of a cache `groups` times, copies next to each other.
///
/// `[batch, heads, total, head_dim]` → `[batch, heads · groups, total, head_dim]`. Shaped by legalization for
/// targets without grouped-query attention.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepeatKv {
    /// Copies of each head.
    pub groups: usize,
}

impl OpDef for RepeatKv {
    const MNEMONIC: &'static str = "repeat_kv";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("groups", self.groups.to_string())]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { groups: attrs.get("groups")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        require(x, "x", DType::F32, 4)?;
        if self.groups == 0 {
            return Err("groups must be at least 1".to_owned());
        }
        let mut repeated = x.clone();
        repeated.shape[1] = x.shape[1].clone() * Dim::from(self.groups);
        Ok([repeated].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let x = args[0].as_f32()?;
        let mut shape = x.shape().to_vec();
        shape[1] = shape[1].checked_mul(self.groups).ok_or("too many heads")?;
        let repeated = ArrayD::from_shape_fn(shape, |at| x[[at[0], at[1] / self.groups, at[2], at[3]]]);
        Ok(vec![repeated.into()])
    }
}
