mod decompose;

use ndarray::ArrayD;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, heads_width, require, require_type, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch};
use crate::{DType, Dim, Real, Tensor, TensorType, Types, Weight};

/// `attention q, k, v, mask? {heads, kv_heads, head_dim, scale, causal}`: grouped-query attention.
///
/// `q [batch, seq, heads · head_dim]`, `k` and `v` `[batch, kv_heads, total, head_dim]` →
/// `[batch, seq, heads · head_dim]`. Query head `h` uses key head `h / (heads / kv_heads)`. If causal, the last query
/// sees all keys, the one before it all but the last, and so on. `mask` is `i64[batch, total]` with 1 for keys that may be
/// seen, or `f32[batch, 1, seq, total]`, which is added to the scaled products. A query that may see no key gives zeros.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// The size of a head.
    pub head_dim: usize,
    /// The factor of the dot products.
    pub scale: Real,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
}

impl OpDef for Attention {
    const MNEMONIC: &'static str = "attention";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("heads", self.heads.to_string()),
            ("kv_heads", self.kv_heads.to_string()),
            ("head_dim", self.head_dim.to_string()),
            ("scale", self.scale.to_string()),
            ("causal", self.causal.to_string()),
        ]
    }

    fn build(weights: Vec<Weight>, a: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self {
            heads: a.get("heads")?,
            kv_heads: a.get("kv_heads")?,
            head_dim: a.get("head_dim")?,
            scale: a.get("scale")?,
            causal: a.get("causal")?,
        })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let (q, k, v, mask) = match args {
            [q, k, v] => (q, k, v, None),
            [q, k, v, mask] => (q, k, v, Some(mask)),
            _ => return Err(format!("takes q, k, v and perhaps a mask, found {} operands", args.len())),
        };
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!("{} heads are not a multiple of {} key heads", self.heads, self.kv_heads));
        }
        require(q, "q", DType::F32, 3)?;
        require(k, "k", DType::F32, 4)?;
        let (batch, total) = (&q.shape[0], &k.shape[2]);
        require_type("q", q, &q.with_width(heads_width(self.heads, self.head_dim)))?;
        let cache = [batch.clone(), self.kv_heads.into(), total.clone(), Dim::from(self.head_dim)];
        require_type("k", k, &TensorType::new(DType::F32, cache))?;
        require_type("v", v, k)?;
        if let Some(mask) = mask {
            let bias = [batch.clone(), 1usize.into(), q.shape[1].clone(), total.clone()];
            let expected = match mask.dtype {
                DType::F32 => TensorType::new(DType::F32, bias),
                _ => TensorType::new(DType::I64, [batch.clone(), total.clone()]),
            };
            require_type("mask", mask, &expected)?;
        }
        Ok([(*q).clone()].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let (q, k, v) = (args[0].as_f32()?, args[1].as_f32()?, args[2].as_f32()?);
        let mask = args.get(3).filter(|mask| mask.holds(DType::I64)).map(|mask| mask.as_i64()).transpose()?;
        let bias = args.get(3).filter(|mask| mask.holds(DType::F32)).map(|bias| bias.as_f32()).transpose()?;
        let (batch, seq, total) = (q.shape()[0], q.shape()[1], k.shape()[2]);
        let groups = self.heads / self.kv_heads;
        let mut out = ArrayD::zeros(q.shape());
        for (row, query, head) in indices(batch, seq, self.heads) {
            // The number of keys that a query sees, kept non-negative where there are more queries than keys.
            let seen = if self.causal { (total + query + 1).saturating_sub(seq) } else { total };
            let visible: Vec<usize> =
                (0..seen).filter(|&key| mask.is_none_or(|mask| mask[[row, key]] != 0)).collect();
            let (kv, column) = (head / groups, head * self.head_dim);
            let scores: Vec<f64> = visible
                .iter()
                .map(|&key| {
                    let products = (0..self.head_dim)
                        .map(|i| f64::from(q[[row, query, column + i]]) * f64::from(k[[row, kv, key, i]]));
                    let bias = bias.map_or(0.0, |bias| f64::from(bias[[row, 0, query, key]]));
                    products.sum::<f64>() * self.scale.get() + bias
                })
                .collect();
            let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| libm::exp(score - peak)).collect();
            let sum: f64 = weights.iter().sum();
            if visible.is_empty() {
                continue;
            }
            for i in 0..self.head_dim {
                let products =
                    visible.iter().zip(&weights).map(|(&key, w)| w * f64::from(v[[row, kv, key, i]]));
                out[[row, query, column + i]] = (products.sum::<f64>() / sum) as f32;
            }
        }
        Ok(vec![out.into()])
    }

    /// Products, a softmax, and products again. The query heads of a group are rows of one matrix, so that no key is
    /// copied.
    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let masked = node.operands().get(3).is_some_and(|&mask| node.ty(mask).dtype == DType::I64);
        // Which keys are seen, a bias has to say.
        (!masked && !node.causal).then(|| decompose::products(node))
    }
}

fn indices(batch: usize, seq: usize, heads: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..batch).flat_map(move |b| (0..seq).flat_map(move |s| (0..heads).map(move |h| (b, s, h))))
}
