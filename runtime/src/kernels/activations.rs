//! Activations as the tiles of matrix products read them: several rows side by side, column by column, in the precision
//! of the product.
//!
//! | precision | a tile of `m` rows |
//! |---|---|
//! | f32 | `[cols][m]` |
//! | bf16 | `[ceil(cols / 2)][m][2 cols]` |
//! | codes | for each block of 32 columns: `[8 runs][m][4 cols]` i8, what sums begin at `[m]` i32, scales `[m]` f32 |
//!
//! Rows that a tile has room for and columns that fill up a pair or a group are zeros. A row's numbers do not depend on
//! the tile that it is in.

use llamac_plan::layout::{BLOCK, GROUP, WeightDtype};

use super::simd::{Kernel, Simd};

/// The precision that activations are multiplied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// Single.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// Codes of 8 bits, for weights of this dtype.
    Codes(WeightDtype),
}

impl Precision {
    /// f32 elements of memory that a row of `cols` columns takes.
    pub(super) fn row_elements(self, cols: usize) -> usize {
        match self {
            Self::F32 => cols,
            Self::Bf16 => cols.div_ceil(2),
            Self::Codes(_) => cols.div_ceil(GROUP) * 2 * block_bytes(1) / 4,
        }
    }
}

/// Bytes of a block of `rows` rows of codes.
#[inline(always)]
pub(super) const fn block_bytes(rows: usize) -> usize {
    rows * (BLOCK + 4 + 4)
}

/// Where in a block of `rows` rows the i32 are that sums begin at.
#[inline(always)]
pub(super) const fn start_offset(rows: usize) -> usize {
    rows * BLOCK
}

/// Where in a block of `rows` rows the scales are.
#[inline(always)]
pub(super) const fn scale_offset(rows: usize) -> usize {
    rows * (BLOCK + 4)
}

/// Writes some rows of x as one tile.
pub(super) struct Pack<R> {
    pub(super) precision: Precision,
    /// The start of each row, by its number.
    pub(super) row: R,
    /// Rows that there are.
    pub(super) rows: usize,
    /// Columns of x.
    pub(super) cols: usize,
    /// Rows of the tile.
    pub(super) tile: usize,
    /// As many f32 elements as the tile's rows take.
    pub(super) out: *mut f32,
}

impl<R: Fn(usize) -> *const f32> Kernel for Pack<R> {
    type Output = ();

