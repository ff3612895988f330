//! The one inner loop of all matrix products: a few weight panels times a few rows of x.
//!
//! Each output element is a single chain of multiply-adds over the columns in order, in a register. Which tile an
//! element falls into, and with what beside it, changes nothing about its bits: linear layers of one token and of many
//! agree, and so does attention.

use std::marker::PhantomData;

use llamac_plan::layout::{PANEL, WeightDtype};

use super::math;
use super::simd::{Kernel, Simd};

/// Rows up to which panels are expected to come from memory, and are asked for ahead.
const STREAMED: usize = 8;

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

/// `P` panels times `M` rows.
struct Tile<W, X, const P: usize, const M: usize>(Operands, PhantomData<(W, X)>);

impl<W: Element, X: Source, const P: usize, const M: usize> Kernel for Tile<W, X, P, M> {
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
            let chains = chain::<S, W, X, P, M>(chains, &self.0);
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

/// Goes on with the chains of a tile.
///
/// The array that the loop works on is one that is never indexed by a variable, or it would not stay in registers:
/// hence the copies at both ends.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "the indices are those of the formula")]
unsafe fn chain<S: Simd, W: Element, X: Source, const P: usize, const M: usize>(
    start: [[S::V; M]; P],
    operands: &Operands,
) -> [[S::V; M]; P] {
    let Operands { panels, panel_bytes, cols, ahead, x, .. } = *operands;
    // SAFETY: as for the tile.
    unsafe {
        let mut acc = [[S::splat(0.0); M]; P];
        for p in 0..P {
            for m in 0..M {
                acc[p][m] = start[p][m];
            }
        }
        for pair in 0..cols / 2 {
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

/// Multiplies all panels of `width` with all rows of a tile of `tile` rows (one of [`tile_rows`]).
///
/// # Safety
/// The instruction set of `S` is available; `operands` are valid for their sizes, `x` for `tile` rows.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, X: Source>(dtype: WeightDtype, tile: usize, operands: Operands) {
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            WeightDtype::F32 => multiply_dtype::<S, F32, X>(tile, operands),
            WeightDtype::F16 => multiply_dtype::<S, F16, X>(tile, operands),
            WeightDtype::Bf16 => multiply_dtype::<S, Bf16, X>(tile, operands),
        }
    }
}

#[inline(always)]
unsafe fn multiply_dtype<S: Simd, W: Element, X: Source>(tile: usize, operands: Operands) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile {
            1 => multiply_rows::<S, W, X, 1>(operands),
            2 => multiply_rows::<S, W, X, 2>(operands),
            3 if const { S::TILE_TOKENS >= 3 } => multiply_rows::<S, W, X, 3>(operands),
            4 if const { S::TILE_TOKENS >= 4 } => multiply_rows::<S, W, X, 4>(operands),
            6 if const { S::TILE_TOKENS >= 6 } => multiply_rows::<S, W, X, 6>(operands),
            8 if const { S::TILE_TOKENS >= 8 } => multiply_rows::<S, W, X, 8>(operands),
            12 if const { S::TILE_TOKENS >= 12 } => multiply_rows::<S, W, X, 12>(operands),
            _ => unreachable!("tiles have one of the sizes of `tile_rows`"),
        }
    }
}

#[inline(always)]
unsafe fn multiply_rows<S: Simd, W: Element, X: Source, const M: usize>(mut operands: Operands) {
    // SAFETY: the caller's promise; each step moves by whole panels inside `width`.
    unsafe {
        if const { S::TILE_PANELS == 2 } {
            while operands.width > PANEL {
                S::call(Tile::<W, X, 2, M>(operands, PhantomData));
                if operands.width <= 2 * PANEL {
                    return;
                }
                operands = operands.skip(2);
            }
        }
        loop {
            S::call(Tile::<W, X, 1, M>(operands, PhantomData));
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

/// Some columns of a panel, widened: `[cols][16]` f32.
struct Widen<W> {
    panel: *const u8,
    cols: usize,
    out: *mut f32,
    element: PhantomData<W>,
}

impl<W: Element> Kernel for Widen<W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { panel, cols, out, .. } = self;
        // SAFETY: `widen`'s caller promises that panel and result are valid for the columns.
        unsafe {
            for pair in 0..cols / 2 {
                let [first, second] = W::load_pair::<S>(panel.add(pair * W::PAIR_BYTES));
                S::store(out.add(2 * pair * PANEL), first);
                S::store(out.add((2 * pair + 1) * PANEL), second);
            }
            if cols % 2 == 1 {
                let last = W::load_last::<S>(panel.add(cols / 2 * W::PAIR_BYTES));
                S::store(out.add((cols - 1) * PANEL), last);
            }
        }
    }
}

/// Writes the next `cols` columns of a panel as `[cols][16]` f32.
///
/// # Safety
/// The instruction set of `S` is available; `panel` and `out` are valid for the columns.
#[inline(always)]
pub(super) unsafe fn widen<S: Simd>(dtype: WeightDtype, panel: *const u8, cols: usize, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            WeightDtype::F32 => S::call(Widen::<F32> { panel, cols, out, element: PhantomData }),
            WeightDtype::F16 => S::call(Widen::<F16> { panel, cols, out, element: PhantomData }),
            WeightDtype::Bf16 => S::call(Widen::<Bf16> { panel, cols, out, element: PhantomData }),
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
