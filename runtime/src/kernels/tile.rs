//! The frame of all matrix products, and the inner loop of those in f32: a few weight panels times a few rows of x.
//!
//! Each output element is a single chain of multiply-adds over the columns in order, in a register. Which tile an
//! element falls into, and with what beside it, changes nothing about its bits: linear layers of one token and of many
//! agree, and so does attention. Other arithmetic has chains of its own ([`super::bf16`], [`super::codes`]).

use std::marker::PhantomData;

use llamac_plan::layout::{PANEL, WeightDtype};

use super::math;
use super::simd::{Kernel, Simd};

/// Rows up to which panels are expected to come from memory, and are asked for ahead.
pub(super) const STREAMED: usize = 8;

/// Rows up to which panels are streamed with nothing else to do: [`Next`] is not for them.
pub(super) const SPREAD: usize = 2;

/// How elements of a panel are stored. Columns are read in pairs, see [`llamac_plan::layout`].
pub(super) trait Element: Copy {
    /// Bytes of a pair of columns of a panel.
    const PAIR_BYTES: usize;

    /// Two columns.
    ///
    /// # Safety
    /// The instruction set of `S` is available, and `p` is valid for the pair.
    unsafe fn load_pair<S: Simd>(p: *const u8) -> [S::V; 2];

    /// The last column, where their number is odd.
    ///
    /// # Safety
    /// The instruction set of `S` is available, and `p` is valid for one column (with its padding).
    unsafe fn load_last<S: Simd>(p: *const u8) -> S::V;
}

/// Single precision.
#[derive(Clone, Copy)]
pub(super) struct F32;
/// Half precision.
#[derive(Clone, Copy)]
pub(super) struct F16;
/// bfloat16.
#[derive(Clone, Copy)]
pub(super) struct Bf16;

impl Element for F32 {
    const PAIR_BYTES: usize = 2 * PANEL * 4;

    #[inline(always)]
    unsafe fn load_pair<S: Simd>(p: *const u8) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::load(p.cast()), S::load(p.add(PANEL * 4).cast())] }
    }

    #[inline(always)]
    unsafe fn load_last<S: Simd>(p: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(p.cast()) }
    }
}

impl Element for F16 {
    const PAIR_BYTES: usize = 2 * PANEL * 2;

    #[inline(always)]
    unsafe fn load_pair<S: Simd>(p: *const u8) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::load_f16(p.cast()), S::load_f16(p.add(PANEL * 2).cast())] }
    }

    #[inline(always)]
    unsafe fn load_last<S: Simd>(p: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p.cast()) }
    }
}

impl Element for Bf16 {
    const PAIR_BYTES: usize = 2 * PANEL * 2;

    #[inline(always)]
    unsafe fn load_pair<S: Simd>(p: *const u8) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16_pairs(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_last<S: Simd>(p: *const u8) -> S::V {
        // SAFETY: the caller's promise; bf16 panels are padded to whole pairs.
        unsafe { S::load_bf16_pairs(p.cast())[0] }
    }
}

/// Where element `k` of row `m` of x lies.
pub(super) trait Source: Copy {
    /// Elements from the start of x.
    fn at<const M: usize>(k: usize, m: usize) -> usize;
}

/// Tiles `[k][M]`, see [`pack`].
#[derive(Clone, Copy)]
pub(super) struct Packed;
/// Rows that are `STRIDE` apart.
#[derive(Clone, Copy)]
pub(super) struct RowMajor<const STRIDE: usize>;

impl Source for Packed {
    #[inline(always)]
    fn at<const M: usize>(k: usize, m: usize) -> usize {
        k * M + m
    }
}

impl<const STRIDE: usize> Source for RowMajor<STRIDE> {
    #[inline(always)]
    fn at<const M: usize>(k: usize, m: usize) -> usize {
        m * STRIDE + k
    }
}

/// What a tile multiplies and where to.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// First panel.
    pub(super) panels: *const u8,
    /// Bytes from one panel to the next.
    pub(super) panel_bytes: usize,
    /// Columns to multiply.
    pub(super) cols: usize,
    /// Bytes from a place in the panels to the place to ask for when few rows are multiplied by it.
    pub(super) ahead: usize,
    /// What many rows ask for.
    pub(super) next: Next,
    /// Rows of x, as the [`Source`] says.
    pub(super) x: *const f32,
    /// First element of the result, row-major.
    pub(super) out: *mut f32,
    /// Elements from one row of the result to the next.
    pub(super) out_stride: usize,
    /// Rows of the result that are stored. x has as many as the tile, whatever they hold.
    pub(super) rows: usize,
    /// Elements of a row of the result that are stored, for all panels.
    pub(super) width: usize,
    /// As many numbers to add at the end, or null.
    pub(super) bias: *const f32,
    /// Whether chains go on from what `out` holds, instead of starting at zero.
    pub(super) resume: bool,
}

