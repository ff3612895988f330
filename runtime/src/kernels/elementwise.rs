//! Functions of one or two numbers at a time, and copies of rows.

use std::marker::PhantomData;
use std::ops::Range;

use llamac_plan::Activation;

use super::math;
use super::simd::{Kernel, LANES, Simd};
use super::{Context, Rows, RowsMut};

/// `out = a + b`, all `[rows, width]`. `out` may be the same window as `a` or `b`.
///
/// # Panics
/// If the shapes do not fit together.
pub fn add(context: &Context, a: Rows<'_>, b: Rows<'_>, out: RowsMut<'_>) {
    each::<Add>(context, a, b, out);
}

/// `out = a · b`, all `[rows, width]`. `out` may be the same window as `a` or `b`.
///
/// # Panics
/// If the shapes do not fit together.
pub fn mul(context: &Context, a: Rows<'_>, b: Rows<'_>, out: RowsMut<'_>) {
    each::<Mul>(context, a, b, out);
}

/// `out = function(gate) · up`, all `[rows, width]`. `out` may be the same window as `gate` or `up`.
///
/// # Panics
/// If the shapes do not fit together.
pub(super) fn gated(context: &Context, function: Activation, gate: Rows<'_>, up: Rows<'_>, out: RowsMut<'_>) {
    check(gate, up, &out);
    context.for_rows(out.len(), 4 * out.width(), &|rows| {
        // SAFETY: shapes were checked, and no other task has these rows.
        unsafe { gate_rows(context, function, gate, up, &out, rows) };
    });
}

/// Some rows of [`gated`].
///
/// # Safety
/// The shapes fit together, and no one else uses these rows of `out`, unless as the input that is worked on in place.
pub(super) unsafe fn gate_rows(
    context: &Context,
    function: Activation,
    gate: Rows<'_>,
    up: Rows<'_>,
    out: &RowsMut<'_>,
    rows: Range<usize>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match function {
            Activation::Silu => each_of::<Gated<Silu>>(context, gate, up, out, rows),
            Activation::Gelu => each_of::<Gated<Gelu>>(context, gate, up, out, rows),
            Activation::GeluTanh => each_of::<Gated<GeluTanh>>(context, gate, up, out, rows),
            Activation::QuickGelu => each_of::<Gated<QuickGelu>>(context, gate, up, out, rows),
            Activation::Relu => each_of::<Gated<Relu>>(context, gate, up, out, rows),
        }
    }
}

/// `out = function(x)`, both `[rows, width]`. `out` may be the same window as `x`.
///
/// # Panics
/// If the shapes do not fit together.
pub fn activate(context: &Context, function: Activation, x: Rows<'_>, out: RowsMut<'_>) {
    match function {
        Activation::Silu => each::<Alone<Silu>>(context, x, x, out),
        Activation::Gelu => each::<Alone<Gelu>>(context, x, x, out),
        Activation::GeluTanh => each::<Alone<GeluTanh>>(context, x, x, out),
        Activation::QuickGelu => each::<Alone<QuickGelu>>(context, x, x, out),
        Activation::Relu => each::<Alone<Relu>>(context, x, x, out),
    }
}

/// `out = x`, both `[rows, width]`.
///
/// # Panics
/// If the shapes do not fit together.
pub fn copy(_: &Context, x: Rows<'_>, out: RowsMut<'_>) {
    assert!(x.len() == out.len() && x.width() == out.width(), "{x:?} → {out:?}");
    (0..x.len()).for_each(|row| copy_row(x, row, &out, row));
}

/// Row `rows[i]` of x as row `i` of `out`: x `[_, width]`, out `[rows.len(), width]`.
///
/// # Panics
/// If a row is not in x, or the shapes do not fit together.
pub fn gather_rows(_: &Context, x: Rows<'_>, rows: &[usize], out: RowsMut<'_>) {
    assert!(rows.len() == out.len() && x.width() == out.width(), "{} rows of {x:?} → {out:?}", rows.len());
    rows.iter().enumerate().for_each(|(i, &row)| copy_row(x, row, &out, i));
}

