//! AVX-512: a panel's sixteen rows are one register.

use std::arch::x86_64::*;

use llamac_plan::layout::BLOCK;

use super::activations::{self, Quantized};
use super::simd::{Kernel, LANES, Simd};

/// AVX-512 with products of bytes (F, BW and VNNI; the first server processors without VNNI take AVX2), and those of
/// bf16 if `BF16`.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BF16: bool>;

impl<const BF16: bool> Avx512<BF16> {
    /// Whether this processor has it.
    pub(super) fn is_available() -> bool {
        super::avx2::Avx2::is_available()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
            && (!BF16 || is_x86_feature_detected!("avx512bf16"))
    }
}

/// The first `n` lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx512<false>>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn call_with_bf16<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx512<true>>() }
}

// SAFETY (of every block): the instruction set is available, and pointers are valid, by the promise of `Simd`'s callers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const BF16: bool> Simd for Avx512<BF16> {
    type V = __m512;
    type I = __m512i;
    type Codes = __m512i;
    type Pairs = __m512i;

    const TILE_PANELS: usize = 2;
    const TILE_TOKENS: usize = 12;
    const CODE_TILE_TOKENS: usize = 6;
    const Q8_ZERO: i32 = 128;

    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        unsafe { if BF16 { call_with_bf16(kernel) } else { call(kernel) } }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(mask(n), p) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u16) -> [__m512; 2] {
        unsafe {
            let pairs = _mm512_loadu_si512(p.cast());
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let second = _mm512_and_si512(pairs, high);
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second)]
        }
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: __m512) {
        unsafe { _mm512_mask_storeu_ps(p, mask(n), v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn round(x: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    unsafe fn scale_exp2(x: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(x, n) }
    }

    #[inline(always)]
    unsafe fn select_less(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }

    #[inline(always)]
    unsafe fn any_less(a: __m512, b: __m512) -> bool {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) != 0 }
    }

    #[inline(always)]
    unsafe fn quantize(block: &[f32; BLOCK]) -> Quantized {
        unsafe {
            let (a, b) = (_mm512_loadu_ps(block.as_ptr()), _mm512_loadu_ps(block.as_ptr().add(LANES)));
            let magnitude = _mm512_set1_epi32(0x7fff_ffff);
            let [first, second] = [_mm512_castps_si512(a), _mm512_castps_si512(b)];
            // Magnitudes compare like their bits, and NaN is above all.
            let largest =
                _mm512_max_epu32(_mm512_and_si512(first, magnitude), _mm512_and_si512(second, magnitude));
            let largest = f32::from_bits(_mm512_reduce_max_epu32(largest));
            let inverse = _mm512_set1_ps(activations::inverse(largest));
            let [a, b] = [a, b].map(|x| {
                let x = _mm512_mul_ps(x, inverse);
                let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x);
                let x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-127.0)), _mm512_set1_ps(127.0));
                _mm512_maskz_cvtps_epi32(is_number, x)
            });
            let mut codes = [0; BLOCK];
            _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(a));
            _mm_storeu_si128(codes.as_mut_ptr().add(LANES).cast(), _mm512_cvtsepi32_epi8(b));
            let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
            Quantized { codes, scale: largest / 127.0, sum }
        }
    }

    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        unsafe { super::avx2::sum(_mm256_add_ps(low(v), high(v))) }
    }

    #[inline(always)]
    unsafe fn largest(v: __m512) -> f32 {
        unsafe { super::avx2::largest(_mm256_max_ps(low(v), high(v))) }
    }

    #[inline(always)]
    unsafe fn splat_i32(p: *const i32) -> __m512i {
        unsafe { _mm512_set1_epi32(p.read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn to_f32(x: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_codes(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> [__m512i; 2] {
        unsafe {
            let (bytes, low) = (_mm512_loadu_si512(p.cast()), _mm512_set1_epi8(15));
            [_mm512_and_si512(bytes, low), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low)]
        }
    }

    #[inline(always)]
    unsafe fn dot_q8(sum: __m512i, codes: __m512i, x: *const i8) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn dot_q4(sum: __m512i, codes: __m512i, x: *const i8) -> __m512i {
        unsafe { Self::dot_q8(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn scaled_zeros(zeros: *const u8, x: *const i32) -> __m512i {
        unsafe {
            let zeros = _mm512_cvtepu8_epi32(_mm_loadu_si128(zeros.cast()));
            _mm512_madd_epi16(zeros, _mm512_set1_epi32(x.read_unaligned()))
        }
    }

    #[inline(always)]
    unsafe fn store_pairs(p: *mut u32, first: __m512, second: __m512) {
        unsafe {
            let pairs = if BF16 {
                // Sixteen of the first, then sixteen of the second.
                let rounded = _mm512_cvtne2ps_pbh(second, first);
                let order = _mm512_loadu_si512(PAIRS.as_ptr().cast());
                _mm512_permutexvar_epi16(order, std::mem::transmute::<__m512bh, __m512i>(rounded))
            } else {
                let second = _mm512_slli_epi32::<16>(round_to_bf16(second));
                _mm512_or_si512(round_to_bf16(first), second)
            };
            _mm512_storeu_si512(p.cast(), pairs);
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_bf16(sum: __m512, pairs: __m512i, x: *const u32) -> __m512 {
        unsafe {
            let x = x.read_unaligned();
            if BF16 {
                let x = _mm512_set1_epi32(x as i32);
                let pairs = std::mem::transmute::<__m512i, __m512bh>(pairs);
                let x = std::mem::transmute::<__m512i, __m512bh>(x);
                return _mm512_dpbf16_ps(sum, pairs, x);
            }
            let first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            let sum = _mm512_fmadd_ps(first, _mm512_set1_ps(f32::from_bits(x << 16)), sum);
            let x = _mm512_set1_ps(f32::from_bits(x & 0xffff_0000));
            _mm512_fmadd_ps(_mm512_castsi512_ps(second), x, sum)
        }
    }

    #[inline(always)]
    fn prefetch(p: *const u8) {
        // SAFETY: a hint, which every x86-64 processor knows and which does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

/// The order of 16-bit numbers in which two vectors, one after the other, are pairs.
const PAIRS: [u16; 2 * LANES] = {
    let mut order = [0; 2 * LANES];
    let mut i = 0;
    while i < LANES {
        order[2 * i] = i as u16;
        order[2 * i + 1] = (LANES + i) as u16;
        i += 1;
    }
    order
};

/// The bf16 nearest to each lane, ties to even, in its low half; a NaN stays one.
#[inline(always)]
unsafe fn round_to_bf16(v: __m512) -> __m512i {
    // SAFETY: the caller has AVX-512F.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(is_nan, rounded, quiet))
    }
}

/// Lanes 0–7.
#[inline(always)]
unsafe fn low(v: __m512) -> __m256 {
    // SAFETY: the caller has AVX-512F.
    unsafe { _mm512_castps512_ps256(v) }
}

/// Lanes 8–15.
#[inline(always)]
unsafe fn high(v: __m512) -> __m256 {
    // SAFETY: the caller has AVX-512F.
    unsafe { _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v))) }
}
