//! Products of codes: quantized weights times quantized activations, in integers block by block, which scales then make
//! terms of a chain in f32.
//!
//! The sum of a block is exact, so its order does not matter. A zero point costs nothing: sums begin at what it takes
//! off, which [`super::activations`] has worked out.

use std::marker::PhantomData;

use llamac_plan::layout::{GROUP, Group, PANEL, WeightDtype};

use super::activations::{block_bytes, scale_offset, start_offset};
use super::simd::Simd;
use super::tile::{Chain, Operands, SPREAD, STREAMED};

/// How codes are stored, see [`llamac_plan::layout`].
pub(super) trait Format: Copy {
    /// Bytes of the codes of a block of a panel.
    const BLOCK_BYTES: usize;

    /// Where a panel has the parts of a group.
    fn group(group: usize) -> Group;

    /// Runs `i` and `i + 4` of a block's codes.
    ///
    /// # Safety
    /// The instruction set of `S` is available; `codes` is valid for a block; `i < 4`.
    unsafe fn runs<S: Simd>(codes: *const u8, i: usize) -> [S::Codes; 2];

    /// Adds a run's products.
    ///
    /// # Safety
    /// The instruction set of `S` is available; `x` is valid for four integers.
    unsafe fn dot<S: Simd>(sum: S::I, codes: S::Codes, x: *const i8) -> S::I;

    /// What a block's sum begins at.
    ///
    /// # Safety
    /// The instruction set of `S` is available; `zeros` is valid for a block where there are zero points.
    unsafe fn start<S: Simd>(zeros: *const u8, start: *const i32) -> S::I;

    /// A block's scales.
    ///
    /// # Safety
    /// The instruction set of `S` is available; `scales` is valid for a block where there are scales.
    #[inline(always)]
    unsafe fn scales<S: Simd>(scales: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(scales.cast()) }
    }
}

/// 8 bits around 128.
#[derive(Clone, Copy)]
pub(super) struct Q8;
/// 4 bits around 8.
#[derive(Clone, Copy)]
pub(super) struct Q4;
/// 4 bits around zero points.
#[derive(Clone, Copy)]
pub(super) struct Q4A;
/// As [`Q8`], without scales, see [`super::kv`].
#[derive(Clone, Copy)]
pub(super) struct Unscaled;

impl Format for Q8 {
    const BLOCK_BYTES: usize = 8 * 4 * PANEL;

    #[inline(always)]
    fn group(group: usize) -> Group {
        Group::of(WeightDtype::Q8, group)
    }

    #[inline(always)]
    unsafe fn runs<S: Simd>(codes: *const u8, i: usize) -> [S::Codes; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::load_codes(codes.add(i * 64)), S::load_codes(codes.add((i + 4) * 64))] }
    }

    #[inline(always)]
    unsafe fn dot<S: Simd>(sum: S::I, codes: S::Codes, x: *const i8) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::dot_q8(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn start<S: Simd>(_: *const u8, start: *const i32) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::splat_i32(start) }
    }
}

impl Format for Q4 {
    const BLOCK_BYTES: usize = 4 * 4 * PANEL;

    #[inline(always)]
    fn group(group: usize) -> Group {
        Group::of(WeightDtype::Q4, group)
    }

    #[inline(always)]
    unsafe fn runs<S: Simd>(codes: *const u8, i: usize) -> [S::Codes; 2] {
        // SAFETY: the caller's promise.
        unsafe { S::load_nibbles(codes.add(i * 64)) }
    }

    #[inline(always)]
    unsafe fn dot<S: Simd>(sum: S::I, codes: S::Codes, x: *const i8) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::dot_q4(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn start<S: Simd>(_: *const u8, start: *const i32) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::splat_i32(start) }
    }
}

impl Format for Q4A {
    const BLOCK_BYTES: usize = Q4::BLOCK_BYTES;

    #[inline(always)]
    fn group(group: usize) -> Group {
        Group::of(WeightDtype::Q4A, group)
    }

    #[inline(always)]
    unsafe fn runs<S: Simd>(codes: *const u8, i: usize) -> [S::Codes; 2] {
        // SAFETY: the caller's promise.
        unsafe { Q4::runs::<S>(codes, i) }
    }

    #[inline(always)]
    unsafe fn dot<S: Simd>(sum: S::I, codes: S::Codes, x: *const i8) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { Q4::dot::<S>(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn start<S: Simd>(zeros: *const u8, start: *const i32) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { S::scaled_zeros(zeros, start) }
    }
}

impl Format for Unscaled {
    const BLOCK_BYTES: usize = Q8::BLOCK_BYTES;

