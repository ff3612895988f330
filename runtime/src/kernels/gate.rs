//! Linear layers of a gate and what it opens, in one matrix: `function(x · gateᵀ) · (x · upᵀ)`.
//!
//! Many tokens are combined in the tasks that multiply them ([`super::tasks`]). Few have products that stay nearby, and
//! weights that are one stream from memory: they are multiplied first and combined then.

use llamac_plan::layout::PANEL;
use llamac_plan::{Activation, Arithmetic};

use super::elementwise::gated;
use super::linear::{linear, multiply};
use super::tasks::Gate;
use super::{Context, Matrix, Rows, RowsMut};

/// Tokens for which weights are one stream.
const FEW: usize = 16;

/// `out = function(x · gateᵀ + bias) · (x · upᵀ + bias)`: x `[tokens, cols]`, gate and up the first and the second half
/// of the weight's rows, bias one number for each row, out `[tokens, rows / 2]`.
///
/// # Panics
/// As [`linear`].
pub fn gated_linear(
    context: &Context,
    arithmetic: Arithmetic,
    function: Activation,
    x: Rows<'_>,
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    out: RowsMut<'_>,
) {
    let (rows, half, threads) = (weight.layout().rows, out.width(), context.threads());
    assert!(rows.is_multiple_of(2) && rows / 2 == half, "{weight:?} has two halves of {out:?}");
    // In this order with what linear layers reuse, and as large as few tokens will ever need it.
    let mut memory = context.halves();
    let room = FEW * rows;
    if x.len() > FEW && half.is_multiple_of(PANEL) {
        let memory = memory.get(room.max(Gate::room(x.len(), threads)));
        let gate = Gate::new(function, memory, threads);
        return multiply(context, arithmetic, x, weight, bias, &out, Some(&gate));
    }
    let both = &mut memory.get(room.max(x.len() * rows))[..x.len() * rows];
    linear(context, arithmetic, x, weight, bias, RowsMut::new(both, rows));
    let both = Rows::new(both, rows);
    gated(context, function, both.columns(0, half), both.columns(half, half), out);
}

#[cfg(test)]
mod tests {
    use llamac_plan::layout::WeightDtype::{self, Bf16, F16, F32, Q4, Q4A, Q8};

    use super::*;
    use crate::kernels::testing::{self, Packed, Walled, assert_close, bits, contexts, numbers, sizes};

    const FORMATS: [(WeightDtype, Arithmetic); 8] = [
        (F32, Arithmetic::F32),
        (F16, Arithmetic::F32),
        (Q4, Arithmetic::F32),
        (Bf16, Arithmetic::Bf16),
        (Q8, Arithmetic::Bf16),
        (Q8, Arithmetic::Int8),
        (Q4, Arithmetic::Int8),
        (Q4A, Arithmetic::Int8),
    ];

    /// Elements between the end of a result's row and the next row.
    const GAP: usize = 5;

    /// The result, in a window that ends where memory does.
    fn run(
        context: &Context,
        arithmetic: Arithmetic,
        function: Activation,
        x: &[f32],
        weight: &Packed,
        bias: Option<&[f32]>,
    ) -> Vec<f32> {
        let (cols, half) = (weight.layout.cols, weight.layout.rows / 2);
        let (tokens, stride) = (x.len() / cols, half + GAP);
        let x = Walled::from(x.to_vec());
        let mut out = Walled::from(vec![f32::NAN; tokens * stride - GAP]);
        // SAFETY: all rows are inside `out`, the last one up to its end.
        let window = unsafe { RowsMut::from_raw(out.as_mut_ptr(), tokens, half, stride) };
        let matrix = Matrix::new(weight.layout, &weight.bytes);
        gated_linear(context, arithmetic, function, Rows::new(&x, cols), matrix, bias, window);
        let rows = out.chunks(stride);
        assert!(rows.clone().all(|row| row[half..].iter().all(|x| x.is_nan())), "the gaps are left alone");
        rows.flat_map(|row| row[..half].to_vec()).collect()
    }

