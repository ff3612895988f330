//! AVX2 with FMA and F16C: a panel's sixteen rows are two registers.

use std::arch::x86_64::*;

use super::simd::{Kernel, LANES, Simd};

/// AVX2, FMA and F16C, which come together in all but a few early processors.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

impl Avx2 {
    /// Whether this processor has them.
    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }
}

/// Sixteen lanes: 0–7 and 8–15.
type V = [__m256; 2];

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx2>() }
}

/// The sum of eight lanes: lanes four apart first, then two and one.
#[inline(always)]
pub(super) unsafe fn sum(v: __m256) -> f32 {
    // SAFETY: the caller has AVX2.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

/// The largest of eight lanes.
#[inline(always)]
pub(super) unsafe fn largest(v: __m256) -> f32 {
    // SAFETY: the caller has AVX2.
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
    }
}

// SAFETY (of every block): the instruction set is available, and pointers are valid, by the promise of `Simd`'s callers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    type V = V;
    type I = [__m256i; 2];
    type Codes = [__m256i; 2];
    type Pairs = [V; 2];

    const TILE_PANELS: usize = 1;
    const TILE_TOKENS: usize = 6;
    const CODE_TILE_TOKENS: usize = 3;
    const Q8_ZERO: i32 = 128;

    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        unsafe { call(kernel) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }

    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> V {
        unsafe {
            let mut lanes = [0.0; LANES];
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(LANES));
            Self::load(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> V {
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))]
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u16) -> [V; 2] {
        unsafe {
            let (a, b) = (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(16).cast()));
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let first = [_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b)];
            let second = [_mm256_and_si256(a, high), _mm256_and_si256(b, high)];
            [
                [_mm256_castsi256_ps(first[0]), _mm256_castsi256_ps(first[1])],
                [_mm256_castsi256_ps(second[0]), _mm256_castsi256_ps(second[1])],
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: V) {
        unsafe {
            let mut lanes = [0.0; LANES];
            Self::store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(LANES));
        }
    }

    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn round(x: V) -> V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { [_mm256_round_ps::<NEAREST>(x[0]), _mm256_round_ps::<NEAREST>(x[1])] }
    }

    #[inline(always)]
    unsafe fn scale_exp2(x: V, n: V) -> V {
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let a = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias));
            let b = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias));
            [_mm256_mul_ps(x[0], _mm256_castsi256_ps(a)), _mm256_mul_ps(x[1], _mm256_castsi256_ps(b))]
        }
    }

    #[inline(always)]
    unsafe fn select_less(a: V, b: V, x: V, y: V) -> V {
        unsafe {
            let masks = [_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])];
            [_mm256_blendv_ps(y[0], x[0], masks[0]), _mm256_blendv_ps(y[1], x[1], masks[1])]
        }
    }

    #[inline(always)]
    unsafe fn sum(v: V) -> f32 {
        unsafe { sum(_mm256_add_ps(v[0], v[1])) }
    }

    #[inline(always)]
    unsafe fn largest(v: V) -> f32 {
        unsafe { largest(_mm256_max_ps(v[0], v[1])) }
    }

    #[inline(always)]
    unsafe fn splat_i32(p: *const i32) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi32(p.read_unaligned()); 2] }
    }

    #[inline(always)]
    unsafe fn to_f32(x: [__m256i; 2]) -> V {
        unsafe { [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])] }
    }

    #[inline(always)]
    unsafe fn load_codes(p: *const u8) -> [__m256i; 2] {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> [[__m256i; 2]; 2] {
        unsafe {
            let (bytes, low) = (Self::load_codes(p), _mm256_set1_epi8(15));
            let shifted = [_mm256_srli_epi16::<4>(bytes[0]), _mm256_srli_epi16::<4>(bytes[1])];
            [
                [_mm256_and_si256(bytes[0], low), _mm256_and_si256(bytes[1], low)],
                [_mm256_and_si256(shifted[0], low), _mm256_and_si256(shifted[1], low)],
            ]
        }
    }

    /// Even and odd columns as i16: sums of two products of bytes would saturate.
    #[inline(always)]
    unsafe fn dot_q8(sum: [__m256i; 2], codes: [__m256i; 2], x: *const i8) -> [__m256i; 2] {
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            let x = [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x)];
            let even = _mm256_set1_epi16(0xff);
            let dot = |sum: __m256i, codes: __m256i| {
                let a = _mm256_madd_epi16(_mm256_and_si256(codes, even), x[0]);
                let b = _mm256_madd_epi16(_mm256_srli_epi16::<8>(codes), x[1]);
                _mm256_add_epi32(sum, _mm256_add_epi32(a, b))
            };
            [dot(sum[0], codes[0]), dot(sum[1], codes[1])]
        }
    }

    /// Two products of a code below 16 and a byte are far from saturating.
    #[inline(always)]
    unsafe fn dot_q4(sum: [__m256i; 2], codes: [__m256i; 2], x: *const i8) -> [__m256i; 2] {
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            let one = _mm256_set1_epi16(1);
            let dot = |sum: __m256i, codes: __m256i| {
                _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), one))
            };
            [dot(sum[0], codes[0]), dot(sum[1], codes[1])]
        }
    }

    #[inline(always)]
    unsafe fn scaled_zeros(zeros: *const u8, x: *const i32) -> [__m256i; 2] {
        unsafe {
            let x = _mm256_set1_epi32(x.read_unaligned());
            let wide = |p: *const u8| _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            [_mm256_madd_epi16(wide(zeros), x), _mm256_madd_epi16(wide(zeros.add(8)), x)]
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(p: *const u8) -> [V; 2] {
        unsafe { Self::load_bf16_pairs(p.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_bf16(sum: V, pairs: [V; 2], x: *const u32) -> V {
        unsafe {
            let x = x.read_unaligned();
            let first = Self::fma(pairs[0], Self::splat(f32::from_bits(x << 16)), sum);
            Self::fma(pairs[1], Self::splat(f32::from_bits(x & 0xffff_0000)), first)
        }
    }

    #[inline(always)]
    fn prefetch(p: *const u8) {
        // SAFETY: a hint, which every x86-64 processor knows and which does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
