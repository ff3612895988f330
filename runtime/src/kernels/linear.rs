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
use super::tasks::{Gate, Place, Tasks};
use super::tile::{self, Bf16, Chain, F16, F32, Next, Operands, Packed, STREAMED, Widened};
use super::views::{SendConst, SendMut};
use super::widen;
use super::{Context, Matrix, Rows, RowsMut};

/// Tokens that are packed at a time; bounds the scratch memory to this many rows of x.
const BLOCK: usize = 256;

/// Columns that panels are widened and multiplied by for all tokens before the next columns' turn, so that two panels
/// stay in the first cache and the tokens in the second; whole groups.
const DEPTH: usize = 256;

/// The most columns of numbers that stored panels are multiplied by at a time, so that two panels and the tokens stay in the
/// second cache.
const STORED_DEPTH: usize = 1024;

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
    assert!(out.width() == weight.layout().rows, "{weight:?} → {out:?}");
    multiply(context, arithmetic, x, weight, bias, &out, None);
}

/// As [`linear`], or as [`super::gated_linear`] of halves that are whole panels.
pub(super) fn multiply(
    context: &Context,
    arithmetic: Arithmetic,
    x: Rows<'_>,
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    out: &RowsMut<'_>,
    gate: Option<&Gate<'_>>,
) {
    let layout = *weight.layout();
    assert!(x.width() == layout.cols, "{x:?} · {weight:?}ᵀ");
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
        return amx::linear(context, precision, x, weight, bias, out, gate);
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
        let tasks = Tasks { weight, tokens: tokens.clone(), out, gate };
        let part = Part { precision, x, bias, tasks, most, is_streamed };
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
    bias: Option<&'a [f32]>,
    tasks: Tasks<'a>,
    /// Tokens of a full tile.
    most: usize,
    /// Whether one tile has all tokens and panels come straight from memory.
    is_streamed: bool,
}

