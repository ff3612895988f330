//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of heads whose pairs are `(i, i + head_dim / 2)`.

use std::ops::Range;

use super::math;
use super::simd::{Kernel, LANES, Simd};
use super::{Context, Rows, RowsMut};

/// `cos` and `sin` of `position · inv_freq`, times `factor`: `[tokens, head_dim / 2]` each.
///
/// The angle is the f32 product of the position as f32 and the frequency, as the reference implementation has it;
/// cosine and sine are `libm`'s, the same on every machine.
///
/// # Panics
/// If the shapes do not fit together.
pub fn rotary_angles(
    context: &Context,
    positions: &[i64],
    inv_freq: &[f32],
    factor: f32,
    cos: RowsMut<'_>,
    sin: RowsMut<'_>,
) {
    for out in [&cos, &sin] {
        assert!(out.len() == positions.len() && out.width() == inv_freq.len(), "angles → {out:?}");
    }
    // An angle costs as much as some hundred elements of other kernels.
    context.for_rows(positions.len(), inv_freq.len() * 64, &|rows| {
        for row in rows {
            let position = positions[row] as f32;
            let (cos, sin) = (cos.pointer(row), sin.pointer(row));
            for (i, frequency) in inv_freq.iter().enumerate() {
                let angle = position * frequency;
                // SAFETY: inside the row, whose width was checked; no other task has it.
                unsafe {
                    *cos.add(i) = libm::cosf(angle) * factor;
                    *sin.add(i) = libm::sinf(angle) * factor;
                }
            }
        }
    });
}

/// Rotates each pair `(x[i], x[i + head_dim / 2])` of each head by its row's angle `i`: x and out
/// `[tokens, heads · head_dim]`, cos and sin `[tokens, head_dim / 2]`. `out` may be the same window as `x`.
///
/// # Panics
/// If the shapes do not fit together.
pub fn rotary(context: &Context, x: Rows<'_>, cos: Rows<'_>, sin: Rows<'_>, heads: usize, out: RowsMut<'_>) {
    let half = cos.width();
    assert!(
        heads.checked_mul(2 * half) == Some(x.width()) && sin.width() == half,
        "{heads} heads of {x:?} by {cos:?}, {sin:?}"
    );
    assert!(out.width() == x.width() && out.len() == x.len(), "{x:?} → {out:?}");
    assert!(cos.len() == x.len() && sin.len() == x.len(), "angles for each row");
    context.for_rows(x.len(), x.width(), &|rows| {
        // SAFETY: the context's instruction set is available; rows and widths were checked, and no other task has
        // these rows.
        unsafe { context.isa().dispatch(Rotary { x, cos, sin, heads, out: &out, rows }) };
    });
}

struct Rotary<'a> {
    x: Rows<'a>,
    cos: Rows<'a>,
    sin: Rows<'a>,
    heads: usize,
    out: &'a RowsMut<'a>,
    rows: Range<usize>,
}

impl Kernel for Rotary<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let half = self.cos.width();
        for row in self.rows.clone() {
            let (cos, sin) = (self.cos.pointer(row), self.sin.pointer(row));
            for head in 0..self.heads {
                // SAFETY: both halves of each head are inside the row; they are read before they are written.
                unsafe {
                    let x = self.x.pointer(row).add(head * 2 * half);
                    let out = self.out.pointer(row).add(head * 2 * half);
                    for i in (0..half).step_by(LANES) {
                        let n = half - i;
                        let (a, b) = (math::load::<S>(x.add(i), n), math::load::<S>(x.add(half + i), n));
                        let (c, s) = (math::load::<S>(cos.add(i), n), math::load::<S>(sin.add(i), n));
                        let first = S::sub(S::mul(a, c), S::mul(b, s));
                        let second = S::add(S::mul(b, c), S::mul(a, s));
                        math::store::<S>(out.add(i), n, first);
                        math::store::<S>(out.add(half + i), n, second);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, bits, contexts, numbers};

    #[test]
    fn angles_are_of_the_single_precision_product() {
        for context in contexts() {
            let (positions, inv_freq) = ([0, 1, 131_071, 5], [1.0, 0.1, 3.3e-5]);
            let (mut cos, mut sin) = ([0.0; 12], [0.0; 12]);
            let (c, s) = (RowsMut::new(&mut cos, 3), RowsMut::new(&mut sin, 3));
            rotary_angles(&context, &positions, &inv_freq, 1.5, c, s);
            for (row, &position) in positions.iter().enumerate() {
                for (i, frequency) in inv_freq.iter().enumerate() {
                    let angle = f64::from(position as f32 * frequency);
                    assert!((f64::from(cos[row * 3 + i]) - 1.5 * angle.cos()).abs() < 2e-7);
                    assert!((f64::from(sin[row * 3 + i]) - 1.5 * angle.sin()).abs() < 2e-7);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "9223372036854775808 heads of")]
    fn heads_whose_width_no_number_can_count_do_not_fit() {
        let context = &contexts()[0];
        let (x, angles) = (Rows::new(&[], 0), Rows::new(&[], 1));
        rotary(context, x, angles, angles, 1 << 63, RowsMut::new(&mut [], 0));
    }

    #[test]
    fn pairs_are_rotated_also_in_place() {
        for context in contexts() {
            for (heads, half) in [(1, 1), (2, 3), (3, 7), (2, 16), (4, 50)] {
                let width = heads * 2 * half;
                let mut x = numbers(1, 9 * width);
                let (cos, sin) = (numbers(2, 9 * half), numbers(3, 9 * half));
                let rotated = |i: usize| {
                    let (row, head, d) = (i / width, i % width / (2 * half), i % (2 * half));
                    let at = |d: usize| f64::from(x[row * width + head * 2 * half + d]);
                    let (c, s) =
                        (f64::from(cos[row * half + d % half]), f64::from(sin[row * half + d % half]));
                    let turned = if d < half { -at(d + half) } else { at(d - half) };
                    at(d) * c + turned * s
                };
                let expected: Vec<f64> = (0..x.len()).map(rotated).collect();
                let (cos, sin) = (Rows::new(&cos, half), Rows::new(&sin, half));
                let mut out = vec![f32::NAN; x.len()];
                rotary(&context, Rows::new(&x, width), cos, sin, heads, RowsMut::new(&mut out, width));
                assert_close(&out, &expected, &format!("{context:?} {heads} {half}"));

                let start = x.as_mut_ptr();
                // SAFETY: both views are of all of `x`, which lives longer; the kernel works in place.
                let (read, write) = unsafe {
                    (Rows::from_raw(start, 9, width, width), RowsMut::from_raw(start, 9, width, width))
                };
                rotary(&context, read, cos, sin, heads, write);
                assert_eq!(bits(&x), bits(&out));
            }
        }
    }
}
