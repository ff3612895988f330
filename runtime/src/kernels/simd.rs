//! The vectors that kernels are written with: sixteen f32 lanes, whatever the registers.
//!
//! Sixteen is the width of a weight panel. Every kernel is one generic function over [`Simd`], so that all
//! instruction sets add in the same order; those with fused multiply-add give the same bits. [`Isa::dispatch`] enters
//! the instruction set once for a whole task.
//!
//! [`Isa::dispatch`]: super::isa::Isa::dispatch

use llamac_plan::layout::BLOCK;

use super::activations::{self, Quantized, to_bf16};

/// Number of lanes.
pub(super) const LANES: usize = 16;

/// Code that runs on any instruction set.
pub(super) trait Kernel {
    /// What it returns.
    type Output;

    /// Runs it. Implementations are `#[inline(always)]`, as is everything generic that they call: only then is the
    /// code compiled for the instruction set of the function that it is inlined into.
    ///
    /// # Safety
    /// The instruction set of `S` is available; and what the kernel's constructor demands.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// An instruction set's vectors.
///
/// # Safety
/// Every function demands that the instruction set is available, and that pointers are valid for as many elements as
/// it reads or writes; nothing needs to be aligned.
pub(super) trait Simd: Copy {
    /// Sixteen f32.
    type V: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Four codes of each of sixteen rows.
    type Codes: Copy;
    /// A pair of bf16 of each of sixteen rows.
    type Pairs: Copy;

    /// Panels that a matrix tile covers at once.
    const TILE_PANELS: usize;
    /// Tokens that a matrix tile covers at once, as the registers allow.
    const TILE_TOKENS: usize;
    /// The same for codes, which take a sum of integers beside each chain.
    const CODE_TILE_TOKENS: usize;
    /// What [`Simd::dot_q8`] takes 8-bit codes to be above: 128, or 0 where it takes that off itself.
    const Q8_ZERO: i32;

    /// Runs `kernel` as a function of its own, compiled for this instruction set.
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;

    /// The same number in every lane.
    unsafe fn splat(x: f32) -> Self::V;
    /// Sixteen f32.
    unsafe fn load(p: *const f32) -> Self::V;
    /// The first `n` (at most sixteen) f32; zeros in the other lanes.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    /// Sixteen f16.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    /// Sixteen pairs of bf16: the first of each pair, the second of each pair.
    unsafe fn load_bf16_pairs(p: *const u16) -> [Self::V; 2];
    /// Writes sixteen f32.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Writes the first `n` (at most sixteen) lanes.
    unsafe fn store_first(p: *mut f32, n: usize, v: Self::V);

    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of two numbers; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest whole number, ties to even. For |x| < 2²².
    unsafe fn round(x: Self::V) -> Self::V;
    /// `x` · 2ⁿ for whole n from −126 to 127.
    unsafe fn scale_exp2(x: Self::V, n: Self::V) -> Self::V;
    /// `x` where `a < b`, else `y`.
    unsafe fn select_less(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Whether `a < b` in any lane.
    #[inline(always)]
    unsafe fn any_less(a: Self::V, b: Self::V) -> bool {
        // SAFETY: the caller's promise.
        unsafe { Self::largest(Self::select_less(a, b, Self::splat(1.0), Self::splat(0.0))) > 0.0 }
    }
    /// The sum of all lanes: lanes eight apart first, then four, two and one.
    unsafe fn sum(v: Self::V) -> f32;
    /// The largest lane.
    unsafe fn largest(v: Self::V) -> f32;
    /// The integer at `p` in every lane.
    unsafe fn splat_i32(p: *const i32) -> Self::I;
    /// Sixteen i32 as f32, rounded to nearest.
    unsafe fn to_f32(x: Self::I) -> Self::V;
    /// 64 codes of 8 bits.
    unsafe fn load_codes(p: *const u8) -> Self::Codes;
    /// 64 codes of 4 bits, those in the low and those in the high bits of 64 bytes.
    unsafe fn load_nibbles(p: *const u8) -> [Self::Codes; 2];
    /// `sum` plus each row's four 8-bit codes, less 128 but for [`Simd::Q8_ZERO`], times the four integers at `x`.
    unsafe fn dot_q8(sum: Self::I, codes: Self::Codes, x: *const i8) -> Self::I;
    /// `sum` plus each row's four codes below 16 times the four integers at `x`.
    unsafe fn dot_q4(sum: Self::I, codes: Self::Codes, x: *const i8) -> Self::I;
    /// Sixteen u8 times the i16 at `x`, which two zero bytes follow.
    unsafe fn scaled_zeros(zeros: *const u8, x: *const i32) -> Self::I;
    /// As [`activations::quantize`].
    #[inline(always)]
    unsafe fn quantize(block: &[f32; BLOCK]) -> Quantized {
        activations::quantize(block)
    }
    /// Writes sixteen pairs of bf16, rounded to nearest: the first of each pair, the second of each pair. An instruction
    /// set that takes subnormals for zeros when it multiplies bf16 may do so here.
    #[inline(always)]
    unsafe fn store_pairs(p: *mut u32, first: Self::V, second: Self::V) {
        let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
        // SAFETY: the caller's promise; the arrays have the size of a vector.
        unsafe {
            Self::store(a.as_mut_ptr(), first);
            Self::store(b.as_mut_ptr(), second);
            let pair = |i: usize| u32::from(to_bf16(a[i])) | u32::from(to_bf16(b[i])) << 16;
            *p.cast::<[u32; LANES]>() = std::array::from_fn(pair);
        }
    }
    /// Sixteen pairs of bf16.
    unsafe fn load_pairs(p: *const u8) -> Self::Pairs;
    /// `sum` plus each row's pair times the pair of bf16 at `x`, rounded as the instruction set does.
    unsafe fn dot_bf16(sum: Self::V, pairs: Self::Pairs, x: *const u32) -> Self::V;

    /// Asks for the cache line of `p` in the second cache. Any address will do.
    fn prefetch(p: *const u8);
}
