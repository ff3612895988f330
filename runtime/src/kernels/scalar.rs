//! The fallback: plain Rust, for any processor. Multiplication and addition round separately.

use std::array;

use half::{bf16, f16};

use super::simd::{Kernel, LANES, Simd};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

type V = [f32; LANES];

impl Simd for Scalar {
    type V = V;
    type I = [i32; LANES];
    type Codes = [[u8; 4]; LANES];
    type Pairs = [V; 2];

    const TILE_PANELS: usize = 1;
    const TILE_TOKENS: usize = 2;
    const CODE_TILE_TOKENS: usize = 2;
    const Q8_ZERO: i32 = 128;

    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: no instruction set is needed; the rest is the caller's promise.
        unsafe { kernel.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> V {
        let mut v = [0.0; LANES];
        // SAFETY: the caller's promise; `v` has room for at most sixteen.
        unsafe { std::ptr::copy_nonoverlapping(p, v.as_mut_ptr(), n.min(LANES)) };
        v
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> V {
        // SAFETY: the caller's promise.
        let bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|b| f16::from_bits(b).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u16) -> [V; 2] {
        // SAFETY: the caller's promise.
        let bits = unsafe { p.cast::<[[u16; 2]; LANES]>().read_unaligned() };
        array::from_fn(|half| bits.map(|pair| bf16::from_bits(pair[half]).to_f32()))
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: V) {
        // SAFETY: the caller's promise; `v` has at most sixteen.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), p, n.min(LANES)) }
    }

    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn round(x: V) -> V {
        x.map(f32::round_ties_even)
    }

    #[inline(always)]
    unsafe fn scale_exp2(x: V, n: V) -> V {
        array::from_fn(|i| x[i] * f32::from_bits(((n[i] as i32).wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn select_less(a: V, b: V, x: V, y: V) -> V {
        array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }

    #[inline(always)]
    unsafe fn sum(v: V) -> f32 {
        let v: [f32; 8] = array::from_fn(|i| v[i] + v[i + 8]);
        let v: [f32; 4] = array::from_fn(|i| v[i] + v[i + 4]);
        (v[0] + v[2]) + (v[1] + v[3])
    }

    #[inline(always)]
    unsafe fn largest(v: V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn splat_i32(p: *const i32) -> [i32; LANES] {
        // SAFETY: the caller's promise.
        [unsafe { p.read_unaligned() }; LANES]
    }

    #[inline(always)]
    unsafe fn to_f32(x: [i32; LANES]) -> V {
        x.map(|x| x as f32)
    }

    #[inline(always)]
    unsafe fn load_codes(p: *const u8) -> Self::Codes {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<Self::Codes>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> [Self::Codes; 2] {
        // SAFETY: the caller's promise.
        let bytes = unsafe { Self::load_codes(p) };
        [bytes.map(|row| row.map(|b| b & 15)), bytes.map(|row| row.map(|b| b >> 4))]
    }

    #[inline(always)]
    unsafe fn dot_q8(sum: [i32; LANES], codes: Self::Codes, x: *const i8) -> [i32; LANES] {
        // SAFETY: the caller's promise.
        let x = unsafe { x.cast::<[i8; 4]>().read_unaligned() };
        let dot = |row: [u8; 4]| (0..4).map(|i| i32::from(row[i]) * i32::from(x[i])).sum::<i32>();
        array::from_fn(|i| sum[i] + dot(codes[i]))
    }

    #[inline(always)]
    unsafe fn dot_q4(sum: [i32; LANES], codes: Self::Codes, x: *const i8) -> [i32; LANES] {
        // SAFETY: the caller's promise.
        unsafe { Self::dot_q8(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn scaled_zeros(zeros: *const u8, x: *const i32) -> [i32; LANES] {
        // SAFETY: the caller's promise.
        let (zeros, x) = unsafe { (zeros.cast::<[u8; LANES]>().read_unaligned(), x.read_unaligned() as i16) };
        zeros.map(|zero| i32::from(zero) * i32::from(x))
    }

    #[inline(always)]
    unsafe fn load_pairs(p: *const u8) -> [V; 2] {
        // SAFETY: the caller's promise.
        unsafe { Self::load_bf16_pairs(p.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_bf16(sum: V, pairs: [V; 2], x: *const u32) -> V {
        // SAFETY: the caller's promise.
        let x = unsafe { x.read_unaligned() };
        let x = [f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000)];
        array::from_fn(|i| sum[i] + pairs[0][i] * x[0] + pairs[1][i] * x[1])
    }

    #[inline(always)]
    fn prefetch(_: *const u8) {}
}