    /// Whatever is fused gives the bits of one step after the other, whose kernels have tests of their own.
    fn check(
        context: &Context,
        (dtype, arithmetic): (WeightDtype, Arithmetic),
        [tokens, half, cols]: [usize; 3],
    ) {
        let weight = testing::matrix(1, dtype, 2 * half, cols);
        let (x, bias) = (numbers(2, tokens * cols), numbers(3, 2 * half));
        for (function, bias) in [(Activation::Silu, None), (Activation::GeluTanh, Some(&bias[..]))] {
            let mut both = vec![f32::NAN; tokens * 2 * half];
            let matrix = Matrix::new(weight.layout, &weight.bytes);
            let out = RowsMut::new(&mut both, 2 * half);
            linear(context, arithmetic, Rows::new(&x, cols), matrix, bias, out);
            let both = Rows::new(&both, 2 * half);
            let mut expected = vec![f32::NAN; tokens * half];
            let (gate, up) = (both.columns(0, half), both.columns(half, half));
            gated(context, function, gate, up, RowsMut::new(&mut expected, half));
            let found = run(context, arithmetic, function, &x, &weight, bias);
            let what = format!("{context:?} {dtype:?} {arithmetic:?} {tokens} × {cols} × {half}");
            assert!(bits(&found) == bits(&expected), "{what}");
        }
    }

    #[test]
    fn fused_and_one_after_the_other_are_the_same_bits() {
        // Few tokens and many, halves of whole panels and others, an odd number of panels, several tasks.
        let all = [[1, 48, 130], [16, 16, 130], [17, 48, 130], [40, 37, 130], [290, 336, 70]];
        for context in contexts() {
            for &sizes in sizes(&all, &[[2, 3, 5], [17, 64, 3]]) {
                FORMATS.into_iter().for_each(|format| check(&context, format, sizes));
            }
        }
    }

    /// More columns than are multiplied at a time, and last blocks of one token and of a few.
    #[test]
    #[cfg_attr(miri, ignore = "large, and the same memory as above")]
    fn sums_come_and_go_in_both_halves() {
        for context in contexts().into_iter().filter(|context| context.threads() > 1) {
            for sizes in [[513, 48, 70], [257, 48, 300], [261, 16, 1100], [530, 48, 2200]] {
                FORMATS.into_iter().for_each(|format| check(&context, format, sizes));
            }
        }
    }

    #[test]
    fn the_gate_is_the_first_half() {
        let (half, cols) = (32, 20);
        let weight = testing::matrix(1, F32, 2 * half, cols);
        for &tokens in sizes(&[3, 33], &[3]) {
            let x = numbers(2, tokens * cols);
            let product = |token: usize, row: usize| -> f64 {
                let terms = (0..cols)
                    .map(|k| f64::from(x[token * cols + k]) * f64::from(weight.elements[row * cols + k]));
                terms.sum()
            };
            let expected: Vec<f64> = (0..tokens * half)
                .map(|i| {
                    let (token, row) = (i / half, i % half);
                    product(token, row).max(0.0) * product(token, half + row)
                })
                .collect();
            for context in contexts() {
                let found = run(&context, Arithmetic::F32, Activation::Relu, &x, &weight, None);
                assert_close(&found, &expected, &format!("{context:?} {tokens}"));
            }
        }
    }

    #[test]
    fn two_threads_on_one_context_take_turns() {
        let context = Context::new(2);
        let weight = testing::matrix(1, F16, 64, 20);
        std::thread::scope(|scope| {
            for tokens in [4, 20] {
                let (context, weight) = (&context, &weight);
                scope.spawn(move || {
                    let x = numbers(2, tokens * 20);
                    for _ in 0..if cfg!(miri) { 2 } else { 300 } {
                        run(context, Arithmetic::F32, Activation::Silu, &x, weight, None);
                    }
                });
            }
        });
    }
}
