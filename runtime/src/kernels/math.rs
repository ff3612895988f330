//! Functions of a vector of numbers.

use llamac_plan::Activation;

use super::simd::{LANES, Simd};

/// Loads `n` lanes; whole vectors take the short way.
///
/// # Safety
/// As for [`Simd::load_first`].
#[inline(always)]
pub(super) unsafe fn load<S: Simd>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { if n >= LANES { S::load(p) } else { S::load_first(p, n) } }
}

/// Stores `n` lanes; whole vectors take the short way.
///
/// # Safety
/// As for [`Simd::store_first`].
#[inline(always)]
pub(super) unsafe fn store<S: Simd>(p: *mut f32, n: usize, v: S::V) {
    // SAFETY: the caller's promise.
    unsafe { if n >= LANES { S::store(p, v) } else { S::store_first(p, n, v) } }
}

/// Below this, eˣ is less than the smallest normal number and is taken for zero: −126 ln 2.
const EXP_LOW: f32 = -87.336_54;
/// Above this, eˣ is taken for infinite: 127.5 ln 2.
const EXP_HIGH: f32 = 88.376_2;

/// eˣ within two units in the last place; 0 below −87.3 and ∞ above 88.3; NaN for NaN.
///
/// # Safety
/// The instruction set of `S` is available.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let high = S::splat(EXP_HIGH);
        let y = exp_below::<S>(S::select_less(high, x, high, x));
        S::select_less(high, x, S::splat(f32::INFINITY), y)
    }
}

/// [`exp`] where it is not infinite: for x up to [`EXP_HIGH`], and NaN. What it is beyond, nobody has to say.
///
/// `eˣ = 2ⁿ·eʳ` with whole n and |r| ≤ ln 2 / 2, ln 2 in two parts, and the minimax polynomial of Cephes' `expf`.
///
/// # Safety
/// The instruction set of `S` is available.
#[inline(always)]
pub(super) unsafe fn exp_below<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let low = S::splat(EXP_LOW);
        let t = S::max(low, x);
        let n = S::round(S::mul(t, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), t);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::fma(p, r, S::splat(c));
        }
        let y = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
        S::select_less(x, low, S::splat(0.0), S::scale_exp2(y, n))
    }
}

/// x · σ(a · x).
#[inline(always)]
unsafe fn swish<S: Simd>(x: S::V, a: S::V) -> S::V {
    // SAFETY: the caller's promise, as for `exp`.
    unsafe {
        let e = exp::<S>(S::sub(S::splat(0.0), S::mul(a, x)));
        S::div(x, S::add(S::splat(1.0), e))
    }
}

/// An activation function of a vector.
///
/// # Safety
/// The instruction set of `S` is available.
#[inline(always)]
pub(super) unsafe fn activate<S: Simd>(function: Activation, x: S::V) -> S::V {
    // SAFETY: the caller's promise; `lanes` has room for a vector.
    unsafe {
        match function {
            Activation::Silu => swish::<S>(x, S::splat(1.0)),
            Activation::QuickGelu => swish::<S>(x, S::splat(1.702)),
            Activation::GeluTanh => {
                // x/2 · (1 + tanh u) = x · σ(2u), u = √(2/π) · (x + 0.044715 x³): x is a factor of u.
                let double = 2.0 * 0.797_884_6;
                let a = S::fma(S::mul(x, x), S::splat(double * 0.044_715), S::splat(double));
                swish::<S>(x, a)
            }
            Activation::Gelu => {
                let mut lanes = [0.0; LANES];
                S::store(lanes.as_mut_ptr(), x);
                let lanes = lanes.map(|x| 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)));
                S::load(lanes.as_ptr())
            }
            Activation::Relu => S::max(S::splat(0.0), x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::isa::Isa;
    use crate::kernels::simd::Kernel;

    struct Exp([f32; LANES]);

    impl Kernel for Exp {
        type Output = [f32; LANES];

        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            // SAFETY: both arrays have the size of a vector.
            unsafe { S::store(out.as_mut_ptr(), exp::<S>(S::load(self.0.as_ptr()))) };
            out
        }
    }

    fn exp_of(isa: Isa, x: [f32; LANES]) -> [f32; LANES] {
        // SAFETY: only available instruction sets are given.
        unsafe { isa.dispatch(Exp(x)) }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for isa in Isa::available() {
            let mut worst = 0.0_f64;
            let mut x = -87.3_f32;
            while x < 88.3 {
                let block: [f32; LANES] = std::array::from_fn(|i| x + 1.3e-4 * i as f32);
                for (x, found) in block.into_iter().zip(exp_of(isa, block)) {
                    let expected = f64::from(x).exp();
                    let unit = f64::from((expected as f32).next_up()) - f64::from(expected as f32);
                    worst = worst.max((f64::from(found) - expected).abs() / unit);
                }
                x += if cfg!(miri) { 9.0 } else { 2.1e-3 };
            }
            assert!(worst <= 2.0, "{}: {worst}", isa.name());
        }
    }

    #[test]
    fn exp_of_the_extremes() {
        for isa in Isa::available() {
            let inf = f32::INFINITY;
            let found = exp_of(
                isa,
                [-inf, -1e30, -88.0, 0.0, -0.0, 89.0, inf, f32::NAN, 1.0, 0., 0., 0., 0., 0., 0., 0.],
            );
            assert_eq!(found[..7], [0.0, 0.0, 0.0, 1.0, 1.0, inf, inf], "{}", isa.name());
            assert!(found[7].is_nan());
        }
    }
}