    #[inline(always)]
    fn group(group: usize) -> Group {
        let start = group * 2 * Self::BLOCK_BYTES;
        Group { scales: start, zeros: start, codes: start }
    }

    #[inline(always)]
    unsafe fn runs<S: Simd>(codes: *const u8, i: usize) -> [S::Codes; 2] {
        // SAFETY: the caller's promise.
        unsafe { Q8::runs::<S>(codes, i) }
    }

    #[inline(always)]
    unsafe fn dot<S: Simd>(sum: S::I, codes: S::Codes, x: *const i8) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { Q8::dot::<S>(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn start<S: Simd>(zeros: *const u8, start: *const i32) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { Q8::start::<S>(zeros, start) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(_: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::splat(1.0) }
    }
}

/// Sums of codes of a format.
#[derive(Clone, Copy)]
pub(super) struct Coded<F>(PhantomData<F>);

impl<F: Format> Chain for Coded<F> {
    const STEP: usize = GROUP;

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "the indices are those of the formula")]
    unsafe fn go_on<S: Simd, const P: usize, const M: usize>(
        start: [[S::V; M]; P],
        operands: &Operands,
    ) -> [[S::V; M]; P] {
        let Operands { panels, panel_bytes, cols, ahead, next, x, .. } = *operands;
        let x: *const u8 = x.cast();
        // SAFETY: the caller's promise; groups are inside the panels, and blocks inside x.
        unsafe {
            // Never indexed by a variable, see `Widened`.
            let mut acc = [[S::splat(0.0); M]; P];
            for p in 0..P {
                for m in 0..M {
                    acc[p][m] = start[p][m];
                }
            }
            for group in 0..cols.div_ceil(GROUP) {
                let place = F::group(group);
                // Some lines of the group as far ahead as is said.
                let lines = (F::group(group + 1).scales - place.scales) / 64;
                let prefetch = |some: std::ops::Range<usize>| {
                    for line in some {
                        for p in 0..P {
                            let next = p * panel_bytes + place.scales + line * 64 + ahead;
                            S::prefetch(panels.wrapping_add(next));
                        }
                    }
                };
                if const { M > SPREAD } {
                    next.ask::<S, P>(group);
                }
                // With one or two rows, loads would wait behind a heap of requests; more are faster with one.
                if const { M > SPREAD && M <= STREAMED } {
                    prefetch(0..lines);
                }
                for half in 0..2 {
                    let x = x.add((2 * group + half) * block_bytes(M));
                    let starts: *const i32 = x.add(start_offset(M)).cast();
                    let scales: *const f32 = x.add(scale_offset(M)).cast();
                    let mut sums = [[F::start::<S>(panels.add(place.zeros), starts); M]; P];
                    for p in 0..P {
                        let zeros = panels.add(p * panel_bytes + place.zeros + half * PANEL);
                        for m in 0..M {
                            sums[p][m] = F::start::<S>(zeros, starts.add(m));
                        }
                    }
                    let codes = panels.add(place.codes + half * F::BLOCK_BYTES);
                    for i in 0..4 {
                        if const { M <= SPREAD } {
                            let step = 4 * half + i;
                            prefetch(lines * step / 8..lines * (step + 1) / 8);
                        }
                        let mut w = [F::runs::<S>(codes, i); P];
                        for p in 1..P {
                            w[p] = F::runs::<S>(codes.add(p * panel_bytes), i);
                        }
                        for run in 0..2 {
                            for m in 0..M {
                                let x: *const i8 = x.add(((i + 4 * run) * M + m) * 4).cast();
                                for p in 0..P {
                                    sums[p][m] = F::dot::<S>(sums[p][m], w[p][run], x);
                                }
                            }
                        }
                    }
                    for p in 0..P {
                        let scale = panels.add(p * panel_bytes + place.scales + half * 2 * PANEL);
                        let scale = F::scales::<S>(scale);
                        for m in 0..M {
                            let scale = S::mul(scale, S::splat(*scales.add(m)));
                            acc[p][m] = S::fma(S::to_f32(sums[p][m]), scale, acc[p][m]);
                        }
                    }
                }
            }
            let mut end = start;
            for p in 0..P {
                for m in 0..M {
                    end[p][m] = acc[p][m];
                }
            }
            end
        }
    }
}
