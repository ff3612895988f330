//! Blocks of 256 numbers: groups of 16 or 32 with small integers for scales, which share one scale of their own.

use super::half;
use super::plain::{NAMED, bytes, nibbles};

/// Scale and least number of the 8 groups of `Q4_K` and `Q5_K`: 6 bits each. Those of the last four have their low bits
/// together and their high bits above the first ones'.
fn scales_and_mins(packed: &[u8; 12]) -> [(f32, f32); 8] {
    std::array::from_fn(|j| {
        let (scale, min) = match j {
            0..4 => (packed[j] & 63, packed[j + 4] & 63),
            _ => (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4),
        };
        (f32::from(scale), f32::from(min))
    })
}

/// The scales of the 16 groups of `Q3_K`: 6 bits around 32, the low four of two groups in a byte, the high two of four.
fn signed_scales(packed: &[u8; 12]) -> [f32; 16] {
    std::array::from_fn(|b| {
        let low = packed[b % 8] >> (4 * (b / 8)) & 15;
        let high = packed[8 + b % 4] >> (2 * (b / 4)) & 3;
        f32::from(low | high << 4) - 32.0
    })
}

/// The two bits of number `e` of `Q2_K` and `Q3_K`: a byte holds those of four numbers 32 apart.
fn two_bits(packed: &[u8; 64], e: usize) -> u8 {
    let (half, within) = (e / 128, e % 128);
    packed[32 * half + within % 32] >> (2 * (within / 32)) & 3
}

pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half(*bytes(block, 80)), half(*bytes(block, 82)));
    let (scales, packed) = (bytes::<16>(block, 0), bytes(block, 16));
    for (e, x) in out.iter_mut().enumerate() {
        let scale = scales[e / 16];
        *x = d * f32::from(scale & 15) * f32::from(two_bits(packed, e)) - dmin * f32::from(scale >> 4);
    }
}

pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half(*bytes(block, 108));
    let (high, packed, scales) = (bytes::<32>(block, 0), bytes(block, 32), signed_scales(bytes(block, 96)));
    for (e, x) in out.iter_mut().enumerate() {
        let high = high[e % 32] >> (e / 32) & 1;
        *x = d * scales[e / 16] * (f32::from(two_bits(packed, e) | high << 2) - 4.0);
    }
}

pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half(*bytes(block, 0)), half(*bytes(block, 2)));
    let (scales, packed) = (scales_and_mins(bytes(block, 4)), bytes::<128>(block, 16));
    for (e, x) in out.iter_mut().enumerate() {
        let (scale, min) = scales[e / 32];
        let q = packed[32 * (e / 64) + e % 32] >> (4 * (e / 32 % 2)) & 15;
        *x = d * scale * f32::from(q) - dmin * min;
    }
}

pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half(*bytes(block, 0)), half(*bytes(block, 2)));
    let (scales, high, packed) =
        (scales_and_mins(bytes(block, 4)), bytes::<32>(block, 16), bytes::<128>(block, 48));
    for (e, x) in out.iter_mut().enumerate() {
        let (scale, min) = scales[e / 32];
        let low = packed[32 * (e / 64) + e % 32] >> (4 * (e / 32 % 2)) & 15;
        let high = high[e % 32] >> (e / 32) & 1;
        *x = d * scale * f32::from(low | high << 4) - dmin * min;
    }
}

pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half(*bytes(block, 208));
    let (low, high, scales) = (bytes::<128>(block, 0), bytes::<64>(block, 128), bytes::<16>(block, 192));
    for (e, x) in out.iter_mut().enumerate() {
        let (half, within) = (e / 128, e % 128);
        let low = low[64 * half + within % 64] >> (4 * (within / 64)) & 15;
        let high = high[32 * half + within % 32] >> (2 * (within / 32)) & 3;
        *x = d * f32::from(scales[e / 16] as i8) * (f32::from(low | high << 4) - 32.0);
    }
}

pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half(*bytes(block, 0));
    let (high, low) = (u16::from_le_bytes(*bytes(block, 2)), bytes::<4>(block, 4));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = low[j / 2] >> (4 * (j % 2)) & 15;
        let scale = d * (f32::from(low | ((high >> (2 * j) & 3) << 4) as u8) - 32.0);
        *out = nibbles(bytes(block, 8 + 16 * j)).map(|q| scale * NAMED[usize::from(q)]);
    }
}
