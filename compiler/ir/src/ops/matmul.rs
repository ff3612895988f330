use ndarray::ArrayD;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::{DType, Tensor, TensorType, Types, Weight};

/// `matmul a, b`: matrix products along the last two dimensions, `[…, m, k]` and `[…, k, n]` → `[…, m, n]`.
///
/// The dimensions before them are equal, or `b` is one matrix for all. A primitive of legalization.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matmul;

impl OpDef for Matmul {
    const MNEMONIC: &'static str = "matmul";

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [] = take_weights(weights)?;
        Ok(Self)
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [a, b] = take_args(args)?;
        let (n, m) = (a.rank(), b.rank());
        if a.dtype != DType::F32 || b.dtype != DType::F32 || n < 2 || m < 2 {
            return Err(format!("a and b must be f32 matrices, found {a} and {b}"));
        }
        let batch_fits = m == 2 || (n == m && a.shape[..n - 2] == b.shape[..m - 2]);
        if !batch_fits || a.shape[n - 1] != b.shape[m - 2] {
            return Err(format!("{a} and {b} have no product"));
        }
        Ok([a.with_width(b.shape[m - 1].clone())].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], _: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let (a, b) = (args[0].as_f32()?, args[1].as_f32()?);
        let (&[.., rows, inner], &[.., _, columns]) = (a.shape(), b.shape()) else {
            return Err("a and b must be matrices".to_owned());
        };
        let (a_data, b_data) = (a.as_slice().ok_or("a is not contiguous")?, b.as_slice().ok_or("b is not")?);
        let batch: usize = a.shape()[..a.ndim() - 2].iter().product();
        let step = if b.ndim() == 2 { 0 } else { inner * columns };
        let mut out = Vec::with_capacity(batch * rows * columns);
        for (matrix, row) in (0..batch).flat_map(|matrix| (0..rows).map(move |row| (matrix, row))) {
            let a = &a_data[(matrix * rows + row) * inner..][..inner];
            let mut sums = vec![0f64; columns];
            for (k, a) in a.iter().enumerate() {
                let b = &b_data[matrix * step + k * columns..][..columns];
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += f64::from(*a) * f64::from(*b);
                }
            }
            out.extend(sums.into_iter().map(|sum| sum as f32));
        }
        let shape = [&a.shape()[..a.ndim() - 1], &[columns]].concat();
        Ok(vec![ArrayD::from_shape_vec(shape, out).map_err(|e| e.to_string())?.into()])
    }
}
