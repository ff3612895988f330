//! Linear layers, and rows of an embedding, which is stored as a linear layer's matrix.
//!
//! One token streams each weight once and is bound by memory; many are bound by arithmetic. Both go through the same
//! tiles, so that a token's result does not depend on its company.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use llamac_plan::layout::{PANEL, WeightDtype};

use super::scratch::Scratch;
use super::simd::{Kernel, Simd};
use super::tile::{self, Operands, Packed};
use super::{Context, Matrix, Rows, RowsMut};

/// Tokens that are packed at a time; bounds the scratch memory to this many rows of x.
const BLOCK: usize = 256;

/// Columns that panels are multiplied by for all tokens before the next columns' turn, so that two panels stay in the
/// first cache and the tokens in the second; even, as columns are stored in pairs.
const DEPTH: usize = 256;

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
/// If the shapes do not fit together.
pub fn linear(context: &Context, x: Rows<'_>, weight: Matrix<'_>, bias: Option<&[f32]>, out: RowsMut<'_>) {
    let layout = *weight.layout();
    assert!(x.width() == layout.cols && out.width() == layout.rows, "{x:?} · {weight:?}ᵀ → {out:?}");
    assert!(x.len() == out.len(), "{x:?} and {out:?} have the same rows");
    assert!(bias.is_none_or(|bias| bias.len() == layout.rows), "a bias for each output");
    if layout.rows == 0 {
        return;
    }
    let most = context.tile_tokens();
    let blocks = x.len().div_ceil(BLOCK).max(1);
    let block = x.len().div_ceil(blocks).next_multiple_of(most);
    let mut first = 0;
    while first < x.len() {
        let tokens = first..x.len().min(first + block);
        let part = Part { x, weight, bias, out: &out, tokens: tokens.clone(), most };
        if tokens.len() == 1 {
            part.multiply(context, x.pointer(first));
        } else {
            let mut scratch = context.packed();
            let packed = scratch.get(tokens.len().next_multiple_of(most) * layout.cols).as_mut_ptr();
            part.pack(context, packed);
            part.multiply(context, packed);
        }
        first = tokens.end;
    }
}

/// A linear layer of some tokens.
struct Part<'a> {
    x: Rows<'a>,
    weight: Matrix<'a>,
    bias: Option<&'a [f32]>,
    out: &'a RowsMut<'a>,
    tokens: Range<usize>,
    /// Tokens of a full tile.
    most: usize,
}

impl Part<'_> {
    /// Packs the tokens' tiles one after another, `[cols][tokens of the tile]` each.
    fn pack(&self, context: &Context, packed: *mut f32) {
        let cols = self.weight.layout().cols;
        let packed = SendMut(packed);
        context.pool().run(self.tokens.len().div_ceil(self.most), &|task, _| {
            let first = task * self.most;
            let rows = self.most.min(self.tokens.len() - first);
            // SAFETY: tasks write disjoint tiles of the scratch memory, which has room for all of them.
            unsafe {
                let row = |m| self.x.pointer(self.tokens.start + first + m);
                tile::pack(row, rows, cols, tile::tile_rows(rows, self.most), packed.get().add(first * cols));
            }
        });
    }

    /// All panels times all tokens, in parallel over panels.
    fn multiply(&self, context: &Context, packed: *const f32) {
        let layout = self.weight.layout();
        let tasks = context.threads() * TASKS_A_THREAD;
        let panels = layout.panels().div_ceil(tasks);
        let panels = if self.tokens.len() > self.most {
            panels.min(TASK_PANELS)
        } else {
            panels.max(TASK_BYTES / layout.panel_bytes().max(1))
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
        let layout = self.part.weight.layout();
        if self.part.tokens.len() <= self.part.most || layout.cols == 0 {
            let panel = self.panels.start;
            let operands = self.operands(panel, self.panels.len(), 0..layout.cols);
            // SAFETY: the panels are inside the matrix, whose size was checked, and the result inside `out`.
            unsafe { self.multiply_tokens::<S>(layout.dtype, operands, 0, |_| ()) };
            return;
        }
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let wide = scratch.get(S::TILE_PANELS * DEPTH * PANEL).as_mut_ptr();
        let tiles = self.part.tokens.len().div_ceil(self.part.most);
        for start in (0..layout.cols).step_by(DEPTH) {
            let cols = DEPTH.min(layout.cols - start);
            for panel in self.panels.clone().step_by(S::TILE_PANELS) {
                let count = S::TILE_PANELS.min(self.panels.end - panel);
                let mut operands = self.operands(panel, count, start..start + cols);
                let bytes = cols * PANEL * layout.dtype.size();
                let lines = (count * bytes / 64).div_ceil(tiles);
                let next = operands.panels.wrapping_add(S::TILE_PANELS * layout.panel_bytes());
                let prefetch = |tile: usize| {
                    for line in tile * lines..(tile + 1) * lines {
                        let (panel, place) = (line * 64 / bytes, line * 64 % bytes);
                        S::prefetch(next.wrapping_add(panel * layout.panel_bytes() + place));
                    }
                };
                // Widened once for all tokens, and for all dtypes laid where lines do not compete for a place in the
                // first cache.
                // SAFETY: as above; the scratch memory has room for the columns of the panels.
                unsafe {
                    for i in 0..count {
                        let panel = operands.panels.wrapping_add(i * layout.panel_bytes());
                        tile::widen::<S>(layout.dtype, panel, cols, wide.add(i * DEPTH * PANEL));
                    }
                    (operands.panels, operands.panel_bytes) = (wide.cast(), DEPTH * PANEL * 4);
                    self.multiply_tokens::<S>(WeightDtype::F32, operands, start, prefetch);
                }
            }
        }
    }
}

