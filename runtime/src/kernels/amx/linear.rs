//! Linear layers by tiles.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use llamac_plan::layout::{BLOCK, GROUP, PANEL, WeightDtype};

use super::pack::{PackTile, tile_bytes};
use super::{ROWS, Sums, Tiles, bf16, codes};
use crate::kernels::activations::Precision;
use crate::kernels::avx512::Avx512;
use crate::kernels::scratch::Scratch;
use crate::kernels::simd::{Kernel, Simd};
use crate::kernels::tile::STREAMED;
use crate::kernels::views::SendMut;
use crate::kernels::{Context, Matrix, Rows, RowsMut, math, widen};

/// Tokens that are packed at a time.
const TOKENS: usize = 256;

/// Columns of packed tokens that are multiplied by many panels before the next columns' turn: they stay in the second
/// cache. Whole groups.
const DEPTH: usize = 1024;

/// The same of codes.
const CODE_DEPTH: usize = 2048;

/// Columns of panels that are rounded to bf16 at a time.
const ROUNDED: usize = 256;

/// Bytes of weights that are asked for ahead of their use when they come straight from memory.
const AHEAD: usize = 4096;

/// Panels of a task for many tokens.
const TASK_PANELS: usize = 32;

/// Bytes of weights that are worth a task of their own.
const TASK_BYTES: usize = 64 << 10;

/// Tasks a thread that a stream of weights is cut into.
const TASKS_A_THREAD: usize = 8;

/// Whether `tokens` tokens are multiplied as tiles in this precision. Few tokens of codes come straight from memory, which
/// AVX-512 keeps up with.
pub(in crate::kernels) fn multiplies(precision: Precision, tokens: usize) -> bool {
    match precision {
        Precision::F32 => false,
        Precision::Bf16 => true,
        Precision::Codes(_) => tokens > STREAMED,
    }
}

/// As [`crate::kernels::linear`], in bf16 or codes.
pub(in crate::kernels) fn linear(
    context: &Context,
    precision: Precision,
    x: Rows<'_>,
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    out: RowsMut<'_>,
) {
    let mut first = 0;
    while first < x.len() {
        let tokens = first..x.len().min(first + TOKENS);
        let mut scratch = context.packed();
        let codes = precision != Precision::Bf16;
        let tile_bytes = tile_bytes(codes, weight.layout().cols);
        let packed = scratch.get(tokens.len().div_ceil(ROWS) * tile_bytes / 4).as_mut_ptr();
        let packed = SendMut(packed.cast());
        let part = Part { codes, x, weight, bias, out: &out, tokens: tokens.clone(), tile_bytes, packed };
        part.pack(context);
        part.multiply(context);
        first = tokens.end;
    }
}

/// A linear layer of some tokens.
struct Part<'a> {
    codes: bool,
    x: Rows<'a>,
    weight: Matrix<'a>,
    bias: Option<&'a [f32]>,
    out: &'a RowsMut<'a>,
    tokens: Range<usize>,
    /// Bytes of a tile of packed tokens.
    tile_bytes: usize,
    packed: SendMut<u8>,
}

impl Part<'_> {
    fn tiles(&self) -> usize {
        self.tokens.len().div_ceil(ROWS)
    }

    /// Tokens of a tile.
    fn rows(&self, tile: usize) -> usize {
        ROWS.min(self.tokens.len() - tile * ROWS)
    }

    fn pack(&self, context: &Context) {
        let (codes, cols) = (self.codes, self.weight.layout().cols);
        context.pool().run(self.tiles(), &|tile, _| {
            let row = |m: usize| self.x.pointer(self.tokens.start + tile * ROWS + m);
            let out = self.packed.get().wrapping_add(tile * self.tile_bytes);
            // SAFETY: AMX comes with AVX-512. Tasks write disjoint tiles of the scratch memory, which has room for all.
            unsafe { Avx512::<true>::call(PackTile { codes, row, rows: self.rows(tile), cols, out }) };
        });
    }

    /// All panels times all tokens, in parallel over panels.
    fn multiply(&self, context: &Context) {
        let layout = self.weight.layout();
        let panels = layout.panels().div_ceil(context.threads() * TASKS_A_THREAD);
        let panels = match self.tiles() {
            1 => panels.max(TASK_BYTES / layout.panel_bytes().max(1)),
            _ => panels.min(TASK_PANELS),
        };
        let panels = panels.next_multiple_of(2).max(2);
        context.pool().run(layout.panels().div_ceil(panels), &|task, worker| {
            let panels = task * panels..layout.panels().min((task + 1) * panels);
            let scratch = context.worker_scratch(worker);
            // SAFETY: AMX is available, or nobody would be here. The panels are inside the matrix, and the packed tokens
            // were made for this part. Tasks write disjoint columns.
            unsafe { Avx512::<true>::call(Panels { part: self, panels, scratch }) };
        });
    }
}

