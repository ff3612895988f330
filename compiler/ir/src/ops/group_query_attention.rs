use super::AppendAttention;
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require_type};
use crate::{DType, Real, Tensor, TensorType, Types, Weight};

/// `group_query_attention q, k, v, bias, last, total, (past_k, past_v)? {heads, kv_heads, head_dim, scale}`:
/// [`AppendAttention`] with the lengths that some runtimes ask for beside it.
///
/// `last i32[batch]` is the last position of each row and `total i32[]` the number of positions of all. A runtime that
/// keeps the cache in a longer buffer goes by them. Results as there. Shaped by legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupQueryAttention {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// The size of a head.
    pub head_dim: usize,
    /// The factor of the dot products.
    pub scale: Real,
}

impl GroupQueryAttention {
    fn append_attention(&self) -> AppendAttention {
        let Self { heads, kv_heads, head_dim, scale } = *self;
        AppendAttention { heads, kv_heads, head_dim, scale }
    }
}

impl OpDef for GroupQueryAttention {
    const MNEMONIC: &'static str = "group_query_attention";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        self.append_attention().attrs()
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let AppendAttention { heads, kv_heads, head_dim, scale } = AppendAttention::build(weights, attrs)?;
        Ok(Self { heads, kv_heads, head_dim, scale })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [q, k, v, bias, last, total, past @ ..] = args else {
            return Err(format!("takes 6 or 8 operands, found {}", args.len()));
        };
        require_type(
            "last",
            last,
            &TensorType::new(DType::I32, [q.shape.first().cloned().unwrap_or(0usize.into())]),
        )?;
        require_type("total", total, &TensorType::new(DType::I32, []))?;
        self.append_attention().infer(&[&[*q, *k, *v, *bias], past].concat())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let (last, total) = (args[4].as_i64()?, args[5].as_i64()?);
        let positions = args[3].shape()[3] as i64;
        if total.iter().any(|&total| total != positions) || last.iter().any(|&last| last != positions - 1) {
            return Err(format!("there are {positions} positions, but total is {total} and last is {last}"));
        }
        self.append_attention().eval(&[&args[..4], &args[6..]].concat(), context)
    }
}