impl Panels<'_> {
    /// The operands of the first token, `count` panels from `panel` on, and some columns.
    #[inline(always)]
    fn operands(&self, panel: usize, count: usize, cols: Range<usize>) -> Operands {
        let part = self.part;
        let layout = part.weight.layout();
        let (first, skipped) = (panel * PANEL, cols.start * PANEL * layout.dtype.size());
        Operands {
            panels: part.weight.data().as_ptr().wrapping_add(panel * layout.panel_bytes() + skipped),
            panel_bytes: layout.panel_bytes(),
            cols: cols.len(),
            ahead: AHEAD,
            x: self.packed,
            out: part.out.pointer(part.tokens.start).wrapping_add(first),
            out_stride: part.out.stride(),
            rows: 0,
            width: layout.rows.min((panel + count) * PANEL) - first,
            bias: match part.bias {
                Some(bias) if cols.end == layout.cols => bias[first..].as_ptr(),
                _ => std::ptr::null(),
            },
            resume: cols.start > 0,
        }
    }

    /// Tile after tile of tokens, from column `start` on, given the operands of the first.
    ///
    /// # Safety
    /// The instruction set of `S` is available; the operands are valid for all of the part's tokens.
    #[inline(always)]
    unsafe fn multiply_tokens<S: Simd>(
        &self,
        dtype: WeightDtype,
        operands: Operands,
        start: usize,
        prefetch: impl Fn(usize),
    ) {
        let Part { tokens, most, .. } = self.part;
        let cols = self.part.weight.layout().cols;
        for (tile, first) in (0..tokens.len()).step_by(*most).enumerate() {
            let rows = tokens.len().min(first + most) - first;
            let tile_rows = tile::tile_rows(rows, *most);
            prefetch(tile);
            let operands = Operands {
                x: self.packed.wrapping_add(first * cols + start * tile_rows),
                out: operands.out.wrapping_add(first * operands.out_stride),
                rows,
                ..operands
            };
            // SAFETY: the caller's promise.
            unsafe { tile::multiply::<S, Packed>(dtype, tile_rows, operands) };
        }
    }
}

/// A pointer that tasks may share: they write through it to disjoint places.
struct SendMut(*mut f32);
// SAFETY: see above.
unsafe impl Sync for SendMut {}

