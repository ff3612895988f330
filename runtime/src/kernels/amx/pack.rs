//! Activations as tiles, sixteen tokens each, whatever the number of tokens: rows past the last hold anything.
//!
//! | precision | a tile |
//! |---|---|
//! | bf16 | for each 32 columns: `[16 tokens][32]`; columns past the last are zeros |
//! | codes | for each block of 32 columns: `[16][32]` i8, the sums' beginnings `[16]` i32, the scales `[16]` f32 |

use std::arch::x86_64::*;

use llamac_plan::layout::{BLOCK, GROUP};

use super::{ROW_BYTES, ROWS};
use crate::kernels::activations::Quantized;
use crate::kernels::simd::{Kernel, Simd};

/// Columns of a step of bf16.
pub(super) const STEP: usize = 32;

/// Bytes of a tile of bf16 and of a block's codes.
pub(super) const TILE_BYTES: usize = ROWS * ROW_BYTES;

/// Bytes of a block of codes with what belongs to it.
pub(super) const BLOCK_BYTES: usize = ROWS * (BLOCK + 4 + 4);

/// Where in a block the beginnings of sums are.
pub(super) const STARTS: usize = ROWS * BLOCK;

/// Where in a block the scales are.
pub(super) const SCALES: usize = ROWS * (BLOCK + 4);

/// Bytes of a tile of `cols` columns.
pub(super) fn tile_bytes(codes: bool, cols: usize) -> usize {
    match codes {
        false => cols.div_ceil(STEP) * TILE_BYTES,
        true => cols.div_ceil(GROUP) * 2 * BLOCK_BYTES,
    }
}

/// Packs up to sixteen rows.
pub(super) struct PackTile<R> {
    /// Codes, or bf16.
    pub(super) codes: bool,
    /// The start of each row.
    pub(super) row: R,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// As many bytes as [`tile_bytes`] says.
    pub(super) out: *mut u8,
}

impl<R: Fn(usize) -> *const f32> Kernel for PackTile<R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { codes, ref row, rows, cols, out } = self;
        let steps = if codes { cols.div_ceil(GROUP) * 2 } else { cols.div_ceil(STEP) };
        for step in 0..steps {
            let start = step * STEP;
            for m in 0..rows {
                let mut last;
                // SAFETY: the caller's promise: rows have `cols` columns, and there is room for the tile. AMX comes with
                // AVX-512 and BF16.
                unsafe {
                    let mut values = row(m).wrapping_add(start);
                    if start + STEP > cols {
                        let n = cols.saturating_sub(start);
                        last = [0.0; STEP];
                        std::ptr::copy_nonoverlapping(values, last.as_mut_ptr(), n);
                        values = last.as_ptr();
                    }
                    if codes {
                        let block = out.add(step * BLOCK_BYTES);
                        let Quantized { codes, scale, sum } = S::quantize(&*values.cast());
                        *block.add(m * BLOCK).cast::<[i8; BLOCK]>() = codes;
                        // Zero points that a weight's block has are taken off as i16, which two zero bytes follow.
                        *block.add(STARTS).cast::<i32>().add(m) = i32::from(-sum as i16 as u16);
                        *block.add(SCALES).cast::<f32>().add(m) = scale;
                    } else {
                        let (first, second) =
                            (_mm512_loadu_ps(values), _mm512_loadu_ps(values.add(STEP / 2)));
                        let place: *mut __m512bh = out.add(step * TILE_BYTES + m * ROW_BYTES).cast();
                        place.write_unaligned(_mm512_cvtne2ps_pbh(second, first));
                    }
                }
            }
        }
    }
}
