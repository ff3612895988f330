//! Products of tiles of bf16: up to two panels times up to two tiles of tokens.

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::pack::{STEP, TILE_BYTES};
use super::{ROW_BYTES, Sums};

/// `P` panels times `T` tiles of tokens over some columns.
#[derive(Clone, Copy)]
pub(super) struct Product<const P: usize, const T: usize> {
    /// Panels in whole pairs of columns.
    pub(super) panels: [*const u8; P],
    /// Packed tokens.
    pub(super) tokens: [*const u8; T],
    pub(super) cols: usize,
    /// Where the sums' first rows are: of each tile of tokens, of each panel.
    pub(super) sums: [[*mut f32; P]; T],
    /// Bytes from a row of sums to the next.
    pub(super) stride: usize,
    /// Whether to go on with the sums that are there.
    pub(super) resume: bool,
    pub(super) ahead: Ahead<P>,
}

/// What is asked for meanwhile: with each step some lines more.
#[derive(Clone, Copy)]
pub(super) struct Ahead<const P: usize> {
    pub(super) from: [*const u8; P],
    /// Of each, in a step.
    pub(super) lines: usize,
}

impl<const P: usize, const T: usize> Product<P, T> {
    /// Multiplies.
    ///
    /// # Safety
    /// AMX is available, and this thread's tiles are set up for bf16. Panels and packed tokens are valid for the columns,
    /// and sums are for as many rows as tiles of tokens were set up with.
    #[inline(always)]
    pub(super) unsafe fn run(self) {
        let (whole, rest) = (self.cols / STEP, self.cols % STEP);
        // SAFETY: the caller's promise; what is loaded and stored are whole tiles, the last of which is filled up here.
        unsafe {
            self.begin();
            for i in 0..whole {
                let place = i * TILE_BYTES;
                for from in self.ahead.from {
                    for line in i * self.ahead.lines..(i + 1) * self.ahead.lines {
                        _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line * 64).cast());
                    }
                }
                step(self.panels, self.tokens, place);
            }
            if rest > 0 {
                self.rest(whole * TILE_BYTES, rest.div_ceil(2) * ROW_BYTES);
            }
            self.end();
        }
    }

    /// The last columns, `bytes` of each panel, as tiles that zeros fill up.
    #[inline(never)]
    unsafe fn rest(&self, place: usize, bytes: usize) {
        let mut last = [Sums([[0_u32; 16]; 16]); P];
        // SAFETY: as above.
        unsafe {
            for (last, panel) in last.iter_mut().zip(self.panels) {
                std::ptr::copy_nonoverlapping(panel.add(place), (&raw mut *last).cast::<u8>(), bytes);
            }
            let mut tokens = self.tokens;
            tokens.iter_mut().for_each(|x| *x = x.add(place));
            let mut panels = self.panels;
            panels.iter_mut().zip(&last).for_each(|(w, last)| *w = (&raw const *last).cast());
            step(panels, tokens, 0);
        }
    }

    /// Sums are tiles 0 and 1 of the first tokens and 2 and 3 of the second.
    #[inline(always)]
    unsafe fn begin(&self) {
        macro_rules! begin {
            ($tile:literal, $sums:expr) => {
                match self.resume {
                    true => change!(
                        concat!("tileloadd ", $tile, ", [{} + {}]"),
                        in(reg) $sums, in(reg) self.stride, options(nostack, readonly),
                    ),
                    false => change!(concat!("tilezero ", $tile), options(nostack, nomem),),
                }
            };
        }
        // SAFETY: the caller's promise.
        unsafe {
            begin!("tmm0", self.sums[0][0]);
            if P > 1 {
                begin!("tmm1", self.sums[0][1 % P]);
            }
            if T > 1 {
                begin!("tmm2", self.sums[1 % T][0]);
            }
            if P > 1 && T > 1 {
                begin!("tmm3", self.sums[1 % T][1 % P]);
            }
        }
    }

    #[inline(always)]
    unsafe fn end(&self) {
        macro_rules! end {
            ($tile:literal, $sums:expr) => {
                change!(
                    concat!("tilestored [{} + {}], ", $tile),
                    in(reg) $sums, in(reg) self.stride, options(nostack),
                )
            };
        }
        // SAFETY: the caller's promise.
        unsafe {
            end!("tmm0", self.sums[0][0]);
            if P > 1 {
                end!("tmm1", self.sums[0][1 % P]);
            }
            if T > 1 {
                end!("tmm2", self.sums[1 % T][0]);
            }
            if P > 1 && T > 1 {
                end!("tmm3", self.sums[1 % T][1 % P]);
            }
        }
    }
}

/// One tile of each panel times one of each token tile, `place` bytes behind their beginnings.
#[inline(always)]
unsafe fn step<const P: usize, const T: usize>(w: [*const u8; P], x: [*const u8; T], place: usize) {
    let (w0, w1) = (w[0].wrapping_add(place), w[1 % P].wrapping_add(place));
    let (x0, x1) = (x[0].wrapping_add(place), x[1 % T].wrapping_add(place));
    // SAFETY: the caller's promise.
    unsafe {
        match (P, T) {
            (1, 1) => change!(
                "tileloadd tmm4, [{x} + {s}]",
                "tileloadd tmm6, [{w} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                x = in(reg) x0, w = in(reg) w0, s = in(reg) ROW_BYTES, options(nostack, readonly),
            ),
            (1, _) => change!(
                "tileloadd tmm4, [{x} + {s}]",
                "tileloadd tmm6, [{w} + {s}]",
                "tileloadd tmm5, [{y} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                x = in(reg) x0, y = in(reg) x1, w = in(reg) w0, s = in(reg) ROW_BYTES, options(nostack, readonly),
            ),
            (_, 1) => change!(
                "tileloadd tmm4, [{x} + {s}]",
                "tileloadd tmm6, [{w} + {s}]",
                "tileloadd tmm7, [{v} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                x = in(reg) x0, w = in(reg) w0, v = in(reg) w1, s = in(reg) ROW_BYTES, options(nostack, readonly),
            ),
            _ => change!(
                "tileloadd tmm4, [{x} + {s}]",
                "tileloadd tmm6, [{w} + {s}]",
                "tileloadd tmm7, [{v} + {s}]",
                "tileloadd tmm5, [{y} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                x = in(reg) x0, y = in(reg) x1, w = in(reg) w0, v = in(reg) w1, s = in(reg) ROW_BYTES,
                options(nostack, readonly),
            ),
        }
    }
}