/// What is asked for while panels are multiplied by many rows: parts of the panels that come next, a few lines at a time,
/// since loads wait behind a heap of requests to memory.
#[derive(Clone, Copy)]
pub(super) struct Next {
    /// The part of the first panel.
    pub(super) from: *const u8,
    /// Bytes from there to that of the second.
    pub(super) panel_bytes: usize,
    /// Lines of each panel, every [`Chain::STEP`] columns.
    pub(super) lines: usize,
}

impl Next {
    /// Nothing.
    pub(super) const NONE: Self = Self { from: std::ptr::null(), panel_bytes: 0, lines: 0 };

    /// Asks for the lines of a step, of `P` panels.
    #[inline(always)]
    pub(super) fn ask<S: Simd, const P: usize>(self, step: usize) {
        for line in step * self.lines..(step + 1) * self.lines {
            for p in 0..P {
                S::prefetch(self.from.wrapping_add(p * self.panel_bytes + line * 64));
            }
        }
    }
}

/// How chains go on over the columns of a panel.
pub(super) trait Chain: Copy {
    /// Columns after which [`Next`] is asked.
    const STEP: usize;

    /// Goes on with the chains of `P` panels and `M` rows over the columns of the operands.
    ///
    /// # Safety
    /// The instruction set of `S` is available; the operands' panels and x are valid for their sizes.
    unsafe fn go_on<S: Simd, const P: usize, const M: usize>(
        start: [[S::V; M]; P],
        operands: &Operands,
    ) -> [[S::V; M]; P];
}

/// `P` panels times `M` rows.
struct Tile<C, const P: usize, const M: usize>(Operands, PhantomData<C>);

impl<C: Chain, const P: usize, const M: usize> Kernel for Tile<C, P, M> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Operands { out, out_stride, rows, width, bias, resume, .. } = self.0;
        let lanes = |p: usize| (width - p * PANEL).min(PANEL);
        // SAFETY: `multiply`'s caller promises that all operands are valid for their sizes; lanes and rows outside
        // the result are neither read nor written.
        unsafe {
            let mut chains = [[S::splat(0.0); M]; P];
            if resume {
                for (p, chains) in chains.iter_mut().enumerate() {
                    for (m, chain) in chains.iter_mut().enumerate().take(rows) {
                        *chain = math::load::<S>(out.add(m * out_stride + p * PANEL), lanes(p));
                    }
                }
            }
            let chains = C::go_on::<S, P, M>(chains, &self.0);
            for (p, chains) in chains.iter().enumerate() {
                let n = lanes(p);
                for (m, &chain) in chains.iter().enumerate().take(rows) {
                    let sum = if bias.is_null() {
                        chain
                    } else {
                        S::add(chain, math::load::<S>(bias.add(p * PANEL), n))
                    };
                    math::store::<S>(out.add(m * out_stride + p * PANEL), n, sum);
                }
            }
        }
    }
}

/// Multiply-adds in f32 of elements `W` and an x that lies as `X` says.
#[derive(Clone, Copy)]
pub(super) struct Widened<W, X>(PhantomData<(W, X)>);

impl<W: Element, X: Source> Chain for Widened<W, X> {
    const STEP: usize = 8;

