//! Root mean square normalization, alone and after a sum (Zhang and Sennrich 2019, arXiv:1910.07467).

use std::ops::Range;

use super::math;
use super::simd::{Kernel, LANES, Simd};
use super::{Context, Rows, RowsMut};

/// `out = w · (x / √(mean(x²) + eps))`, row by row: x and out `[tokens, width]`, w `[width]`. `out` may be the same
/// window as `x`.
///
/// # Panics
/// If the shapes do not fit together.
pub fn rms_norm(context: &Context, x: Rows<'_>, weight: &[f32], eps: f32, out: RowsMut<'_>) {
    assert!(x.len() == out.len() && x.width() == out.width() && x.width() == weight.len(), "{x:?} → {out:?}");
    context.for_rows(x.len(), x.width(), &|rows| {
        // SAFETY: the context's instruction set is available; rows and widths were checked, and no other task has
        // these rows.
        unsafe { context.isa().dispatch(Norm { x, add: None, weight, eps, out: &out, rows }) };
    });
}

/// `sum = a + b`, then `out = rms_norm(sum)`: all `[tokens, width]`. `sum` may be the same window as `a` or `b`; `out`
/// overlaps none of the others.
///
/// # Panics
/// If the shapes do not fit together.
pub fn add_rms_norm(
    context: &Context,
    a: Rows<'_>,
    b: Rows<'_>,
    weight: &[f32],
    eps: f32,
    sum: RowsMut<'_>,
    out: RowsMut<'_>,
) {
    let shape = (a.len(), weight.len());
    for (len, width) in
        [(a.len(), a.width()), (b.len(), b.width()), (sum.len(), sum.width()), (out.len(), out.width())]
    {
        assert!((len, width) == shape, "{a:?} + {b:?} → {sum:?}, {out:?}");
    }
    context.for_rows(a.len(), a.width(), &|rows| {
        // SAFETY: as above.
        unsafe { context.isa().dispatch(Norm { x: a, add: Some((b, &sum)), weight, eps, out: &out, rows }) };
    });
}

struct Norm<'a> {
    x: Rows<'a>,
    /// What to add to x first, and where to leave the sum.
    add: Option<(Rows<'a>, &'a RowsMut<'a>)>,
    weight: &'a [f32],
    eps: f32,
    out: &'a RowsMut<'a>,
    rows: Range<usize>,
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.weight.len();
        let weight = self.weight.as_ptr();
        for row in self.rows.clone() {
            let mut x = self.x.pointer(row);
            let out = self.out.pointer(row);
            // SAFETY: all pointers are starts of rows of `width` elements.
            unsafe {
                let mut squares = S::splat(0.0);
                if let Some((b, sum)) = &self.add {
                    let (b, sum) = (b.pointer(row), sum.pointer(row));
                    for i in (0..width).step_by(LANES) {
                        let v = S::add(
                            math::load::<S>(x.add(i), width - i),
                            math::load::<S>(b.add(i), width - i),
                        );
                        squares = S::fma(v, v, squares);
                        math::store::<S>(sum.add(i), width - i, v);
                    }
                    x = sum;
                } else {
                    for i in (0..width).step_by(LANES) {
                        let v = math::load::<S>(x.add(i), width - i);
                        squares = S::fma(v, v, squares);
                    }
                }
                let mean = S::sum(squares) / width as f32;
                let factor = S::splat(1.0 / (mean + self.eps).sqrt());
                for i in (0..width).step_by(LANES) {
                    let v = S::mul(math::load::<S>(x.add(i), width - i), factor);
                    let v = S::mul(math::load::<S>(weight.add(i), width - i), v);
                    math::store::<S>(out.add(i), width - i, v);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, bits, contexts, numbers, sizes};

    fn expected(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
        let rows = x.chunks(weight.len()).flat_map(|row| {
            let squares = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
            let factor = 1.0 / (squares / row.len() as f64 + f64::from(eps)).sqrt();
            row.iter().zip(weight).map(move |(&x, &w)| f64::from(x) * factor * f64::from(w))
        });
        rows.collect()
    }

    #[test]
    fn odd_widths_are_normalized() {
        for context in contexts() {
            for &width in sizes(&[1, 7, 16, 60, 515, 4096], &[1, 7, 60]) {
                let (x, weight) = (numbers(1, 13 * width), numbers(2, width));
                let mut out = vec![f32::NAN; x.len()];
                rms_norm(&context, Rows::new(&x, width), &weight, 1e-5, RowsMut::new(&mut out, width));
                assert_close(&out, &expected(&x, &weight, 1e-5), &format!("{context:?} {width}"));
            }
        }
    }

    #[test]
    fn a_sum_is_normalized_like_its_result_and_may_replace_a_summand() {
        for context in contexts() {
            let width = 75;
            let (mut a, b, weight) = (numbers(1, 5 * width), numbers(2, 5 * width), numbers(3, width));
            let total: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            let mut of_total = vec![f32::NAN; total.len()];
            rms_norm(&context, Rows::new(&total, width), &weight, 1e-6, RowsMut::new(&mut of_total, width));

            let mut out = vec![f32::NAN; total.len()];
            let start = a.as_mut_ptr();
            // SAFETY: both views are of all of `a`, which lives longer; the kernel works in place.
            let (read, write) = unsafe {
                (Rows::from_raw(start, 5, width, width), RowsMut::from_raw(start, 5, width, width))
            };
            let b = Rows::new(&b, width);
            add_rms_norm(&context, read, b, &weight, 1e-6, write, RowsMut::new(&mut out, width));
            assert_eq!(a, total);
            assert_eq!(bits(&out), bits(&of_total));
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        for context in contexts() {
            let mut out = [f32::NAN; 4];
            rms_norm(&context, Rows::new(&[0.0; 4], 4), &[1.0; 4], 1e-6, RowsMut::new(&mut out, 4));
            assert_eq!(out, [0.0; 4]);
        }
    }
}
