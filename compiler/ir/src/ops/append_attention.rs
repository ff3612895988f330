use ndarray::ArrayD;

use super::{Attention, KvAppend};
use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, heads_width, require, require_type, take_weights};
use crate::{DType, Dim, Real, Tensor, TensorType, Types, Weight};

/// `append_attention q, k, v, bias, (past_k, past_v)? {heads, kv_heads, head_dim, scale}`: [`KvAppend`] of new keys
/// and values, and [`Attention`] over all.
///
/// `q [batch, seq, heads · head_dim]`, `k` and `v` `[batch, seq, kv_heads · head_dim]`, `bias f32[batch, 1, seq, total]`
/// added to the products, `past_k` and `past_v` `[batch, kv_heads, past, head_dim]` → the attended
/// `[batch, seq, heads · head_dim]` and, where there is a past, the grown keys and values. Shaped by legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendAttention {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// The size of a head.
    pub head_dim: usize,
    /// The factor of the dot products.
    pub scale: Real,
}

impl AppendAttention {
    fn attention(&self) -> Attention {
        Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            causal: false,
        }
    }
}

impl OpDef for AppendAttention {
    const MNEMONIC: &'static str = "append_attention";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("heads", self.heads.to_string()),
            ("kv_heads", self.kv_heads.to_string()),
            ("head_dim", self.head_dim.to_string()),
            ("scale", self.scale.to_string()),
        ]
    }

    fn build(weights: Vec<Weight>, a: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self {
            heads: a.get("heads")?,
            kv_heads: a.get("kv_heads")?,
            head_dim: a.get("head_dim")?,
            scale: a.get("scale")?,
        })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let (q, k, v, bias, past) = match args {
            [q, k, v, bias] => (q, k, v, bias, None),
            [q, k, v, bias, past_k, past_v] => (q, k, v, bias, Some((*past_k, *past_v))),
            _ => {
                return Err(format!(
                    "takes q, k, v, a bias and perhaps a past, found {} operands",
                    args.len()
                ));
            }
        };
        require(k, "k", DType::F32, 3)?;
        require_type("k", k, &k.with_width(heads_width(self.kv_heads, self.head_dim)))?;
        require_type("v", v, k)?;
        let grown = match past {
            Some((past_k, past_v)) => {
                require_type("past_v", past_v, past_k)?;
                KvAppend.infer(&[past_k, k])?[0].clone()
            }
            None => TensorType::new(
                DType::F32,
                [k.shape[0].clone(), self.kv_heads.into(), k.shape[1].clone(), Dim::from(self.head_dim)],
            ),
        };
        let attended = self.attention().infer(&[q, &grown, &grown, bias])?;
        let grown = if past.is_some() { vec![grown.clone(), grown] } else { Vec::new() };
        Ok(attended.into_iter().chain(grown).collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let empty = || ArrayD::<f32>::zeros(vec![args[1].shape()[0], self.kv_heads, 0, self.head_dim]).into();
        let mut grown = Vec::new();
        for (new, past) in [(args[1], args.get(4)), (args[2], args.get(5))] {
            let past = past.map_or_else(empty, |past| (*past).clone());
            grown.extend(KvAppend.eval(&[&past, new], context)?);
        }
        let mut results = self.attention().eval(&[args[0], &grown[0], &grown[1], args[3]], context)?;
        if args.len() == 6 {
            results.extend(grown);
        }
        Ok(results)
    }
}
