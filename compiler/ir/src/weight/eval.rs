//! The naive evaluation of recipes, whole tensors in memory.

use ndarray::{ArrayD, Axis, concatenate};

use super::{FrequencySet, Weight, WeightExpr};
use crate::frequencies;

/// The value of `weight`, rounded to its element type and widened to `f32`.
///
/// `read` gives checkpoint tensors by name, widened to `f32`. A low-rank product accumulates in `f64`.
pub fn evaluate(
    weight: &Weight,
    read: &mut dyn FnMut(&str) -> Result<ArrayD<f32>, String>,
) -> Result<ArrayD<f32>, String> {
    let value = match weight.expr() {
        WeightExpr::Source { tensor, .. } => read(tensor)?,
        WeightExpr::Concat { parts } => {
            let parts = parts.iter().map(|part| evaluate(part, read)).collect::<Result<Vec<_>, _>>()?;
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            concatenate(Axis(0), &views).map_err(|e| format!("{weight}: {e}"))?
        }
        WeightExpr::Slice { base, start, rows } => {
            let rows: Vec<usize> = (*start..start + rows).collect();
            evaluate(base, read)?.select(Axis(0), &rows)
        }
        WeightExpr::Permute { base, order } => {
            let rows: Vec<usize> = (0..weight.shape()[0]).map(|row| order.source_row(row)).collect();
            evaluate(base, read)?.select(Axis(0), &rows)
        }
        WeightExpr::Transpose { base } => {
            evaluate(base, read)?.reversed_axes().as_standard_layout().into_owned()
        }
        WeightExpr::AddLowRank { base, a, b, scale } => {
            let (mut base, a, b) = (evaluate(base, read)?, evaluate(a, read)?, evaluate(b, read)?);
            for ((row, column), value) in
                (0..base.len()).map(|i| (i / a.shape()[1], i % a.shape()[1])).zip(&mut base)
            {
                let product = (0..a.shape()[0]).map(|r| f64::from(b[[row, r]]) * f64::from(a[[r, column]]));
                *value = (f64::from(*value) + scale.get() * product.sum::<f64>()) as f32;
            }
            base
        }
        WeightExpr::InvFreq { theta, head_dim, scaling, set } => {
            let long = *set == FrequencySet::Long;
            ArrayD::from_shape_vec(vec![head_dim / 2], frequencies::inverse(*theta, *head_dim, scaling, long))
                .map_err(|e| format!("{weight}: {e}"))?
        }
        WeightExpr::Convert { base, .. } => evaluate(base, read)?,
        WeightExpr::Quantize { base, scheme } => {
            let mut values = evaluate(base, read)?;
            for mut row in values.rows_mut() {
                scheme.round_row(row.as_slice_mut().ok_or("rows are not contiguous")?);
            }
            values
        }
        WeightExpr::QuantizedPart { of, .. } => {
            return Err(format!("{of} is stored in parts that are no numbers"));
        }
        WeightExpr::Literal { shape, values, .. } => {
            let values = values.iter().map(|value| value.f32()).collect();
            ArrayD::from_shape_vec(shape.to_vec(), values).map_err(|e| format!("{weight}: {e}"))?
        }
    };
    if value.shape() != weight.shape() {
        return Err(format!("{weight}: expected shape {:?}, found {:?}", weight.shape(), value.shape()));
    }
    Ok(value.mapv(|v| weight.dtype().round(v)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Permutation, Real};

    #[test]
    fn recipes_do_what_they_say() {
        let w = Weight::source("w", DType::F32, &[4, 2]).unwrap();
        let (a, b) = (
            Weight::source("a", DType::F32, &[1, 2]).unwrap(),
            Weight::source("b", DType::F32, &[4, 1]).unwrap(),
        );
        let mut read = |name: &str| {
            let (shape, data): (Vec<usize>, Vec<f32>) = match name {
                "w" => (vec![4, 2], (0..8u8).map(f32::from).collect()),
                "a" => (vec![1, 2], vec![1.0, 10.0]),
                _ => (vec![4, 1], vec![1.0, 2.0, 3.0, 4.0]),
            };
            ArrayD::from_shape_vec(shape, data).map_err(|e| e.to_string())
        };
        let mut values = |w: &Weight| evaluate(w, &mut read).unwrap().into_iter().collect::<Vec<f32>>();
        assert_eq!(values(&w.slice(1, 2).unwrap()), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(values(&w.transpose().unwrap()), [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
        let half = w.permute(Permutation::InterleavedToHalf { heads: 1, head_dim: 4 }).unwrap();
        assert_eq!(values(&half), [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        let sum = w.add_low_rank(&a, &b, Real::new(0.5)).unwrap();
        assert_eq!(values(&sum), [0.5, 6.0, 3.0, 13.0, 5.5, 20.0, 8.0, 27.0]);
        assert_eq!(
            values(&Weight::concat([a.clone(), w.slice(3, 1).unwrap()]).unwrap()),
            [1.0, 10.0, 6.0, 7.0]
        );
    }

    #[test]
    fn a_tensor_of_another_shape_is_an_error() {
        let w = Weight::source("w", DType::F32, &[2]).unwrap();
        let error = evaluate(&w, &mut |_| Ok(ArrayD::zeros(vec![3]))).unwrap_err();
        assert_eq!(error, "@w: expected shape [2], found [3]");
    }
}
