//! Tiles of codes: a panel times a tile of tokens, block by block, as [`crate::kernels::codes`] has it: sums of integers,
//! which scales make terms of a chain in f32.

use std::arch::asm;
use std::arch::x86_64::*;

use llamac_plan::layout::{BLOCK, PANEL, WeightDtype};

use super::pack::{BLOCK_BYTES, SCALES, STARTS};
use super::{ROW_BYTES, Sums};
use crate::kernels::avx512::Avx512;
use crate::kernels::codes::{Format, Q4, Q4A, Q8};
use crate::kernels::simd::{Kernel, Simd};

/// Bytes of a block's codes as a tile: a byte each.
pub(super) const TILE_BYTES: usize = BLOCK * PANEL;

/// Blocks whose sums are in memory at a time: those of a group that becomes terms, and of the next.
const BUFFERS: usize = 4;

/// Bytes of their sums.
pub(super) const BUFFER_BYTES: usize = BUFFERS * size_of::<Sums<i32>>();

/// Writes some blocks' codes as tiles, less 128 or 8; those with zero points as they are.
pub(super) struct Widen {
    pub(super) dtype: WeightDtype,
    pub(super) panel: *const u8,
    /// First group.
    pub(super) group: usize,
    pub(super) blocks: usize,
    pub(super) out: *mut u8,
}

impl Kernel for Widen {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise: the panel has the groups, and there is room for the tiles.
        unsafe {
            match self.dtype {
                WeightDtype::Q8 => self.widen::<Q8>(_mm512_set1_epi8(-128)),
                WeightDtype::Q4 => self.widen::<Q4>(_mm512_set1_epi8(8)),
                _ => self.widen::<Q4A>(_mm512_setzero_si512()),
            }
        }
    }
}

impl Widen {
    #[inline(always)]
    unsafe fn widen<F: Format>(self, zero: __m512i) {
        for block in 0..self.blocks {
            // SAFETY: as above.
            unsafe {
                let codes =
                    self.panel.add(F::group(self.group + block / 2).codes + block % 2 * F::BLOCK_BYTES);
                let out: *mut __m512i = self.out.add(block * TILE_BYTES).cast();
                for i in 0..4 {
                    let [low, high] = F::runs::<Avx512<true>>(codes, i);
                    _mm512_storeu_si512(out.add(i), _mm512_sub_epi8(low, zero));
                    _mm512_storeu_si512(out.add(i + 4), _mm512_sub_epi8(high, zero));
                }
            }
        }
    }
}

/// A panel, as tiles and as it is stored, times a tile of tokens.
pub(super) struct Product<'a> {
    pub(super) dtype: WeightDtype,
    /// The first block's tile.
    pub(super) tiles: *const u8,
    pub(super) panel: *const u8,
    pub(super) group: usize,
    pub(super) blocks: usize,
    /// The packed tokens' first block.
    pub(super) tokens: *const u8,
    /// Tokens that there are.
    pub(super) rows: usize,
    /// Sums so far, of tokens by outputs.
    pub(super) sums: &'a mut Sums<f32>,
    /// Room for the sums of [`BUFFERS`] blocks.
    pub(super) buffers: *mut Sums<i32>,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise: AMX is available, and this thread's tiles are set up for codes.
        unsafe {
            match (self.dtype, self.rows) {
                (WeightDtype::Q8, ..=4) => self.multiply::<Q8, false, 4>(),
                (WeightDtype::Q8, ..=8) => self.multiply::<Q8, false, 8>(),
                (WeightDtype::Q8, _) => self.multiply::<Q8, false, 16>(),
                (WeightDtype::Q4, ..=4) => self.multiply::<Q4, false, 4>(),
                (WeightDtype::Q4, ..=8) => self.multiply::<Q4, false, 8>(),
                (WeightDtype::Q4, _) => self.multiply::<Q4, false, 16>(),
                (_, ..=4) => self.multiply::<Q4A, true, 4>(),
                (_, ..=8) => self.multiply::<Q4A, true, 8>(),
                (_, _) => self.multiply::<Q4A, true, 16>(),
            }
        }
    }
}

impl Product<'_> {
    /// While a group's sums become terms, the next one's are multiplied.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "the array must stay in registers")]
    unsafe fn multiply<F: Format, const ZEROS: bool, const M: usize>(self) {
        // SAFETY: the caller's promise; blocks come in twos, and a buffer has a tile.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); M];
            for m in 0..M {
                acc[m] = _mm512_loadu_ps(self.sums.0[m].as_ptr());
            }
            let multiply = |block: usize| {
                let buffer = self.buffers.add(block % BUFFERS);
                let (x, w) = (self.tokens.add(block * BLOCK_BYTES), self.tiles.add(block * TILE_BYTES));
                if block.is_multiple_of(2) {
                    tile::<ZEROS, 0>(x, w, buffer);
                } else {
                    tile::<ZEROS, 1>(x, w, buffer);
                }
            };
            multiply(0);
            multiply(1);
            for block in 0..self.blocks {
                if block % 2 == 0 && block + 2 < self.blocks {
                    multiply(block + 2);
                    multiply(block + 3);
                }
                let (place, half) = (F::group(self.group + block / 2), block % 2);
                let scale = F::scales::<Avx512<true>>(self.panel.add(place.scales + half * 2 * PANEL));
                let tokens = self.tokens.add(block * BLOCK_BYTES);
                let scales: *const f32 = tokens.add(SCALES).cast();
                let starts: *const i32 = tokens.add(STARTS).cast();
                let zeros = self.panel.add(place.zeros + half * PANEL);
                let sums = self.buffers.add(block % BUFFERS).cast::<__m512i>();
                for m in 0..M {
                    let mut sum = _mm512_loadu_si512(sums.add(m));
                    if ZEROS {
                        sum = _mm512_add_epi32(sum, F::start::<Avx512<true>>(zeros, starts.add(m)));
                    }
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*scales.add(m)));
                    acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, acc[m]);
                }
            }
            for m in 0..M {
                _mm512_storeu_ps(self.sums.0[m].as_mut_ptr(), acc[m]);
            }
        }
    }
}

/// A block's products, through tile `C`; codes of weights are unsigned where they have zero points.
#[inline(always)]
unsafe fn tile<const UNSIGNED: bool, const C: usize>(x: *const u8, w: *const u8, sums: *mut Sums<i32>) {
    macro_rules! multiply {
        ($dot:literal, $c:literal, $x:literal, $w:literal) => {
            change!(
                concat!("tilezero ", $c),
                concat!("tileloadd ", $x, ", [{x} + {token}]"),
                concat!("tileloadd ", $w, ", [{w} + {row}]"),
                concat!($dot, " ", $c, ", ", $x, ", ", $w),
                concat!("tilestored [{sums} + {row}], ", $c),
                x = in(reg) x, w = in(reg) w, sums = in(reg) sums, token = in(reg) BLOCK, row = in(reg) ROW_BYTES,
                options(nostack),
            )
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        match (UNSIGNED, C) {
            (false, 0) => multiply!("tdpbssd", "tmm0", "tmm4", "tmm6"),
            (false, _) => multiply!("tdpbssd", "tmm1", "tmm5", "tmm7"),
            (true, 0) => multiply!("tdpbsud", "tmm0", "tmm4", "tmm6"),
            (true, _) => multiply!("tdpbsud", "tmm1", "tmm5", "tmm7"),
        }
    }
}
