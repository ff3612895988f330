//! Linear layers.
//!
//! One token streams each weight once and is bound by memory; many are bound by arithmetic. Both go through the same
//! chains, so that a token's result does not depend on its company.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use llamac_plan::Arithmetic;
use llamac_plan::layout::{PANEL, WeightDtype};

use super::activations::{Pack, Precision};
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::bf16::Bf16Pairs;
use super::codes::{Coded, Q4, Q4A, Q8};
#[cfg(target_arch = "x86_64")]
use super::isa::Isa;
use super::scratch::Scratch;
use super::simd::{Kernel, Simd};
use super::tile::{self, Bf16, Chain, F16, F32, Operands, Packed, STREAMED, Widened};
use super::views::{SendConst, SendMut};
use super::widen;
use super::{Context, Matrix, Rows, RowsMut};

/// Tokens that are packed at a time; bounds the scratch memory to this many rows of x.
const BLOCK: usize = 256;

/// Columns that panels are widened and multiplied by for all tokens before the next columns' turn, so that two panels
/// stay in the first cache and the tokens in the second; whole groups.
const DEPTH: usize = 256;

/// Bytes of a panel as it is stored that panels are multiplied by at a time: two stay in the second cache.
const STORED_BYTES: usize = 192 << 10;

/// Bytes of weights that are asked for ahead of their use when they come straight from memory.
const AHEAD: usize = 4096;

/// Bytes of weights that are worth a task of their own.
const TASK_BYTES: usize = 64 << 10;

/// Panels of a task for many tokens: each time the tokens come from the second cache rather than the third.
const TASK_PANELS: usize = 32;

/// Tasks a thread that a stream of weights is cut into, so that a thread that is held up can be helped out.
const TASKS_A_THREAD: usize = 8;

/// `out = x · wᵀ + bias`: x `[tokens, cols]`, w `[rows, cols]`, bias `[rows]`, out `[tokens, rows]`.
///
/// # Panics
/// If the shapes do not fit together, or integers are asked for with a matrix that is not quantized.
pub fn linear(
    context: &Context,
    arithmetic: Arithmetic,
    x: Rows<'_>,
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    out: RowsMut<'_>,
) {
    let layout = *weight.layout();
    assert!(x.width() == layout.cols && out.width() == layout.rows, "{x:?} · {weight:?}ᵀ → {out:?}");
    assert!(x.len() == out.len(), "{x:?} and {out:?} have the same rows");
    assert!(bias.is_none_or(|bias| bias.len() == layout.rows), "a bias for each output");
    if layout.rows == 0 {
        return;
    }
    let precision = match arithmetic {
        Arithmetic::F32 => Precision::F32,
        Arithmetic::Bf16 => Precision::Bf16,
        Arithmetic::Int8 => {
            assert!(layout.dtype.is_quantized(), "{weight:?} has no codes");
            Precision::Codes(layout.dtype)
        }
    };
    #[cfg(target_arch = "x86_64")]
    if context.isa() == Isa::Amx && amx::multiplies(precision, x.len()) {
        return amx::linear(context, precision, x, weight, bias, out);
    }
    let (numbers, codes) = context.isa().tile_tokens();
    let most = if arithmetic == Arithmetic::Int8 { codes } else { numbers };
    let streamed = numbers.min(STREAMED);
    let blocks = x.len().div_ceil(BLOCK).max(1);
    let block = x.len().div_ceil(blocks).next_multiple_of(most);
    // As many tiles as there must be, of about one size.
    let tiles = x.len().min(block).div_ceil(most).max(1);
    let most = tile::tile_rows(x.len().min(block).div_ceil(tiles), most);
    let mut first = 0;
    while first < x.len() {
        let tokens = first..x.len().min(first + block);
        let is_streamed = tokens.len() <= streamed;
        let most = if is_streamed { streamed } else { most };
        let part = Part { precision, x, weight, bias, out: &out, tokens: tokens.clone(), most, is_streamed };
        if tokens.len() == 1 && precision == Precision::F32 {
            part.multiply(context, x.pointer(first));
        } else {
            let mut scratch = context.packed();
            let rows = tokens.len().next_multiple_of(most);
            let packed = scratch.get(rows * precision.row_elements(layout.cols)).as_mut_ptr();
            part.pack(context, packed);
            part.multiply(context, packed);
        }
        first = tokens.end;
    }
}