impl SendMut {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

/// A pointer that tasks may share to read.
struct SendConst(*const f32);
// SAFETY: nobody writes while tasks read.
unsafe impl Sync for SendConst {}

impl SendConst {
    fn get(&self) -> *const f32 {
        self.0
    }
}

/// Row `ids[t]` of the table, widened, as row `t` of `out`.
///
/// # Panics
/// If an id is not below the number of rows, or the shapes do not fit together.
pub fn embed(context: &Context, ids: &[u32], table: Matrix<'_>, out: RowsMut<'_>) {
    let layout = *table.layout();
    assert!(out.width() == layout.cols && out.len() == ids.len(), "{} ids of {table:?} → {out:?}", ids.len());
    context.for_rows(ids.len(), layout.cols * 4, &|tokens| {
        for token in tokens {
            let id = ids[token] as usize;
            assert!(id < layout.rows, "row {id} of {table:?}");
            let panel = &table.data()[id / PANEL * layout.panel_bytes()..][..layout.panel_bytes()];
            // SAFETY: the row is inside `out`, and no other task has it.
            let row = unsafe { std::slice::from_raw_parts_mut(out.pointer(token), layout.cols) };
            for (col, out) in row.iter_mut().enumerate() {
                let bytes = &panel[layout.element(id % PANEL, col) * layout.dtype.size()..];
                *out = match layout.dtype {
                    WeightDtype::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                    WeightDtype::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                    WeightDtype::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use llamac_plan::layout::WeightDtype::{self, Bf16, F16, F32};
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::testing::{self, assert_close, bits, contexts, numbers};

    fn product(x: &[f32], w: &testing::Packed, bias: Option<&[f32]>) -> Vec<f64> {
        let (rows, cols) = (w.layout.rows, w.layout.cols);
        let mut out = Vec::new();
        for t in 0..x.len() / cols {
            for row in 0..rows {
                let terms =
                    (0..cols).map(|k| f64::from(x[t * cols + k]) * f64::from(w.elements[row * cols + k]));
                out.push(terms.sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[row])));
            }
        }
        out
    }

    fn run(context: &Context, x: &[f32], w: &testing::Packed, bias: Option<&[f32]>) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len() / w.layout.cols * w.layout.rows];
        let (x, rows) = (Rows::new(x, w.layout.cols), RowsMut::new(&mut out, w.layout.rows));
        linear(context, x, Matrix::new(w.layout, &w.bytes), bias, rows);
        out
    }

    fn check(dtype: WeightDtype, tokens: usize, rows: usize, cols: usize, with_bias: bool) {
        let (x, w) = (numbers(1, tokens * cols), testing::matrix(2, dtype, rows, cols));
        let bias = numbers(3, rows);
        let bias = with_bias.then_some(&bias[..]);
        let expected = product(&x, &w, bias);
        for context in contexts() {
            let what = format!("{context:?} {dtype:?} {tokens} × {cols} × {rows}");
            let together = run(&context, &x, &w, bias);
            assert_close(&together, &expected, &what);
            for (token, x) in x.chunks(cols).enumerate().step_by(5) {
                let alone = run(&context, x, &w, bias);
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
        for dtype in [F32, F16, Bf16] {
            for (rows, cols) in [(1, 1), (15, 7), (16, 60), (17, 100), (515, 33), (40, 515)] {
                for tokens in [1, 2, 7, 13, 65] {
                    check(dtype, tokens, rows, cols, tokens % 2 == 1);
                }
            }
        }
    }

    #[test]
    fn a_long_prompt_is_cut_into_blocks() {
        check(F32, 600, 35, 8, true);
        check(Bf16, 257, 33, 9, false);
    }

    #[test]
    fn nothing_to_do_is_done() {
        for context in contexts() {
            let w = testing::matrix(1, F32, 4, 3);
            assert_eq!(run(&context, &[], &w, None), [0.0; 0]);
            for tokens in [1, 2, 40] {
                let (w, x) = (testing::matrix(1, Bf16, 3, 0), vec![1.0; tokens]);
                let mut out = vec![f32::NAN; tokens * 3];
                let (x, rows) = (Rows::new(&x, 1).columns(0, 0), RowsMut::new(&mut out, 3));
                linear(&context, x, Matrix::new(w.layout, &w.bytes), Some(&[1.0, 2.0, 3.0]), rows);
                assert_eq!(out, [1.0, 2.0, 3.0].repeat(tokens));
            }
        }
    }

    #[test]
    fn windows_of_wider_buffers_are_read_and_written_in_place() {
        for context in contexts() {
            let w = testing::matrix(1, F32, 5, 3);
            let x = numbers(2, 4 * 8);
            let mut out = vec![7.0; 4 * 9];
            let rows = RowsMut::new(&mut out, 9).columns(2, 5);
            linear(&context, Rows::new(&x, 8).columns(4, 3), Matrix::new(w.layout, &w.bytes), None, rows);
            for t in 0..4 {
                let alone = run(&context, &x[t * 8 + 4..t * 8 + 7], &w, None);
                assert_eq!(out[t * 9 + 2..t * 9 + 7], alone);
                assert_eq!((out[t * 9 + 1], out[t * 9 + 7]), (7.0, 7.0));
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        for isa in crate::kernels::Isa::available() {
            let (x, w) = (numbers(1, 14 * 300), testing::matrix(2, F16, 900, 300));
            let results: Vec<_> = [1, 2, 3]
                .map(|threads| bits(&run(&Context::with_isa(threads, isa).unwrap(), &x, &w, None)))
                .into_iter()
                .collect();
            assert!(results[0] == results[1] && results[0] == results[2]);
        }
    }

    #[test]
    fn embeddings_are_rows_of_the_table() {
        for context in contexts() {
            for dtype in [F32, F16, Bf16] {
                let table = testing::matrix(4, dtype, 37, 9);
                let ids = [36, 0, 16, 15, 16];
                let mut out = vec![0.0; ids.len() * 9];
                embed(&context, &ids, Matrix::new(table.layout, &table.bytes), RowsMut::new(&mut out, 9));
                for (id, row) in ids.iter().zip(out.chunks(9)) {
                    assert_eq!(row, &table.elements[*id as usize * 9..][..9]);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_shape(tokens in 1_usize..30, rows in 1_usize..70, cols in 1_usize..70, dtype in 0..3, bias: bool) {
            check([F32, F16, Bf16][dtype as usize], tokens, rows, cols, bias);
        }
    }
}