/// Some panels times all tokens of a part.
struct Panels<'a> {
    part: &'a Part<'a>,
    panels: Range<usize>,
    scratch: &'a Mutex<Scratch>,
}

impl Kernel for Panels<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let part = self.part;
        let layout = part.weight.layout();
        let tokens = part.tokens.len().min(ROWS);
        let depth = match part.codes {
            _ if part.tiles() == 1 => layout.cols,
            false => DEPTH,
            true => CODE_DEPTH,
        };
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's promise.
        unsafe {
            if part.codes {
                let _tiles = Tiles::new(tokens, BLOCK, BLOCK / 4);
                for start in (0..layout.cols.max(1)).step_by(depth.max(1)) {
                    let cols = depth.min(layout.cols - start);
                    for panel in self.panels.clone() {
                        self.codes::<S>(panel, start, cols, &mut scratch);
                    }
                }
            } else if layout.dtype == WeightDtype::Bf16 {
                let _tiles = Tiles::new(tokens, 64, 16);
                for start in (0..layout.cols.max(1)).step_by(depth.max(1)) {
                    let cols = depth.min(layout.cols - start);
                    let stored = |panel: usize| {
                        let place = panel * layout.panel_bytes() + start * PANEL * 2;
                        part.weight.data().as_ptr().wrapping_add(place)
                    };
                    if part.tiles() == 1 {
                        for panel in self.panels.clone() {
                            self.bf16_tokens::<S, 1>(panel, [stored(panel)], start, cols, Some(AHEAD));
                        }
                    } else {
                        self.bf16_pairs::<S>(start, cols, stored);
                    }
                }
            } else {
                let _tiles = Tiles::new(tokens, 64, 16);
                let rounded = scratch.get(ROUNDED * PANEL + (ROUNDED + 1) * PANEL).as_mut_ptr();
                let wide = rounded.add(ROUNDED * PANEL);
                for start in (0..layout.cols.max(1)).step_by(ROUNDED) {
                    let cols = ROUNDED.min(layout.cols - start);
                    self.bf16_pairs::<S>(start, cols, |panel| {
                        let place = part.weight.data()[panel * layout.panel_bytes()..].as_ptr();
                        let out = rounded.wrapping_add(panel % 2 * ROUNDED * PANEL / 2);
                        widen::to_pairs::<S>(layout.dtype, place, start, cols, wide, out.cast());
                        out.cast_const().cast()
                    });
                }
            }
        }
    }
}