impl Part<'_> {
    /// Packs the tokens' tiles one after another.
    fn pack(&self, context: &Context, packed: *mut f32) {
        let cols = self.tasks.weight.layout().cols;
        let row_elements = self.precision.row_elements(cols);
        let packed = SendMut(packed);
        context.pool().run(self.tasks.tokens.len().div_ceil(self.most), &|task, _| {
            let first = task * self.most;
            let rows = self.most.min(self.tasks.tokens.len() - first);
            let pack = Pack {
                precision: self.precision,
                row: |m| self.x.pointer(self.tasks.tokens.start + first + m),
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
        let layout = self.tasks.weight.layout();
        let panels = layout.panels().div_ceil(context.threads() * TASKS_A_THREAD);
        let panels = match self.is_streamed {
            true => panels.max(TASK_BYTES / layout.panel_bytes().max(1)),
            false => panels.min(TASK_PANELS),
        };
        let packed = SendConst(packed);
        self.tasks.run(context, panels, &|panels, worker, place| {
            let scratch = context.worker_scratch(worker);
            // SAFETY: the context's instruction set is available; `panels` are inside the matrix, and the packed
            // tokens were made for this part. Tasks write disjoint columns.
            unsafe {
                context.isa().dispatch(Panels { part: self, packed: packed.get(), panels, place, scratch });
            }
        });
    }
}

/// Some panels times all tokens of a part.
struct Panels<'a> {
    part: &'a Part<'a>,
    packed: *const f32,
    panels: Range<usize>,
    place: Place,
    scratch: &'a Mutex<Scratch>,
}

impl Kernel for Panels<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dtype = self.part.tasks.weight.layout().dtype;
        // SAFETY: the caller's promise.
        unsafe {
            match self.part.precision {
                Precision::F32 => match dtype {
                    WeightDtype::F32 => self.multiply_stored::<S, Widened<F32, Packed>>(),
                    WeightDtype::F16 if self.part.is_streamed => self.stream::<S, Widened<F16, Packed>>(),
                    WeightDtype::Bf16 if self.part.is_streamed => self.stream::<S, Widened<Bf16, Packed>>(),
                    _ => self.widened::<S>(),
                },
                Precision::Bf16 => match dtype {
                    WeightDtype::Bf16 => self.multiply_stored::<S, Bf16Pairs>(),
                    _ => self.rounded::<S>(),
                },
                Precision::Codes(WeightDtype::Q8) => self.multiply_stored::<S, Coded<Q8>>(),
                Precision::Codes(WeightDtype::Q4) => self.multiply_stored::<S, Coded<Q4>>(),
                Precision::Codes(_) => self.multiply_stored::<S, Coded<Q4A>>(),
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
        let tile = tile::tile_rows(self.part.tasks.tokens.len(), self.part.most);
        // SAFETY: the panels are inside the matrix, whose size was checked, and the result inside `out`.
        unsafe { tile::multiply_by::<S, C, 1>(tile, operands) };
    }

    /// Panels as they are stored, any number of tokens: two panels stay in the second cache for all of them.
    #[inline(always)]
    unsafe fn multiply_stored<S: Simd, C: Chain>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.part.is_streamed {
                return self.stream::<S, C>();
            }
            let layout = self.part.tasks.weight.layout();
            let column_bytes = self.part.tasks.weight.column_bytes();
            let depth = self.stored_depth();
            for start in (0..layout.cols.max(1)).step_by(depth) {
                let cols = start..layout.cols.min(start + depth);
                for panel in self.panels.clone().step_by(S::TILE_PANELS) {
                    let count = S::TILE_PANELS.min(self.panels.end - panel);
                    let mut operands = self.operands(panel, count, cols.clone());
                    operands.panels = operands.panels.wrapping_add(start * column_bytes);
                    self.multiply_tokens::<S, C>(operands, start, panel + count);
                }
            }
        }
    }

    /// Columns of stored panels to multiply by at a time: all of codes, which are small and lie in groups.
    fn stored_depth(&self) -> usize {
        let layout = self.part.tasks.weight.layout();
        match layout.dtype.is_quantized() {
            true => layout.padded_cols().max(1),
            false => {
                layout.cols.div_ceil(layout.cols.div_ceil(STORED_DEPTH).max(1)).next_multiple_of(2).max(2)
            }
        }
    }

    /// Panels widened to f32, some columns at a time: once for all tokens, and for all dtypes laid where lines do not
    /// compete for a place in the first cache.
    #[inline(always)]
    unsafe fn widened<S: Simd>(&self) {
        let layout = self.part.tasks.weight.layout();
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
        let layout = self.part.tasks.weight.layout();
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let rounded = scratch.get(S::TILE_PANELS * DEPTH * PANEL / 2).as_mut_ptr();
        // SAFETY: as above.
        unsafe {
            self.by_depth::<S, Bf16Pairs>(DEPTH, rounded, DEPTH * PANEL * 2, |panel, first, cols, out| {
                widen::to_pairs::<S>(layout.dtype, panel, first, cols, out.cast());
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
        let layout = self.part.tasks.weight.layout();
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
                    convert(self.part.tasks.weight.data()[place..].as_ptr(), start, cols, out);
                }
                (operands.panels, operands.panel_bytes) = (out.cast(), bytes);
                // SAFETY: the caller's promise; `out` holds the panels' columns.
                unsafe { self.multiply_tokens::<S, C>(operands, start, panel + count) };
            }
        }
    }

    fn cols(&self) -> usize {
        self.part.tasks.weight.layout().cols
    }

    /// The operands of the first token, `count` panels from `panel` on, and some columns; panels that are stored begin
    /// with the first column.
    #[inline(always)]
    fn operands(&self, panel: usize, count: usize, cols: Range<usize>) -> Operands {
        let part = self.part;
        let layout = part.tasks.weight.layout();
        let first = panel * PANEL;
        Operands {
            panels: part.tasks.weight.panel(panel),
            panel_bytes: layout.panel_bytes(),
            cols: cols.len(),
            ahead: AHEAD,
            next: Next::NONE,
            x: self.packed,
            out: self.place.start.wrapping_add(first),
            out_stride: self.place.stride,
            rows: part.tasks.tokens.len(),
            width: layout.rows.min((panel + count) * PANEL) - first,
            bias: match part.bias {
                Some(bias) if cols.end == layout.cols => bias[first..].as_ptr(),
                _ => std::ptr::null(),
            },
            resume: cols.start > 0,
        }
    }

    /// Tile after tile of tokens, from column `start` on, given the operands of the first. Meanwhile the same columns of
    /// the panels from `next` on are asked for.
    #[inline(always)]
    unsafe fn multiply_tokens<S: Simd, C: Chain>(&self, operands: Operands, start: usize, next: usize) {
        let Part { tasks: Tasks { ref tokens, .. }, most, precision, .. } = *self.part;
        let (row_elements, skipped) = (precision.row_elements(self.cols()), precision.row_elements(start));
        let layout = self.part.tasks.weight.layout();
        let column_bytes = self.part.tasks.weight.column_bytes();
        let from = self.part.tasks.weight.panel(next).wrapping_add(start * column_bytes);
        let steps = operands.cols.div_ceil(C::STEP).max(1);
        let all = (operands.cols * column_bytes).div_ceil(64);
        // A last tile of a few rows does not ask.
        let tiles = tokens.len().saturating_sub(tile::SPREAD).div_ceil(most).max(1);
        let lines = all.div_ceil(steps * tiles);
        for (tile, first) in (0..tokens.len()).step_by(most).enumerate() {
            let rows = tokens.len().min(first + most) - first;
            let tile_rows = tile::tile_rows(rows, most);
            let asked = tile * steps * lines;
            let operands = Operands {
                x: self.packed.wrapping_add(first * row_elements + skipped * tile_rows),
                out: operands.out.wrapping_add(first * operands.out_stride),
                rows,
                next: Next {
                    from: from.wrapping_add(asked * 64),
                    panel_bytes: layout.panel_bytes(),
                    lines: if asked < all { lines } else { 0 },
                },
                ..operands
            };
            // SAFETY: the caller's promise.
            unsafe { tile::multiply_by::<S, C, 2>(tile_rows, operands) };
        }
    }
}

#[cfg(test)]
mod tests;