fn copy_row(x: Rows<'_>, from: usize, out: &RowsMut<'_>, to: usize) {
    // SAFETY: both pointers are starts of rows of the same width.
    unsafe { std::ptr::copy(x.pointer(from), out.pointer(to), x.width()) }
}

/// A function of two numbers, a vector at a time.
trait Function {
    /// # Safety
    /// The instruction set of `S` is available.
    unsafe fn apply<S: Simd>(a: S::V, b: S::V) -> S::V;
}

/// The sum.
struct Add;
/// The product.
struct Mul;
/// The activation of the first number times the second.
struct Gated<A>(PhantomData<A>);
/// The activation of the first number.
struct Alone<A>(PhantomData<A>);

impl Function for Add {
    #[inline(always)]
    unsafe fn apply<S: Simd>(a: S::V, b: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::add(a, b) }
    }
}

impl Function for Mul {
    #[inline(always)]
    unsafe fn apply<S: Simd>(a: S::V, b: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::mul(a, b) }
    }
}

/// An activation that is known when the kernel is compiled.
trait Activate {
    /// Which.
    const FUNCTION: Activation;
}

/// [`Activation::Silu`].
struct Silu;
/// [`Activation::Gelu`].
struct Gelu;
/// [`Activation::GeluTanh`].
struct GeluTanh;
/// [`Activation::QuickGelu`].
struct QuickGelu;
/// [`Activation::Relu`].
struct Relu;

impl Activate for Silu {
    const FUNCTION: Activation = Activation::Silu;
}
impl Activate for Gelu {
    const FUNCTION: Activation = Activation::Gelu;
}
impl Activate for GeluTanh {
    const FUNCTION: Activation = Activation::GeluTanh;
}
impl Activate for QuickGelu {
    const FUNCTION: Activation = Activation::QuickGelu;
}
impl Activate for Relu {
    const FUNCTION: Activation = Activation::Relu;
}

impl<A: Activate> Function for Gated<A> {
    #[inline(always)]
    unsafe fn apply<S: Simd>(a: S::V, b: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::mul(math::activate::<S>(A::FUNCTION, a), b) }
    }
}

impl<A: Activate> Function for Alone<A> {
    #[inline(always)]
    unsafe fn apply<S: Simd>(a: S::V, _: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { math::activate::<S>(A::FUNCTION, a) }
    }
}

fn each<F: Function>(context: &Context, a: Rows<'_>, b: Rows<'_>, out: RowsMut<'_>) {
    check(a, b, &out);
    context.for_rows(out.len(), 4 * out.width(), &|rows| {
        // SAFETY: shapes were checked, and no other task has these rows.
        unsafe { each_of::<F>(context, a, b, &out, rows) };
    });
}

fn check(a: Rows<'_>, b: Rows<'_>, out: &RowsMut<'_>) {
    assert!(a.len() == out.len() && a.width() == out.width(), "{a:?}, {b:?} → {out:?}");
    assert!(b.len() == out.len() && b.width() == out.width(), "{a:?}, {b:?} → {out:?}");
}

/// Some rows of [`each`].
///
/// # Safety
/// As [`gate_rows`].
unsafe fn each_of<F: Function>(
    context: &Context,
    a: Rows<'_>,
    b: Rows<'_>,
    out: &RowsMut<'_>,
    rows: Range<usize>,
) {
    // SAFETY: the context's instruction set is available; the rest is the caller's promise.
    unsafe { context.isa().dispatch(Each { a, b, out, rows, function: PhantomData::<F> }) };
}

struct Each<'a, F> {
    a: Rows<'a>,
    b: Rows<'a>,
    out: &'a RowsMut<'a>,
    rows: Range<usize>,
    function: PhantomData<F>,
}

