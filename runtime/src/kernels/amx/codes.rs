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

/// Rows that a product of `tokens` tokens (at most sixteen) writes.
pub(super) fn rows(tokens: usize) -> usize {
    match tokens {
        ..=4 => 4,
        5..=8 => 8,
        _ => 16,
    }
}

/// A panel, as tiles and as it is stored, times a tile of tokens.
pub(super) struct Product {
    pub(super) dtype: WeightDtype,
    /// The first block's tile.
    pub(super) tiles: *const u8,
    pub(super) panel: *const u8,
    pub(super) group: usize,
    pub(super) blocks: usize,
    /// The packed tokens' first block.
    pub(super) tokens: *const u8,
    /// What [`rows`] says.
    pub(super) rows: usize,
    /// Where the first row of sums is, of tokens by outputs.
    pub(super) sums: *mut f32,
    /// Elements from a row of sums to the next.
    pub(super) stride: usize,
    /// Whether to go on with the sums that are there.
    pub(super) resume: bool,
    /// Room for the sums of [`BUFFERS`] blocks.
    pub(super) buffers: *mut Sums<i32>,
}

impl Kernel for Product {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise: AMX is available, and this thread's tiles are set up for codes.
        unsafe {
            match (self.dtype, self.rows) {
                (WeightDtype::Q8, 4) => self.multiply::<Q8, false, 4>(),
                (WeightDtype::Q8, 8) => self.multiply::<Q8, false, 8>(),
                (WeightDtype::Q8, _) => self.multiply::<Q8, false, 16>(),
                (WeightDtype::Q4, 4) => self.multiply::<Q4, false, 4>(),
                (WeightDtype::Q4, 8) => self.multiply::<Q4, false, 8>(),
                (WeightDtype::Q4, _) => self.multiply::<Q4, false, 16>(),
                (_, 4) => self.multiply::<Q4A, true, 4>(),
                (_, 8) => self.multiply::<Q4A, true, 8>(),
                (_, _) => self.multiply::<Q4A, true, 16>(),
            }
        }
    }
}

impl Product {
    /// Three groups are under way: one is multiplied, the sums of the one before go to memory, and those of the one before
    /// that become terms.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "the array must stay in registers")]
    unsafe fn multiply<F: Format, const ZEROS: bool, const M: usize>(self) {
        // SAFETY: the caller's promise; blocks come in twos, and a buffer has a tile.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); M];
            if self.resume {
                for m in 0..M {
                    acc[m] = _mm512_loadu_ps(self.sums.add(m * self.stride));
                }
            }
            let groups = self.blocks / 2;
            for turn in 0..groups + 2 {
                if turn < groups {
                    let x = self.tokens.add(2 * turn * BLOCK_BYTES);
                    let w = self.tiles.add(2 * turn * TILE_BYTES);
                    if turn % 2 == 0 {
                        multiply::<0>(x, w);
                    } else {
                        multiply::<1>(x, w);
                    }
                }
                if (1..=groups).contains(&turn) {
                    if turn % 2 == 1 {
                        save::<0>(self.buffers);
                    } else {
                        save::<1>(self.buffers.add(2));
                    }
                }
                if turn < 2 {
                    continue;
                }
                let group = turn - 2;
                let place = F::group(self.group + group);
                for half in 0..2 {
                    let scale = F::scales::<Avx512<true>>(self.panel.add(place.scales + half * 2 * PANEL));
                    let tokens = self.tokens.add((2 * group + half) * BLOCK_BYTES);
                    let scales: *const f32 = tokens.add(SCALES).cast();
                    let starts: *const i32 = tokens.add(STARTS).cast();
                    let zeros = self.panel.add(place.zeros + half * PANEL);
                    let sums = self.buffers.add(group % 2 * 2 + half).cast::<__m512i>();
                    for m in 0..M {
                        let mut sum = _mm512_loadu_si512(sums.add(m));
                        if ZEROS {
                            sum = _mm512_add_epi32(sum, F::start::<Avx512<true>>(zeros, starts.add(m)));
                        }
                        let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*scales.add(m)));
                        acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, acc[m]);
                    }
                }
            }
            for m in 0..M {
                _mm512_storeu_ps(self.sums.add(m * self.stride), acc[m]);
            }
        }
    }
}

/// The products of a group's two blocks, in the first two tiles of sums or the last. Codes that have zero points are below
/// 16, and signed as well as unsigned.
#[inline(always)]
unsafe fn multiply<const LAST: usize>(x: *const u8, w: *const u8) {
    macro_rules! multiply {
        ($first:literal, $second:literal) => {
            change!(
                concat!("tilezero ", $first),
                "tileloadd tmm4, [{x} + {token}]",
                "tileloadd tmm6, [{w} + {row}]",
                concat!("tdpbssd ", $first, ", tmm4, tmm6"),
                concat!("tilezero ", $second),
                "tileloadd tmm5, [{y} + {token}]",
                "tileloadd tmm7, [{v} + {row}]",
                concat!("tdpbssd ", $second, ", tmm5, tmm7"),
                x = in(reg) x, w = in(reg) w, y = in(reg) x.wrapping_add(BLOCK_BYTES),
                v = in(reg) w.wrapping_add(TILE_BYTES), token = in(reg) BLOCK, row = in(reg) ROW_BYTES,
                options(nostack, readonly),
            )
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        match LAST {
            0 => multiply!("tmm0", "tmm1"),
            _ => multiply!("tmm2", "tmm3"),
        }
    }
}

/// Writes the first two tiles of sums or the last to memory.
#[inline(always)]
unsafe fn save<const LAST: usize>(sums: *mut Sums<i32>) {
    macro_rules! save {
        ($first:literal, $second:literal) => {
            change!(
                concat!("tilestored [{first} + {row}], ", $first),
                concat!("tilestored [{second} + {row}], ", $second),
                first = in(reg) sums, second = in(reg) sums.wrapping_add(1), row = in(reg) ROW_BYTES,
                options(nostack),
            )
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        match LAST {
            0 => save!("tmm0", "tmm1"),
            _ => save!("tmm2", "tmm3"),
        }
    }
}