/// # Safety (of every function)
/// AMX is available, this thread's tiles are set up, the panels are inside the matrix, and x is packed for the part.
impl Panels<'_> {
    /// Panels by twos, where `place` says, in pairs of bf16 from column `start` on.
    #[inline(always)]
    unsafe fn bf16_pairs<S: Simd>(&self, start: usize, cols: usize, place: impl Fn(usize) -> *const u8) {
        for panel in self.panels.clone().step_by(2) {
            // SAFETY: the caller's promise.
            unsafe {
                if panel + 1 < self.panels.end {
                    self.bf16_tokens::<S, 2>(panel, [place(panel), place(panel + 1)], start, cols, None);
                } else {
                    self.bf16_tokens::<S, 1>(panel, [place(panel)], start, cols, None);
                }
            }
        }
    }

    /// `P` panels from `panel` on times all tokens.
    #[inline(always)]
    unsafe fn bf16_tokens<S: Simd, const P: usize>(
        &self,
        panel: usize,
        panels: [*const u8; P],
        start: usize,
        cols: usize,
        ahead: Option<usize>,
    ) {
        let part = self.part;
        let tokens = |tile: usize| {
            part.packed.get().wrapping_add(tile * part.tile_bytes + tile_bytes(false, start)).cast_const()
        };
        for tile in (0..part.tiles()).step_by(2) {
            // SAFETY: the caller's promise.
            unsafe {
                if tile + 1 < part.tiles() {
                    let mut sums = [[Sums([[0.0; 16]; 16]); P]; 2];
                    self.resume::<S, P>(panel, tile, start, &mut sums[0]);
                    self.resume::<S, P>(panel, tile + 1, start, &mut sums[1]);
                    bf16::multiply(panels, [tokens(tile), tokens(tile + 1)], cols, ahead, &mut sums);
                    self.store::<S, P>(panel, tile, start + cols, &sums[0]);
                    self.store::<S, P>(panel, tile + 1, start + cols, &sums[1]);
                } else {
                    let mut sums = [[Sums([[0.0; 16]; 16]); P]; 1];
                    self.resume::<S, P>(panel, tile, start, &mut sums[0]);
                    bf16::multiply(panels, [tokens(tile)], cols, ahead, &mut sums);
                    self.store::<S, P>(panel, tile, start + cols, &sums[0]);
                }
            }
        }
    }

    /// A panel of codes times all tokens.
    #[inline(always)]
    unsafe fn codes<S: Simd>(&self, panel: usize, start: usize, cols: usize, scratch: &mut Scratch) {
        let part = self.part;
        let layout = part.weight.layout();
        let (group, blocks) = (start / GROUP, cols.div_ceil(GROUP) * 2);
        let room = (blocks * codes::TILE_BYTES + codes::BUFFER_BYTES) / 4;
        let buffers: *mut u8 = scratch.get(room).as_mut_ptr().cast();
        let tiles = buffers.wrapping_add(codes::BUFFER_BYTES);
        let stored = part.weight.data()[panel * layout.panel_bytes()..].as_ptr();
        // SAFETY: the caller's promise; a matrix without columns has no blocks.
        unsafe {
            codes::Widen { dtype: layout.dtype, panel: stored, group, blocks, out: tiles }.run::<S>();
            for tile in 0..part.tiles() {
                let mut sums = [Sums([[0.0; 16]; 16])];
                self.resume::<S, 1>(panel, tile, start, &mut sums);
                if blocks > 0 {
                    codes::Product {
                        dtype: layout.dtype,
                        tiles,
                        panel: stored,
                        group,
                        blocks,
                        tokens: part.packed.get().add(tile * part.tile_bytes + tile_bytes(true, start)),
                        rows: part.rows(tile),
                        sums: &mut sums[0],
                        buffers: buffers.cast(),
                    }
                    .run::<S>();
                }
                self.store::<S, 1>(panel, tile, start + cols, &sums);
            }
        }
    }

    /// Outputs of a panel, and where a tile's first token has them.
    #[inline(always)]
    fn place(&self, panel: usize, tile: usize) -> (usize, *mut f32) {
        let part = self.part;
        let lanes = (part.weight.layout().rows - panel * PANEL).min(PANEL);
        (lanes, part.out.pointer(part.tokens.start + tile * ROWS).wrapping_add(panel * PANEL))
    }

    /// Goes on with the sums that earlier columns left in the result.
    #[inline(always)]
    unsafe fn resume<S: Simd, const P: usize>(
        &self,
        panel: usize,
        tile: usize,
        start: usize,
        sums: &mut [Sums<f32>; P],
    ) {
        if start == 0 {
            return;
        }
        for (p, sums) in sums.iter_mut().enumerate() {
            let (lanes, out) = self.place(panel + p, tile);
            for m in 0..self.part.rows(tile) {
                // SAFETY: the lanes are inside the result's rows.
                unsafe {
                    let sum = math::load::<S>(out.wrapping_add(m * self.part.out.stride()), lanes);
                    S::store(sums.0[m].as_mut_ptr(), sum);
                }
            }
        }
    }

    /// Leaves sums in the result, with the bias after the last column.
    #[inline(always)]
    unsafe fn store<S: Simd, const P: usize>(
        &self,
        panel: usize,
        tile: usize,
        end: usize,
        sums: &[Sums<f32>; P],
    ) {
        let part = self.part;
        let bias = part.bias.filter(|_| end == part.weight.layout().cols);
        for (p, sums) in sums.iter().enumerate() {
            let (lanes, out) = self.place(panel + p, tile);
            // SAFETY: as above; there is a bias for each output.
            unsafe {
                let bias = bias.map(|bias| math::load::<S>(bias[(panel + p) * PANEL..].as_ptr(), lanes));
                for (m, sums) in sums.0.iter().enumerate().take(part.rows(tile)) {
                    let mut sum = S::load(sums.as_ptr());
                    if let Some(bias) = bias {
                        sum = S::add(sum, bias);
                    }
                    math::store::<S>(out.wrapping_add(m * part.out.stride()), lanes, sum);
                }
            }
        }
    }
}