impl<F: Function> Kernel for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.out.width();
        for row in self.rows.clone() {
            let (a, b, out) = (self.a.pointer(row), self.b.pointer(row), self.out.pointer(row));
            for i in (0..width).step_by(LANES) {
                let n = width - i;
                // SAFETY: all pointers are starts of rows of `width` elements.
                unsafe {
                    let v = F::apply::<S>(math::load::<S>(a.add(i), n), math::load::<S>(b.add(i), n));
                    math::store::<S>(out.add(i), n, v);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, bits, contexts, numbers, sizes};

    fn reference(function: Activation, x: f64) -> f64 {
        match function {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2_f64.sqrt())),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Activation::Relu => x.max(0.0),
        }
    }

    const ALL: [Activation; 5] =
        [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Relu];

    #[test]
    fn activations_are_accurate_everywhere() {
        let step = if cfg!(miri) { 31 } else { 1 };
        let x = (-2000..2000).step_by(step).map(|i| i as f32 * 0.01);
        let x: Vec<f32> = x.chain([-1e4, 1e4, -90.0, 90.0]).collect();
        for context in contexts() {
            for function in ALL {
                let mut out = vec![f32::NAN; x.len()];
                activate(&context, function, Rows::new(&x, x.len()), RowsMut::new(&mut out, x.len()));
                for (&x, &found) in x.iter().zip(&out) {
                    let expected = reference(function, f64::from(x));
                    let error = (f64::from(found) - expected).abs();
                    assert!(
                        error <= 5e-7 * expected.abs() + 2e-7,
                        "{function:?} {x}: {found}, not {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn gates_are_windows_of_one_buffer() {
        for context in contexts() {
            for &(rows, width) in sizes(&[(1, 1), (7, 60), (3, 515), (300, 100)], &[(1, 1), (7, 21)]) {
                let both = numbers(1, rows * 2 * width);
                let windows = Rows::new(&both, 2 * width);
                let mut out = vec![f32::NAN; rows * width];
                let (gate, up) = (windows.columns(0, width), windows.columns(width, width));
                gated(&context, Activation::Silu, gate, up, RowsMut::new(&mut out, width));
                let expected: Vec<f64> = (0..rows * width)
                    .map(|i| {
                        let (row, i) = (i / width * 2 * width, i % width);
                        reference(Activation::Silu, f64::from(both[row + i]))
                            * f64::from(both[row + width + i])
                    })
                    .collect();
                assert_close(&out, &expected, &format!("{context:?} {rows} {width}"));
            }
        }
    }

    #[test]
    fn in_place_gives_the_same_bits() {
        for context in contexts() {
            for function in ALL {
                let width = 37;
                let (mut gate, up) = (numbers(1, 5 * width), numbers(2, 5 * width));
                let mut out = vec![f32::NAN; gate.len()];
                let up = Rows::new(&up, width);
                gated(&context, function, Rows::new(&gate, width), up, RowsMut::new(&mut out, width));
                let start = gate.as_mut_ptr();
                // SAFETY: both views are of all of `gate`, which lives longer; the kernel works in place.
                let (read, write) = unsafe {
                    (Rows::from_raw(start, 5, width, width), RowsMut::from_raw(start, 5, width, width))
                };
                gated(&context, function, read, up, write);
                assert_eq!(bits(&gate), bits(&out));
            }
        }
    }

    #[test]
    fn sums_products_and_copies() {
        for context in contexts() {
            let (a, b) = (numbers(1, 3 * 21), numbers(2, 3 * 21));
            let (a, b) = (Rows::new(&a, 21), Rows::new(&b, 21));
            let mut out = vec![f32::NAN; 3 * 21];
            add(&context, a, b, RowsMut::new(&mut out, 21));
            (0..63).for_each(|i| assert_eq!(out[i], a.row(i / 21)[i % 21] + b.row(i / 21)[i % 21]));
            mul(&context, a, b, RowsMut::new(&mut out, 21));
            (0..63).for_each(|i| assert_eq!(out[i], a.row(i / 21)[i % 21] * b.row(i / 21)[i % 21]));
            copy(&context, a, RowsMut::new(&mut out, 21));
            (0..3).for_each(|row| assert_eq!(&out[row * 21..][..21], a.row(row)));
            gather_rows(&context, a, &[2, 0], RowsMut::new(&mut out[..42], 21));
            assert_eq!((&out[..21], &out[21..42]), (a.row(2), a.row(0)));
        }
    }
}
