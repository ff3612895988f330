use ndarray::{ArrayD, Axis, stack};

use crate::attrs::{Attrs, optional_text};
use crate::op::{EvalContext, OpDef, require, require_type, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `pool_last x, ids? {pad}`: one position of each row of `x [batch, seq, width]`.
///
/// That of the right-most token that is not `pad`; position 0 of a row of padding alone. Without `ids` or without
/// `pad` it is the last position. This is the rule of transformers' `LlamaForSequenceClassification`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolLast {
    /// The padding token.
    pub pad: Option<i64>,
}

impl OpDef for PoolLast {
    const MNEMONIC: &'static str = "pool_last";

    fn attrs(&self) -> Vec<(&'static str, String)> {
        vec![("pad", optional_text(self.pad.as_ref()))]
    }

    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self { pad: attrs.optional("pad")? })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let (x, ids) = match args {
            [x] => (x, None),
            [x, ids] => (x, Some(ids)),
            _ => return Err(format!("takes x and perhaps ids, found {} operands", args.len())),
        };
        require(x, "x", DType::F32, 3)?;
        if let Some(ids) = ids {
            require_type("ids", ids, &TensorType::new(DType::I64, x.shape[..2].iter().cloned()))?;
        }
        Ok([TensorType::new(DType::F32, [x.shape[0].clone(), x.shape[2].clone()])].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let x = args[0].as_f32()?;
        let ids = args.get(1).map(|ids| ids.as_i64()).transpose()?;
        let last = x.shape()[1].checked_sub(1).ok_or("there is no position to pool")?;
        let mut rows = Vec::new();
        for (row, x) in x.outer_iter().enumerate() {
            let position = match (ids, self.pad) {
                (Some(ids), Some(pad)) => (0..=last).rev().find(|&at| ids[[row, at]] != pad).unwrap_or(0),
                _ => last,
            };
            rows.push(x.index_axis_move(Axis(0), position));
        }
        if rows.is_empty() {
            return Ok(vec![ArrayD::<f32>::zeros(vec![0, x.shape()[2]]).into()]);
        }
        Ok(vec![stack(Axis(0), &rows).map_err(|e| e.to_string())?.into()])
    }
}