    /// `row(m)` is valid for all columns of every row that there is, and `out` for the tile.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { precision, ref row, rows, cols, tile, out } = self;
        // SAFETY: the caller's promise.
        unsafe {
            match precision {
                Precision::F32 => super::tile::pack(row, rows, cols, tile, out),
                Precision::Bf16 => pack_bf16(row, rows, cols, tile, out.cast()),
                Precision::Codes(dtype) => {
                    let zero = match dtype {
                        WeightDtype::Q8 => Some(S::Q8_ZERO),
                        WeightDtype::Q4 => Some(8),
                        _ => None,
                    };
                    pack_codes::<S>(row, rows, cols, tile, zero, out.cast());
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn pack_bf16(
    row: impl Fn(usize) -> *const f32,
    rows: usize,
    cols: usize,
    tile: usize,
    out: *mut [u16; 2],
) {
    const STEP: usize = 64;
    for start in (0..cols).step_by(STEP) {
        let n = STEP.min(cols - start);
        for m in 0..tile {
            let mut values = [0.0; STEP];
            let mut rounded = [0; STEP];
            // SAFETY: the caller's promise.
            unsafe {
                if m < rows {
                    std::ptr::copy_nonoverlapping(row(m).add(start), values.as_mut_ptr(), n);
                }
                for (rounded, x) in rounded.iter_mut().zip(values) {
                    *rounded = to_bf16(x);
                }
                for (i, pair) in rounded.as_chunks::<2>().0.iter().enumerate().take(n.div_ceil(2)) {
                    *out.add((start / 2 + i) * tile + m) = *pair;
                }
            }
        }
    }
}

/// To nearest, ties to even; a NaN stays one.
#[inline(always)]
pub(super) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    ((if is_nan { bits | 0x40_0000 } else { rounded }) >> 16) as u16
}

/// Quantizes each block of each row by its largest magnitude. Sums begin at `-zero` times the sum of the codes; without
/// a `zero` that all blocks share, at the negative sum itself, as an i16 that two zero bytes follow.
#[inline(always)]
unsafe fn pack_codes<S: Simd>(
    row: impl Fn(usize) -> *const f32,
    rows: usize,
    cols: usize,
    tile: usize,
    zero: Option<i32>,
    out: *mut u8,
) {
    for block in 0..cols.div_ceil(GROUP) * 2 {
        let start = block * BLOCK;
        // SAFETY: the caller's promise.
        let out = unsafe { out.add(block * block_bytes(tile)) };
        for m in 0..tile {
            let mut values = [0.0; BLOCK];
            if m < rows && start < cols {
                // SAFETY: the caller's promise.
                unsafe {
                    let n = BLOCK.min(cols - start);
                    std::ptr::copy_nonoverlapping(row(m).add(start), values.as_mut_ptr(), n);
                }
            }
            // SAFETY: the caller's promise.
            let Quantized { codes, scale, sum } = unsafe { S::quantize(&values) };
            let begin = match zero {
                Some(zero) => -zero * sum,
                None => i32::from(-sum as i16 as u16),
            };
            // SAFETY: the caller's promise; the tile's blocks are multiples of four bytes.
            unsafe {
                for (run, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
                    *out.add((run * tile + m) * 4).cast::<[i8; 4]>() = *codes;
                }
                *out.add(start_offset(tile)).cast::<i32>().add(m) = begin;
                *out.add(scale_offset(tile)).cast::<f32>().add(m) = scale;
            }
        }
    }
}

/// What the numbers of a block are multiplied by to become codes, given their largest magnitude.
#[inline(always)]
pub(super) fn inverse(largest: f32) -> f32 {
    if largest == 0.0 { 0.0 } else { (127.0 / largest).min(f32::MAX) }
}

/// A block of numbers, quantized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quantized {
    /// From -127 to 127.
    pub(super) codes: [i8; BLOCK],
    /// What codes are multiplied by.
    pub(super) scale: f32,
    /// Of the codes.
    pub(super) sum: i32,
}

/// Quantizes a block. Blocks of numbers below 1e-36 are taken for less. A number that is not finite makes a scale that is
/// not finite either.
#[inline(always)]
pub(super) fn quantize(values: &[f32; BLOCK]) -> Quantized {
    // Magnitudes compare like their bits, and NaN is above all.
    let largest = values.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let inverse = inverse(largest);
    let mut codes = [0; BLOCK];
    for (code, x) in codes.iter_mut().zip(values) {
        *code = (x * inverse).clamp(-127.0, 127.0).round_ties_even() as i32 as i8;
    }
    let sum = codes.iter().map(|&code| i32::from(code)).sum();
    Quantized { codes, scale: largest / 127.0, sum }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::kernels::isa::Isa;

    struct Quantize([f32; BLOCK]);

    impl Kernel for Quantize {
        type Output = Quantized;

        unsafe fn run<S: Simd>(self) -> Quantized {
            // SAFETY: the caller's promise.
            unsafe { S::quantize(&self.0) }
        }
    }

    #[test]
    fn all_instruction_sets_quantize_alike() {
        for exponent in [-140, -126, 0, 127] {
            for special in [0.0, -0.0, 0.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                let unit = 2f64.powi(exponent) as f32;
                let mut values: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 * 0.7).sin() * unit);
                values[9] = special;
                let expected = quantize(&values);
                assert_eq!(expected.sum, expected.codes.iter().map(|&code| i32::from(code)).sum::<i32>());
                for isa in Isa::available() {
                    // SAFETY: this processor has the instruction set.
                    let found = unsafe { isa.dispatch(Quantize(values)) };
                    assert_eq!(
                        (found.codes, found.sum),
                        (expected.codes, expected.sum),
                        "{isa:?}, {values:?}"
                    );
                    let is_nan = found.scale.is_nan() && expected.scale.is_nan();
                    assert!(is_nan || found.scale == expected.scale, "{isa:?}, {values:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_round_to_bf16_as_they_should() {
        // Every exponent, many times, with low bits of all kinds; and ties, to even and to odd.
        let step = if cfg!(miri) { 101 } else { 1 };
        let ties = (0..=u16::MAX).step_by(step);
        let ties = ties.flat_map(|high| [0x7fff, 0x8000, 0x8001].map(|low| u32::from(high) << 16 | low));
        for bits in (0..=u32::MAX).step_by(65_537 * step).chain(ties) {
            let x = f32::from_bits(bits);
            let (found, expected) = (bf16::from_bits(to_bf16(x)), bf16::from_f32(x));
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{x}");
        }
    }

    #[test]
    fn codes_are_within_half_a_step() {
        for exponent in [-140, -126, -20, 0, 60, 127] {
            let unit = 2f64.powi(exponent) as f32;
            let values: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 * 0.7).sin() * unit);
            let Quantized { codes, scale, .. } = quantize(&values);
            for (code, x) in codes.iter().zip(values) {
                let found = f64::from(*code) * f64::from(scale);
                // Steps below this have no reciprocal.
                let step = f64::from(scale).max(1e-36);
                assert!((found - f64::from(x)).abs() <= step * 0.501, "{found} for {x}");
            }
        }
        assert_eq!(quantize(&[0.0; BLOCK]), Quantized { codes: [0; BLOCK], scale: 0.0, sum: 0 });
        for special in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut values = [1.0; BLOCK];
            values[7] = special;
            assert!(!quantize(&values).scale.is_finite());
        }
    }
}
