use ndarray::{ArrayD, Axis, stack};

use super::{BinaryFunction, Gather, GatherRows, Positions, Reduce, Reduction};
use crate::attrs::{Attrs, optional_text};
use crate::op::{EvalContext, OpDef, require, require_type, take_weights};
use crate::rewrite::{NoMatch, OpRef, Patch, Steps};
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

    /// The largest of the positions whose token is not padding, in 32 bits, which more runtimes can compare.
    fn decompose(node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        let build = || {
            let (mut steps, x) = (Steps::new(node), node.operand(0).into());
            let (Some(pad), Some(&ids)) = (node.pad, node.operands().get(1)) else {
                let last = steps.literal(DType::I64, &[], &[-1.0])?;
                let pooled = steps.add(Gather { axis: 1 }, &[x, last])?;
                return Ok(steps.replace(node.value(), pooled));
            };
            let (pad, one) =
                (steps.literal(DType::I64, &[], &[pad as f64])?, steps.literal(DType::I32, &[], &[1.0])?);
            let padding = steps.binary(BinaryFunction::Equal, ids.into(), pad)?;
            let padding = steps.cast(padding, DType::I32)?;
            let kept = steps.binary(BinaryFunction::Sub, one, padding)?;
            let positions = steps.add(Positions, &[ids.into()])?;
            let positions = steps.cast(positions, DType::I32)?;
            let kept = steps.product(kept, positions)?;
            let last = steps.add(Reduce { function: Reduction::Max, axis: Some(1) }, &[kept])?;
            let last = steps.cast(last, DType::I64)?;
            let pooled = steps.add(GatherRows, &[x, last])?;
            Ok(steps.replace(node.value(), pooled))
        };
        Some(build())
    }
}