/// A linear layer of some tokens.
struct Part<'a> {
    precision: Precision,
    x: Rows<'a>,
    weight: Matrix<'a>,
    bias: Option<&'a [f32]>,
    out: &'a RowsMut<'a>,
    tokens: Range<usize>,
    /// Tokens of a full tile.
    most: usize,
    /// Whether one tile has all tokens and panels come straight from memory.
    is_streamed: bool,
}

impl Part<'_> {
    /// Packs the tokens' tiles one after another.
    fn pack(&self, context: &Context, packed: *mut f32) {
        let cols = self.weight.layout().cols;
        let row_elements = self.precision.row_elements(cols);
        let packed = SendMut(packed);
        context.pool().run(self.tokens.len().div_ceil(self.most), &|task, _| {
            let first = task * self.most;
            let rows = self.most.min(self.tokens.len() - first);
            let pack = Pack {
                precision: self.precision,
                row: |m| self.x.pointer(self.tokens.start + first + m),
                rows,
                cols,
                tile: tile::tile_rows(rows, self.most),
                out: packed.get().wrapping_add(first * row_elements),
            };
            // SAFETY: the context's instruction set is available. Tasks write disjoint tiles of the scratch memory,
            // which has room for all of them.
            unsafe { context.isa().dispatch(pack) };
        });
    }

    /// All panels times all tokens, in parallel over panels.
    fn multiply(&self, context: &Context, packed: *const f32) {
        let layout = self.weight.layout();
        let tasks = context.threads() * TASKS_A_THREAD;
        let panels = layout.panels().div_ceil(tasks);
        let panels = if self.is_streamed {
            panels.max(TASK_BYTES / layout.panel_bytes().max(1))
        } else {
            panels.min(TASK_PANELS)
        };
        // An even number, because tiles take two.
        let panels = panels.next_multiple_of(2).max(2);
        let packed = SendConst(packed);
        context.pool().run(layout.panels().div_ceil(panels), &|task, worker| {
            let panels = task * panels..layout.panels().min((task + 1) * panels);
            let scratch = context.worker_scratch(worker);
            // SAFETY: the context's instruction set is available; `panels` are inside the matrix, and the packed
            // tokens were made for this part. Tasks write disjoint columns.
            unsafe { context.isa().dispatch(Panels { part: self, packed: packed.get(), panels, scratch }) };
        });
    }
}

/// Some panels times all tokens of a part.
struct Panels<'a> {
    part: &'a Part<'a>,
    packed: *const f32,
    panels: Range<usize>,
    scratch: &'a Mutex<Scratch>,
}

impl Kernel for Panels<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dtype = self.part.weight.layout().dtype;
        // SAFETY: the caller's promise.
        unsafe {
            match self.part.precision {
                Precision::F32 => match dtype {
                    WeightDtype::F32 => self.stored::<S, Widened<F32, Packed>>(),
                    WeightDtype::F16 if self.part.is_streamed => self.stream::<S, Widened<F16, Packed>>(),
                    WeightDtype::Bf16 if self.part.is_streamed => self.stream::<S, Widened<Bf16, Packed>>(),
                    _ => self.widened::<S>(),
                },
                Precision::Bf16 => match dtype {
                    WeightDtype::Bf16 => self.stored::<S, Bf16Pairs>(),
                    _ => self.rounded::<S>(),
                },
                Precision::Codes(WeightDtype::Q8) => self.stored::<S, Coded<Q8>>(),
                Precision::Codes(WeightDtype::Q4) => self.stored::<S, Coded<Q4>>(),
                Precision::Codes(_) => self.stored::<S, Coded<Q4A>>(),
            }
        }
    }
}