    /// The array that the loop works on is one that is never indexed by a variable, or it would not stay in registers:
    /// hence the copies at both ends.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "the indices are those of the formula")]
    unsafe fn go_on<S: Simd, const P: usize, const M: usize>(
        start: [[S::V; M]; P],
        operands: &Operands,
    ) -> [[S::V; M]; P] {
        let Operands { panels, panel_bytes, cols, ahead, next, x, .. } = *operands;
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [[S::splat(0.0); M]; P];
            for p in 0..P {
                for m in 0..M {
                    acc[p][m] = start[p][m];
                }
            }
            for pair in 0..cols / 2 {
                if const { M > SPREAD } && pair % (Self::STEP / 2) == 0 {
                    next.ask::<S, P>(pair / (Self::STEP / 2));
                }
                let mut w = [[S::splat(0.0); 2]; P];
                for p in 0..P {
                    let place = panels.add(p * panel_bytes + pair * W::PAIR_BYTES);
                    w[p] = W::load_pair::<S>(place);
                    if const { M <= STREAMED } {
                        for line in (0..W::PAIR_BYTES).step_by(64) {
                            S::prefetch(place.wrapping_add(ahead + line));
                        }
                    }
                }
                for i in 0..2 {
                    for m in 0..M {
                        let x = S::splat(*x.add(X::at::<M>(2 * pair + i, m)));
                        for p in 0..P {
                            acc[p][m] = S::fma(w[p][i], x, acc[p][m]);
                        }
                    }
                }
            }
            if cols % 2 == 1 {
                for p in 0..P {
                    let w = W::load_last::<S>(panels.add(p * panel_bytes + cols / 2 * W::PAIR_BYTES));
                    for m in 0..M {
                        let x = S::splat(*x.add(X::at::<M>(cols - 1, m)));
                        acc[p][m] = S::fma(w, x, acc[p][m]);
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

/// [`multiply_by`] in f32, two panels at a time, with a matrix of a dtype that is not quantized.
///
/// # Safety
/// As [`multiply_by`].
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, X: Source>(dtype: WeightDtype, tile: usize, operands: Operands) {
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            WeightDtype::F32 => multiply_by::<S, Widened<F32, X>, 2>(tile, operands),
            WeightDtype::F16 => multiply_by::<S, Widened<F16, X>, 2>(tile, operands),
            WeightDtype::Bf16 => multiply_by::<S, Widened<Bf16, X>, 2>(tile, operands),
            WeightDtype::Q8 | WeightDtype::Q4 | WeightDtype::Q4A => {
                unreachable!("quantized panels are widened before they are multiplied in f32")
            }
        }
    }
}

/// Multiplies all panels of `width` with all rows of a tile of `tile` rows (one of [`tile_rows`]), `P` panels at a time
/// where the instruction set has the registers.
///
/// # Safety
/// The instruction set of `S` is available; `operands` are valid for their sizes, `x` for `tile` rows.
#[inline(always)]
pub(super) unsafe fn multiply_by<S: Simd, C: Chain, const P: usize>(tile: usize, operands: Operands) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile {
            1 => multiply_rows::<S, C, P, 1>(operands),
            2 => multiply_rows::<S, C, P, 2>(operands),
            3 if const { S::TILE_TOKENS >= 3 } => multiply_rows::<S, C, P, 3>(operands),
            4 if const { S::TILE_TOKENS >= 4 } => multiply_rows::<S, C, P, 4>(operands),
            6 if const { S::TILE_TOKENS >= 6 } => multiply_rows::<S, C, P, 6>(operands),
            8 if const { S::TILE_TOKENS >= 8 } => multiply_rows::<S, C, P, 8>(operands),
            12 if const { S::TILE_TOKENS >= 12 && P > 1 } => multiply_rows::<S, C, P, 12>(operands),
            _ => unreachable!("tiles have one of the sizes of `tile_rows`"),
        }
    }
}

#[inline(always)]
unsafe fn multiply_rows<S: Simd, C: Chain, const P: usize, const M: usize>(mut operands: Operands) {
    // SAFETY: the caller's promise; each step moves by whole panels inside `width`.
    unsafe {
        if const { P == 2 && S::TILE_PANELS == 2 } {
            while operands.width > PANEL {
                S::call(Tile::<C, 2, M>(operands, PhantomData));
                if operands.width <= 2 * PANEL {
                    return;
                }
                operands = operands.skip(2);
            }
        }
        loop {
            S::call(Tile::<C, 1, M>(operands, PhantomData));
            if operands.width <= PANEL {
                return;
            }
            operands = operands.skip(1);
        }
    }
}

impl Operands {
    /// Without the first `panels` panels, which must not be all.
    #[inline(always)]
    fn skip(self, panels: usize) -> Self {
        let elements = panels * PANEL;
        Self {
            panels: self.panels.wrapping_add(panels * self.panel_bytes),
            out: self.out.wrapping_add(elements),
            width: self.width - elements,
            bias: if self.bias.is_null() { self.bias } else { self.bias.wrapping_add(elements) },
            ..self
        }
    }
}

/// Rows of the next tile, when `left` rows are left and tiles have at most `most`: the smallest size that takes all,
/// else the largest.
#[inline(always)]
pub(super) fn tile_rows(left: usize, most: usize) -> usize {
    [1, 2, 3, 4, 6, 8, 12].into_iter().find(|&size| size >= left || size >= most).unwrap_or(12)
}

/// Writes `rows` rows of `cols` elements as a tile `[cols][tile]`; rows past the end are zeros.
///
/// # Safety
/// `row(m)` is valid for `cols` elements for every `m` below `rows`, and `out` for `tile · cols`.
#[inline(always)]
pub(super) unsafe fn pack(
    row: impl Fn(usize) -> *const f32,
    rows: usize,
    cols: usize,
    tile: usize,
    out: *mut f32,
) {
    // A few columns at a time, so that what is written stays in the first cache until all rows have been there.
    for start in (0..cols).step_by(32) {
        let end = cols.min(start + 32);
        for m in 0..tile {
            if m < rows {
                let row = row(m);
                // SAFETY: the caller's promise.
                (start..end).for_each(|k| unsafe { *out.add(k * tile + m) = *row.add(k) });
            } else {
                // SAFETY: as above.
                (start..end).for_each(|k| unsafe { *out.add(k * tile + m) = 0.0 });
            }
        }
    }
}
