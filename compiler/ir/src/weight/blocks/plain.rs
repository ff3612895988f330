//! Blocks of 32 numbers with one scale.

use super::half;

/// The numbers that 4 bits name in the `IQ4` types.
pub(super) const NAMED: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// The integers of 4 bits: those of the first half are in the low bits, those of the second in the high bits.
pub(super) fn nibbles(bytes: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| bytes[i % 16] >> (4 * (i / 16)) & 15)
}

/// The integers of 5 bits: the fifth are the bits of `high`, in order.
fn five(high: [u8; 4], low: &[u8; 16]) -> [u8; 32] {
    let (high, low) = (u32::from_le_bytes(high), nibbles(low));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as u8)
}

/// The `N` bytes from `start` on.
pub(super) fn bytes<const N: usize>(block: &[u8], start: usize) -> &[u8; N] {
    block[start..].first_chunk().expect("layouts are fixed")
}

pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(*bytes(block, 0));
    *out = nibbles(bytes(block, 2)).map(|q| d * (f32::from(q) - 8.0));
}

pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(*bytes(block, 0)), half(*bytes(block, 2)));
    *out = nibbles(bytes(block, 4)).map(|q| d * f32::from(q) + m);
}

pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(*bytes(block, 0));
    *out = five(*bytes(block, 2), bytes(block, 6)).map(|q| d * (f32::from(q) - 16.0));
}

pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(*bytes(block, 0)), half(*bytes(block, 2)));
    *out = five(*bytes(block, 4), bytes(block, 8)).map(|q| d * f32::from(q) + m);
}

pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(*bytes(block, 0));
    *out = bytes::<32>(block, 2).map(|q| d * f32::from(q as i8));
}

pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(*bytes(block, 0));
    *out = nibbles(bytes(block, 2)).map(|q| d * NAMED[usize::from(q)]);
}
