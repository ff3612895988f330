//! NEON: a panel's sixteen rows are four registers.

use std::arch::aarch64::*;
use std::array;

use super::simd::{Kernel, LANES, Simd};

/// NEON, which every 64-bit Arm processor has.
#[derive(Clone, Copy)]
pub(super) struct Neon;

/// Sixteen lanes, four at a time.
type V = [float32x4_t; 4];

#[target_feature(enable = "neon")]
unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Neon>() }
}

/// Four f16, widened exactly: the exponent is moved into place and corrected by a multiplication, which also makes
/// normal numbers of subnormal ones; infinities and NaN get the largest exponent.
#[inline(always)]
unsafe fn widen_f16(bits: uint16x4_t) -> float32x4_t {
    // SAFETY: the caller has NEON.
    unsafe {
        let bits = vmovl_u16(bits);
        let magnitude = vandq_u32(bits, vdupq_n_u32(0x7fff));
        let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
        let moved = vshlq_n_u32::<13>(magnitude);
        // 2¹¹²: the difference between the exponents' biases.
        let finite = vmulq_f32(vreinterpretq_f32_u32(moved), vdupq_n_f32(f32::from_bits((127 + 112) << 23)));
        let special = vorrq_u32(moved, vdupq_n_u32(0xff << 23));
        let is_special = vcgeq_u32(magnitude, vdupq_n_u32(0x7c00));
        let magnitude = vbslq_u32(is_special, special, vreinterpretq_u32_f32(finite));
        vreinterpretq_f32_u32(vorrq_u32(magnitude, sign))
    }
}

// SAFETY (of every block): NEON is available, and pointers are valid, by the promise of `Simd`'s callers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Neon {
    type V = V;
    type I = [int32x4_t; 4];
    type Codes = [int8x16_t; 4];
    type Pairs = [V; 2];

    const TILE_PANELS: usize = 1;
    const TILE_TOKENS: usize = 6;
    const CODE_TILE_TOKENS: usize = 3;
    /// Codes of 8 bits are made signed.
    const Q8_ZERO: i32 = 0;

    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        unsafe { call(kernel) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] }
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
            [
                widen_f16(vld1_u16(p)),
                widen_f16(vld1_u16(p.add(4))),
                widen_f16(vld1_u16(p.add(8))),
                widen_f16(vld1_u16(p.add(12))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u16) -> [V; 2] {
        unsafe {
            let p: *const u8 = p.cast();
            // Through bytes, which need no alignment.
            let pairs = [
                vreinterpretq_u32_u8(vld1q_u8(p)),
                vreinterpretq_u32_u8(vld1q_u8(p.add(16))),
                vreinterpretq_u32_u8(vld1q_u8(p.add(32))),
                vreinterpretq_u32_u8(vld1q_u8(p.add(48))),
            ];
            let high = vdupq_n_u32(0xffff_0000);
            [
                pairs.map(|v| vreinterpretq_f32_u32(vshlq_n_u32::<16>(v))),
                pairs.map(|v| vreinterpretq_f32_u32(vandq_u32(v, high))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
            vst1q_f32(p.add(8), v[2]);
            vst1q_f32(p.add(12), v[3]);
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
        array::from_fn(|i| unsafe { vaddq_f32(a[i], b[i]) })
    }

    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        array::from_fn(|i| unsafe { vsubq_f32(a[i], b[i]) })
    }

    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        array::from_fn(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }

    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        array::from_fn(|i| unsafe { vdivq_f32(a[i], b[i]) })
    }

    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        array::from_fn(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }

    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        // `fmax` would give NaN for a NaN in either operand.
        array::from_fn(|i| unsafe { vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]) })
    }

    #[inline(always)]
    unsafe fn round(x: V) -> V {
        array::from_fn(|i| unsafe { vrndnq_f32(x[i]) })
    }

    #[inline(always)]
    unsafe fn scale_exp2(x: V, n: V) -> V {
        array::from_fn(|i| unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(n[i]), vdupq_n_s32(127));
            vmulq_f32(x[i], vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        })
    }

    #[inline(always)]
    unsafe fn select_less(a: V, b: V, x: V, y: V) -> V {
        array::from_fn(|i| unsafe { vbslq_f32(vcltq_f32(a[i], b[i]), x[i], y[i]) })
    }

    #[inline(always)]
    unsafe fn sum(v: V) -> f32 {
        unsafe {
            let v = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        }
    }

    #[inline(always)]
    unsafe fn largest(v: V) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(v[0], v[2]), vmaxq_f32(v[1], v[3]))) }
    }

    #[inline(always)]
    unsafe fn splat_i32(p: *const i32) -> [int32x4_t; 4] {
        unsafe { [vdupq_n_s32(p.read_unaligned()); 4] }
    }

    #[inline(always)]
    unsafe fn to_f32(x: [int32x4_t; 4]) -> V {
        array::from_fn(|i| unsafe { vcvtq_f32_s32(x[i]) })
    }

    #[inline(always)]
    unsafe fn load_codes(p: *const u8) -> [int8x16_t; 4] {
        array::from_fn(|i| unsafe { vreinterpretq_s8_u8(vld1q_u8(p.add(16 * i))) })
    }

    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> [[int8x16_t; 4]; 2] {
        unsafe {
            let bytes: [_; 4] = array::from_fn(|i| vld1q_u8(p.add(16 * i)));
            [
                bytes.map(|b| vreinterpretq_s8_u8(vandq_u8(b, vdupq_n_u8(15)))),
                bytes.map(|b| vreinterpretq_s8_u8(vshrq_n_u8::<4>(b))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn dot_q8(sum: [int32x4_t; 4], codes: [int8x16_t; 4], x: *const i8) -> [int32x4_t; 4] {
        unsafe { Self::dot_q4(sum, codes.map(|c| veorq_s8(c, vdupq_n_s8(-128))), x) }
    }

    /// The sum of two products of bytes would overflow, so pairs are added after widening.
    #[inline(always)]
    unsafe fn dot_q4(sum: [int32x4_t; 4], codes: [int8x16_t; 4], x: *const i8) -> [int32x4_t; 4] {
        unsafe {
            let x = vreinterpret_s8_s32(vdup_n_s32(x.cast::<i32>().read_unaligned()));
            array::from_fn(|i| {
                let low = vpaddlq_s16(vmull_s8(vget_low_s8(codes[i]), x));
                let high = vpaddlq_s16(vmull_s8(vget_high_s8(codes[i]), x));
                vaddq_s32(sum[i], vpaddq_s32(low, high))
            })
        }
    }

    #[inline(always)]
    unsafe fn scaled_zeros(zeros: *const u8, x: *const i32) -> [int32x4_t; 4] {
        unsafe {
            let (zeros, x) = (vld1q_u8(zeros), vdup_n_s16(x.read_unaligned() as i16));
            let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(zeros)));
            let high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(zeros)));
            [
                vmull_s16(vget_low_s16(low), x),
                vmull_s16(vget_high_s16(low), x),
                vmull_s16(vget_low_s16(high), x),
                vmull_s16(vget_high_s16(high), x),
            ]
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
    fn prefetch(_: *const u8) {}
}