/// # Safety (of every function)
/// The instruction set of `S` is available; the panels are inside the matrix, and x is packed for the part.
impl Panels<'_> {
    /// Panels as they are stored, few tokens.
    #[inline(always)]
    unsafe fn stream<S: Simd, C: Chain>(&self) {
        let operands = self.operands(self.panels.start, self.panels.len(), 0..self.cols());
        let tile = tile::tile_rows(self.part.tokens.len(), self.part.most);
        // SAFETY: the panels are inside the matrix, whose size was checked, and the result inside `out`.
        unsafe { tile::multiply_by::<S, C, 1>(tile, operands) };
    }

    /// Panels as they are stored, any number of tokens: two panels stay in the second cache for all of them.
    #[inline(always)]
    unsafe fn stored<S: Simd, C: Chain>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.part.is_streamed {
                return self.stream::<S, C>();
            }
            let layout = self.part.weight.layout();
            let panel_bytes = layout.panel_bytes();
            for start in (0..layout.cols.max(1)).step_by(self.stored_depth()) {
                let end = layout.cols.min(start + self.stored_depth());
                let skipped = start * panel_bytes / layout.padded_cols().max(1);
                let share = (end - start) * panel_bytes / layout.padded_cols().max(1);
                for panel in self.panels.clone().step_by(S::TILE_PANELS) {
                    let count = S::TILE_PANELS.min(self.panels.end - panel);
                    let mut operands = self.operands(panel, count, start..end);
                    operands.panels = operands.panels.wrapping_add(skipped);
                    let next = operands.panels.wrapping_add(count * panel_bytes);
                    let prefetch = self.prefetch::<S>(next, count * share, share.max(1));
                    // SAFETY: as above.
                    self.multiply_tokens::<S, C>(operands, start, prefetch);
                }
            }
        }
    }

    /// Columns of stored panels to multiply by at a time: all of codes, which are small and lie in groups.
    fn stored_depth(&self) -> usize {
        let layout = self.part.weight.layout();
        match layout.dtype.is_quantized() {
            true => layout.padded_cols().max(1),
            false => STORED_BYTES / (PANEL * layout.dtype.size()),
        }
    }

    /// Panels widened to f32, some columns at a time: once for all tokens, and for all dtypes laid where lines do not
    /// compete for a place in the first cache.
    #[inline(always)]
    unsafe fn widened<S: Simd>(&self) {
        let layout = self.part.weight.layout();
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let wide = scratch.get(S::TILE_PANELS * DEPTH * PANEL).as_mut_ptr();
        // SAFETY: the caller's promise; the scratch memory has room for the columns of the panels.
        unsafe {
            self.by_depth::<S, Widened<F32, Packed>>(
                DEPTH,
                wide,
                DEPTH * PANEL * 4,
                |panel, first, cols, out| {
                    widen::widen::<S>(layout.dtype, panel, first, cols, out);
                },
            );
        }
    }

    /// Panels rounded to bf16, some columns at a time.
    #[inline(always)]
    unsafe fn rounded<S: Simd>(&self) {
        let layout = self.part.weight.layout();
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = S::TILE_PANELS * DEPTH * PANEL / 2;
        let rounded = scratch.get(pairs + (DEPTH + 1) * PANEL).as_mut_ptr();
        let wide = rounded.wrapping_add(pairs);
        // SAFETY: as above.
        unsafe {
            self.by_depth::<S, Bf16Pairs>(DEPTH, rounded, DEPTH * PANEL * 2, |panel, first, cols, out| {
                widen::to_pairs::<S>(layout.dtype, panel, first, cols, wide, out.cast());
            });
        }
    }

    /// Panels through `out`, where `convert` puts `depth` columns of each at a time, `bytes` a panel.
    #[inline(always)]
    unsafe fn by_depth<S: Simd, C: Chain>(
        &self,
        depth: usize,
        out: *mut f32,
        bytes: usize,
        convert: impl Fn(*const u8, usize, usize, *mut f32),
    ) {
        let layout = self.part.weight.layout();
        let panel_bytes = layout.panel_bytes();
        // Once without columns, for a matrix that has none.
        for start in (0..layout.cols.max(1)).step_by(depth) {
            let cols = depth.min(layout.cols - start);
            for panel in self.panels.clone().step_by(S::TILE_PANELS) {
                let count = S::TILE_PANELS.min(self.panels.end - panel);
                let mut operands = self.operands(panel, count, start..start + cols);
                for i in 0..count {
                    let place = (panel + i) * panel_bytes;
                    let out = out.wrapping_add(i * bytes / 4);
                    convert(self.part.weight.data()[place..].as_ptr(), start, cols, out);
                }
                // Columns take about as much room in every panel.
                let share = panel_bytes * cols / layout.cols.max(1);
                let next = (panel + count) * panel_bytes + panel_bytes * start / layout.cols.max(1);
                let next = self.part.weight.data().as_ptr().wrapping_add(next);
                let prefetch = self.prefetch::<S>(next, count * share, share.max(1));
                (operands.panels, operands.panel_bytes) = (out.cast(), bytes);
                // SAFETY: the caller's promise; `out` holds the panels' columns.
                unsafe { self.multiply_tokens::<S, C>(operands, start, prefetch) };
            }
        }
    }

    /// Asks, tile by tile, for `bytes` of the panels from `next` on: `share` bytes of each.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, next: *const u8, bytes: usize, share: usize) -> impl Fn(usize) {
        let tiles = self.part.tokens.len().div_ceil(self.part.most);
        let lines = (bytes / 64).div_ceil(tiles);
        let panel_bytes = self.part.weight.layout().panel_bytes();
        move |tile: usize| {
            for line in tile * lines..(tile + 1) * lines {
                let (panel, place) = (line * 64 / share, line * 64 % share);
                S::prefetch(next.wrapping_add(panel * panel_bytes + place));
            }
        }
    }

    fn cols(&self) -> usize {
        self.part.weight.layout().cols
    }

    /// The operands of the first token, `count` panels from `panel` on, and some columns; panels that are stored begin
    /// with the first column.
    #[inline(always)]
    fn operands(&self, panel: usize, count: usize, cols: Range<usize>) -> Operands {
        let part = self.part;
        let layout = part.weight.layout();
        let first = panel * PANEL;
        Operands {
            panels: part.weight.data().as_ptr().wrapping_add(panel * layout.panel_bytes()),
            panel_bytes: layout.panel_bytes(),
            cols: cols.len(),
            ahead: AHEAD,
            x: self.packed,
            out: part.out.pointer(part.tokens.start).wrapping_add(first),
            out_stride: part.out.stride(),
            rows: part.tokens.len(),
            width: layout.rows.min((panel + count) * PANEL) - first,
            bias: match part.bias {
                Some(bias) if cols.end == layout.cols => bias[first..].as_ptr(),
                _ => std::ptr::null(),
            },
            resume: cols.start > 0,
        }
    }

    /// Tile after tile of tokens, from column `start` on, given the operands of the first.
    #[inline(always)]
    unsafe fn multiply_tokens<S: Simd, C: Chain>(
        &self,
        operands: Operands,
        start: usize,
        prefetch: impl Fn(usize),
    ) {
        let Part { ref tokens, most, precision, .. } = *self.part;
        let (row_elements, skipped) = (precision.row_elements(self.cols()), precision.row_elements(start));
        for (tile, first) in (0..tokens.len()).step_by(most).enumerate() {
            let rows = tokens.len().min(first + most) - first;
            let tile_rows = tile::tile_rows(rows, most);
            prefetch(tile);
            let operands = Operands {
                x: self.packed.wrapping_add(first * row_elements + skipped * tile_rows),
                out: operands.out.wrapping_add(first * operands.out_stride),
                rows,
                ..operands
            };
            // SAFETY: the caller's promise.
            unsafe { tile::multiply_by::<S, C, 2>(tile_rows, operands) };
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use llamac_plan::Compute;
    use llamac_plan::layout::WeightDtype::{self, Bf16, F16, F32, Q4, Q4A, Q8};
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::testing::{self, assert_close, bits, contexts, numbers};

    /// Every dtype with every arithmetic that there is for it.
    const ALL: [(WeightDtype, Arithmetic); 15] = [
        (F32, Arithmetic::F32),
        (F16, Arithmetic::F32),
        (Bf16, Arithmetic::F32),
        (Q8, Arithmetic::F32),
        (Q4, Arithmetic::F32),
        (Q4A, Arithmetic::F32),
        (F32, Arithmetic::Bf16),
        (F16, Arithmetic::Bf16),
        (Bf16, Arithmetic::Bf16),
        (Q8, Arithmetic::Bf16),
        (Q4, Arithmetic::Bf16),
        (Q4A, Arithmetic::Bf16),
        (Q8, Arithmetic::Int8),
        (Q4, Arithmetic::Int8),
        (Q4A, Arithmetic::Int8),
    ];

    fn round_to_bf16(x: &[f32]) -> Vec<f32> {
        x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
    }

    /// What is left of a row of activations after they were quantized.
    fn quantized(row: &[f32]) -> Vec<f32> {
        let block = |block: &[f32]| -> Vec<f32> {
            let largest = block.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
            let codes = block.iter().map(|x| (x * (127.0 / largest)).round_ties_even());
            codes.map(|code| if largest == 0.0 { 0.0 } else { code * (largest / 127.0) }).collect()
        };
        row.chunks(32).flat_map(block).collect()
    }

    /// The product in double precision of what the arithmetic makes of both sides.
    fn product(arithmetic: Arithmetic, x: &[f32], w: &testing::Packed, bias: Option<&[f32]>) -> Vec<f64> {
        let (rows, cols) = (w.layout.rows, w.layout.cols);
        let (x, w) = match arithmetic {
            Arithmetic::F32 => (x.to_vec(), w.elements.clone()),
            Arithmetic::Bf16 => (round_to_bf16(x), round_to_bf16(&w.elements)),
            Arithmetic::Int8 => (x.chunks(cols).flat_map(quantized).collect(), w.elements.clone()),
        };
        let mut out = Vec::new();
        for t in 0..x.len() / cols {
            for row in 0..rows {
                let terms = (0..cols).map(|k| f64::from(x[t * cols + k]) * f64::from(w[row * cols + k]));
                out.push(terms.sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[row])));
            }
        }
        out
    }

    fn run(
        context: &Context,
        arithmetic: Arithmetic,
        x: &[f32],
        w: &testing::Packed,
        bias: Option<&[f32]>,
    ) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len() / w.layout.cols * w.layout.rows];
        let (x, rows) = (Rows::new(x, w.layout.cols), RowsMut::new(&mut out, w.layout.rows));
        linear(context, arithmetic, x, Matrix::new(w.layout, &w.bytes), bias, rows);
        out
    }

    fn check(
        (dtype, arithmetic): (WeightDtype, Arithmetic),
        tokens: usize,
        rows: usize,
        cols: usize,
        with_bias: bool,
    ) {
        let (x, w) = (numbers(1, tokens * cols), testing::matrix(2, dtype, rows, cols));
        let bias = numbers(3, rows);
        let bias = with_bias.then_some(&bias[..]);
        let expected = product(arithmetic, &x, &w, bias);
        for context in contexts() {
            let what = format!("{context:?} {dtype:?} {arithmetic:?} {tokens} × {cols} × {rows}");
            let together = run(&context, arithmetic, &x, &w, bias);
            assert_close(&together, &expected, &what);
            for (token, x) in x.chunks(cols).enumerate().step_by(5) {
                let alone = run(&context, arithmetic, x, &w, bias);
                assert_eq!(
                    bits(&alone),
                    bits(&together[token * rows..(token + 1) * rows]),
                    "{what}, token {token}"
                );
            }
        }
    }

    #[test]
    fn odd_sizes_are_the_product_and_the_same_bits_alone() {
        for how in ALL {
            for (rows, cols) in [(1, 1), (15, 7), (16, 60), (17, 100), (515, 33), (40, 515)] {
                for tokens in [1, 2, 7, 13, 65] {
                    check(how, tokens, rows, cols, tokens % 2 == 1);
                }
            }
        }
    }

    #[test]
    fn any_number_of_tokens_that_tiles_can_have() {
        for how in ALL {
            for tokens in 1..=26 {
                check(how, tokens, 50, 130, false);
            }
        }
    }

    #[test]
    fn a_long_prompt_is_cut_into_blocks() {
        check((F32, Arithmetic::F32), 600, 35, 8, true);
        check((Bf16, Arithmetic::Bf16), 257, 33, 9, false);
        check((Q4A, Arithmetic::Int8), 300, 33, 200, false);
    }

    /// Terms that cancel, and factors at both ends of what numbers can be.
    #[test]
    fn extreme_numbers_are_multiplied_like_others() {
        let (tokens, rows, cols) = (13, 19, 96);
        for how @ (dtype, arithmetic) in ALL {
            // A block of scales at the ends of half precision; where weights are small, activations are large.
            for (w_unit, x_unit) in [(6e-5, 1e30), (3e4, 1e-25), (1.0, 1e36), (4e-7, 1e3), (1.0, 1e-30)] {
                if dtype == F16 && w_unit < 1e-5 {
                    continue;
                }
                let scaled =
                    |numbers: Vec<f32>, unit: f32| numbers.iter().map(|x| x * unit).collect::<Vec<_>>();
                let x = scaled(numbers(1, tokens * cols), x_unit);
                let w = testing::packed(dtype, rows, cols, &scaled(numbers(2, rows * cols), w_unit));
                let expected = product(arithmetic, &x, &w, None);
                for context in contexts() {
                    let what = format!("{context:?} {how:?} {w_unit} · {x_unit}");
                    assert_close(&run(&context, arithmetic, &x, &w, None), &expected, &what);
                }
            }
        }
    }

    /// An infinite activation, or one that is no number, spoils its own row and no other.
    #[test]
    fn what_is_not_finite_stays_in_its_row() {
        let (rows, cols) = (17, 70);
        for how @ (dtype, arithmetic) in ALL {
            let w = testing::matrix(2, dtype, rows, cols);
            for tokens in [2, 13] {
                for special in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                    let clean = numbers(1, tokens * cols);
                    let mut x = clean.clone();
                    x[cols + 40] = special;
                    for context in contexts() {
                        let found = run(&context, arithmetic, &x, &w, None);
                        let expected = run(&context, arithmetic, &clean, &w, None);
                        for (token, (found, expected)) in
                            found.chunks(rows).zip(expected.chunks(rows)).enumerate()
                        {
                            if token == 1 {
                                // An infinity times a weight of zero is none.
                                assert!(
                                    found.iter().all(|x| !x.is_finite()),
                                    "{context:?} {how:?} {found:?}"
                                );
                            } else {
                                assert_eq!(bits(found), bits(expected), "{context:?} {how:?}");
                            }
                        }
                    }
                }
            }
        }
    }

    /// Weights and activations so small that they are subnormal: products may be taken for zeros, but nothing else.
    #[test]
    fn subnormal_numbers_are_small() {
        let (rows, cols) = (16, 64);
        for (dtype, arithmetic) in ALL {
            let tiny = vec![f32::from_bits(1000); cols];
            let w = testing::packed(dtype, rows, cols, &vec![1.0; rows * cols]);
            for context in contexts() {
                for x in run(&context, arithmetic, &tiny, &w, None) {
                    assert!(
                        (0.0..=2.0 * 64.0 * f32::from_bits(1000)).contains(&x),
                        "{context:?} {arithmetic:?} {x}"
                    );
                }
            }
            let w = testing::packed(dtype, rows, cols, &vec![1e-40; rows * cols]);
            for context in contexts() {
                for x in run(&context, arithmetic, &vec![1.0; cols], &w, None) {
                    assert!((0.0..=6.5e-39).contains(&x), "{context:?} {dtype:?} {arithmetic:?} {x}");
                }
            }
        }
    }

    /// Sums of integers are exact, so that only the multiply-adds of scales can differ.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn instruction_sets_agree_on_codes() {
        let fused: Vec<Isa> = Isa::available().filter(|isa| *isa != Isa::Scalar).collect();
        for dtype in [Q8, Q4, Q4A] {
            let (x, w) = (numbers(1, 14 * 300), testing::matrix(2, dtype, 70, 300));
            let result =
                |isa: &Isa| bits(&run(&Context::with_isa(1, *isa).unwrap(), Arithmetic::Int8, &x, &w, None));
            assert!(fused.windows(2).all(|pair| result(&pair[0]) == result(&pair[1])), "{dtype:?}");
        }
    }

    /// The largest codes everywhere: sums of two products of bytes would saturate.
    #[test]
    fn the_largest_codes_do_not_saturate() {
        for dtype in [Q8, Q4, Q4A] {
            let layout = llamac_plan::layout::MatrixLayout { dtype, rows: 16, cols: 64 };
            let mut bytes = vec![0xff; layout.bytes().unwrap()];
            for block in 0..2 {
                for row in 0..16 {
                    let place = layout.scale(row, block);
                    bytes[place..place + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
                    if dtype == Q4A {
                        bytes[layout.zero(row, block)] = 255;
                    }
                }
            }
            let value = match dtype {
                Q8 => 127.0,
                Q4 => 7.0,
                _ => -240.0,
            };
            for context in contexts() {
                for x in [127.0, -127.0] {
                    let mut out = vec![f32::NAN; 16];
                    let (row, rows) = (vec![x; 64], RowsMut::new(&mut out, 16));
                    let matrix = Matrix::new(layout, &bytes);
                    linear(&context, Arithmetic::Int8, Rows::new(&row, 64), matrix, None, rows);
                    assert_eq!(out, [64.0 * x * value; 16], "{context:?} {dtype:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_to_do_is_done() {
        for context in contexts() {
            let w = testing::matrix(1, F32, 4, 3);
            assert_eq!(run(&context, Arithmetic::F32, &[], &w, None), [0.0; 0]);
            for (dtype, arithmetic) in ALL {
                for tokens in [1, 2, 40] {
                    let (w, x) = (testing::matrix(1, dtype, 3, 0), vec![1.0; tokens]);
                    let mut out = vec![f32::NAN; tokens * 3];
                    let (x, rows) = (Rows::new(&x, 1).columns(0, 0), RowsMut::new(&mut out, 3));
                    let matrix = Matrix::new(w.layout, &w.bytes);
                    linear(&context, arithmetic, x, matrix, Some(&[1.0, 2.0, 3.0]), rows);
                    assert_eq!(out, [1.0, 2.0, 3.0].repeat(tokens));
                }
            }
        }
    }

    #[test]
    fn windows_of_wider_buffers_are_read_and_written_in_place() {
        for context in contexts() {
            for (dtype, arithmetic) in ALL {
                let w = testing::matrix(1, dtype, 5, 3);
                let x = numbers(2, 4 * 8);
                let mut out = vec![7.0; 4 * 9];
                let rows = RowsMut::new(&mut out, 9).columns(2, 5);
                let window = Rows::new(&x, 8).columns(4, 3);
                linear(&context, arithmetic, window, Matrix::new(w.layout, &w.bytes), None, rows);
                for t in 0..4 {
                    let alone = run(&context, arithmetic, &x[t * 8 + 4..t * 8 + 7], &w, None);
                    assert_eq!(out[t * 9 + 2..t * 9 + 7], alone);
                    assert_eq!((out[t * 9 + 1], out[t * 9 + 7]), (7.0, 7.0));
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        for isa in Isa::available() {
            for dtype in WeightDtype::ALL {
                let arithmetic = Compute::Auto.arithmetic(dtype);
                let (x, w) = (numbers(1, 14 * 300), testing::matrix(2, dtype, 900, 300));
                let results: Vec<_> = [1, 2, 3]
                    .map(|threads| {
                        bits(&run(&Context::with_isa(threads, isa).unwrap(), arithmetic, &x, &w, None))
                    })
                    .into_iter()
                    .collect();
                assert!(results[0] == results[1] && results[0] == results[2]);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_shape(
            tokens in 1_usize..30,
            rows in 1_usize..70,
            cols in 1_usize..200,
            how in prop::sample::select(&ALL[..]),
            bias: bool,
        ) {
            check(how, tokens, rows, cols, bias);
        }
    }
}
