//! Linear layers by tiles.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use llamac_plan::layout::{BLOCK, GROUP, PANEL, WeightDtype};

use super::beside::Beside;
use super::bf16::{self, Ahead};
use super::codes;
use super::pack::{PackTile, STEP, tile_bytes};
use super::{AHEAD, ROW_BYTES, ROWS, Tiles, token};
use crate::kernels::activations::Precision;
use crate::kernels::avx512::Avx512;
use crate::kernels::scratch::Scratch;
use crate::kernels::simd::{Kernel, Simd};
use crate::kernels::tasks::{Gate, Place, TOKENS, Tasks};
use crate::kernels::tile::STREAMED;
use crate::kernels::views::SendMut;
use crate::kernels::{Context, Matrix, Rows, RowsMut, widen};

/// Bytes of packed tokens that stay in the second cache while panels go by: a little more than half of it.
const PACKED_BYTES: usize = 5 << 18;

/// The most columns that many tokens are multiplied by before the next columns' turn, so that most of the tokens stay in the
/// second cache. Fewer would let the panels stay in the first, but sums would come and go more often, which costs more.
const DEPTH: usize = 2048;

/// Columns that are rounded to bf16 at a time for few tokens.
const ROUNDED: usize = 512;

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

/// f32 elements that some columns of a panel of codes take as tiles, with their sums.
fn codes_room(cols: usize) -> usize {
    (cols.div_ceil(GROUP) * 2 * codes::TILE_BYTES + codes::BUFFER_BYTES) / 4
}

/// As [`crate::kernels::linear`], or with a gate [`crate::kernels::gated_linear`], in bf16 or codes.
pub(in crate::kernels) fn linear(
    context: &Context,
    precision: Precision,
    x: Rows<'_>,
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    out: &RowsMut<'_>,
    gate: Option<&Gate<'_>>,
) {
    let (codes, cols) = (precision != Precision::Bf16, weight.layout().cols);
    let tile_bytes = tile_bytes(codes, cols);
    let block = block(x.len(), tile_bytes.div_ceil(turns(cols)));
    let mut first = 0;
    while first < x.len() {
        let tokens = first..x.len().min(first + block);
        let mut scratch = context.packed();
        let packed = scratch.get(tokens.len().div_ceil(ROWS) * tile_bytes / 4).as_mut_ptr();
        let packed = SendMut(packed.cast());
        let tasks = Tasks { weight, tokens: tokens.clone(), out, gate };
        let part = Part { codes, x, bias, tasks, tile_bytes, packed };
        part.pack(context);
        part.multiply(context);
        first = tokens.end;
    }
}

/// In how many turns many tokens are multiplied by `cols` columns.
fn turns(cols: usize) -> usize {
    cols.div_ceil(DEPTH).max(1)
}

/// How many of `tokens` are multiplied at a time, in about equal blocks of whole pairs of tiles, when a tile's columns of a
/// turn take `bytes`.
fn block(tokens: usize, bytes: usize) -> usize {
    let most = (PACKED_BYTES / bytes.max(1) * ROWS).clamp(2 * ROWS, TOKENS);
    tokens.div_ceil(tokens.div_ceil(most).max(1)).next_multiple_of(2 * ROWS)
}

/// A linear layer of some tokens.
pub(super) struct Part<'a> {
    codes: bool,
    x: Rows<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) tasks: Tasks<'a>,
    /// Bytes of a tile of packed tokens.
    tile_bytes: usize,
    packed: SendMut<u8>,
}

impl Part<'_> {
    fn tiles(&self) -> usize {
        self.tasks.tokens.len().div_ceil(ROWS)
    }

    /// Where columns begin that are multiplied before the next ones' turn, and how many: few tokens take all at once.
    fn depths(&self) -> impl Iterator<Item = (usize, usize)> {
        let cols = self.tasks.weight.layout().cols;
        let turns = if self.tiles() == 1 { 1 } else { turns(cols) };
        let depth = cols.div_ceil(turns).next_multiple_of(GROUP).max(1);
        (0..cols.max(1)).step_by(depth).map(move |start| (start, depth.min(cols - start)))
    }

    /// f32 elements of scratch memory that a task takes: two panels that are rounded, or a panel's codes as tiles.
    fn scratch(&self) -> usize {
        match self.codes {
            false => 2 * DEPTH * PANEL / 2,
            true => self.depths().map(|(_, cols)| codes_room(cols)).max().unwrap_or(0),
        }
    }

    /// Whether this is one token in bf16, which is packed and multiplied in its own way.
    fn is_token(&self) -> bool {
        !self.codes && self.tasks.tokens.len() == 1
    }

    /// Tokens of a tile.
    pub(super) fn rows(&self, tile: usize) -> usize {
        ROWS.min(self.tasks.tokens.len() - tile * ROWS)
    }

    fn pack(&self, context: &Context) {
        let (codes, cols) = (self.codes, self.tasks.weight.layout().cols);
        if self.is_token() {
            let row = self.x.pointer(self.tasks.tokens.start);
            // SAFETY: AMX is available, or nobody would be here; a tile has more room than a row.
            return unsafe { token::pack(row, cols, self.packed.get().cast()) };
        }
        context.pool().run(self.tiles(), &|tile, _| {
            let row = |m: usize| self.x.pointer(self.tasks.tokens.start + tile * ROWS + m);
            let out = self.packed.get().wrapping_add(tile * self.tile_bytes);
            // SAFETY: AMX comes with AVX-512. Tasks write disjoint tiles of the scratch memory, which has room for all.
            unsafe { Avx512::<true>::call(PackTile { codes, row, rows: self.rows(tile), cols, out }) };
        });
    }

    /// All panels times all tokens, in parallel over panels.
    fn multiply(&self, context: &Context) {
        let layout = self.tasks.weight.layout();
        let panels = layout.panels().div_ceil(context.threads() * TASKS_A_THREAD);
        let panels = match self.tiles() {
            1 => panels.max(TASK_BYTES / layout.panel_bytes().max(1)),
            _ => panels.min(TASK_PANELS),
        };
        // Every thread's memory grows here, not when the thread happens to get its first task of this size.
        for worker in 0..context.threads() {
            context.worker_scratch(worker).lock().unwrap_or_else(PoisonError::into_inner).get(self.scratch());
        }
        self.tasks.run(context, panels, &|panels, worker, place| {
            let scratch = context.worker_scratch(worker);
            // SAFETY: AMX is available, or nobody would be here. The panels are inside the matrix, and the packed tokens
            // were made for this part. Tasks write disjoint columns.
            unsafe { Avx512::<true>::call(Panels { part: self, panels, place, scratch }) };
        });
    }
}

/// Some panels times all tokens of a part.
pub(super) struct Panels<'a> {
    pub(super) part: &'a Part<'a>,
    panels: Range<usize>,
    pub(super) place: Place,
    scratch: &'a Mutex<Scratch>,
}

impl Kernel for Panels<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let part = self.part;
        let layout = part.tasks.weight.layout();
        let tokens = part.tasks.tokens.len().min(ROWS);
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's promise.
        unsafe {
            if part.codes {
                let _tiles = Tiles::new(tokens, BLOCK, BLOCK / 4);
                for (start, cols) in part.depths() {
                    for panel in self.panels.clone() {
                        self.codes::<S>(panel, start, cols, &mut scratch);
                    }
                }
                return;
            }
            let _tiles = (!part.is_token()).then(|| Tiles::new(tokens, 64, 16));
            if layout.dtype == WeightDtype::Bf16 {
                for (start, cols) in part.depths() {
                    let stored = |panel| part.tasks.weight.panel(panel).wrapping_add(start * PANEL * 2);
                    self.bf16_pairs::<S>(start, cols, stored);
                }
                return;
            }
            let rounded = scratch.get(part.scratch()).as_mut_ptr();
            let round = |panel: usize, start: usize, cols: usize| {
                let out = rounded.wrapping_add(panel % 2 * DEPTH * PANEL / 2);
                widen::to_pairs::<S>(layout.dtype, part.tasks.weight.panel(panel), start, cols, out.cast());
                out.cast_const().cast()
            };
            if part.tiles() > 1 {
                for (start, cols) in part.depths() {
                    self.bf16_pairs::<S>(start, cols, |panel| round(panel, start, cols));
                }
            } else {
                // Weights come straight from memory, one panel after the other.
                for panel in self.panels.clone() {
                    for start in (0..layout.cols.max(1)).step_by(ROUNDED) {
                        let cols = ROUNDED.min(layout.cols - start);
                        self.bf16_tokens::<S, 1>([round(panel, start, cols)], panel, start, cols);
                    }
                }
            }
        }
    }
}

/// # Safety (of every function)
/// AMX is available, this thread's tiles are set up, the panels are inside the matrix, and x is packed for the part.
impl Panels<'_> {
    /// Panels times all tokens, where `place` says in pairs of bf16 from column `start` on: by twos, but for few tokens,
    /// to which memory streams one after the other.
    #[inline(always)]
    unsafe fn bf16_pairs<S: Simd>(&self, start: usize, cols: usize, place: impl Fn(usize) -> *const u8) {
        let step = if self.part.tiles() == 1 { 1 } else { 2 };
        for panel in self.panels.clone().step_by(step) {
            // SAFETY: the caller's promise.
            unsafe {
                if step == 2 && panel + 1 < self.panels.end {
                    self.bf16_tokens::<S, 2>([place(panel), place(panel + 1)], panel, start, cols);
                } else {
                    self.bf16_tokens::<S, 1>([place(panel)], panel, start, cols);
                }
            }
        }
    }

    /// `P` panels from `panel` on times all tokens, by two tiles. Meanwhile what comes next is asked for: of few tokens,
    /// further bytes; else the next panels' columns, a share with each product.
    #[inline(always)]
    unsafe fn bf16_tokens<S: Simd, const P: usize>(
        &self,
        panels: [*const u8; P],
        panel: usize,
        start: usize,
        cols: usize,
    ) {
        let part = self.part;
        if part.is_token() {
            // SAFETY: the caller's promise.
            return unsafe { self.token::<S>(panels[0], panel, start, cols) };
        }
        let tokens = |tile: usize| {
            part.packed.get().wrapping_add(tile * part.tile_bytes + tile_bytes(false, start)).cast_const()
        };
        let column_bytes = part.tasks.weight.column_bytes();
        let lines = (STEP * column_bytes / 64).div_ceil(part.tiles().div_ceil(2));
        for tile in (0..part.tiles()).step_by(2) {
            let mut from = [std::ptr::null(); P];
            for (p, from) in from.iter_mut().enumerate() {
                *from = match part.tiles() {
                    1 => part.tasks.weight.panel(panel).wrapping_add(start * column_bytes + AHEAD),
                    _ => {
                        let place = start * column_bytes + tile / 2 * (cols / STEP) * lines * 64;
                        part.tasks.weight.panel(panel + P + p).wrapping_add(place)
                    }
                };
            }
            let ahead = Ahead { from, lines };
            let place = [panel, tile];
            // SAFETY: the caller's promise.
            unsafe {
                if tile + 1 < part.tiles() {
                    let tokens = [tokens(tile), tokens(tile + 1)];
                    self.bf16_tiles::<S, P, 2>(panels, tokens, place, start, cols, ahead);
                } else {
                    self.bf16_tiles::<S, P, 1>(panels, [tokens(tile)], place, start, cols, ahead);
                }
            }
        }
    }

    /// A panel times the only token.
    #[inline(always)]
    unsafe fn token<S: Simd>(&self, stored: *const u8, panel: usize, start: usize, cols: usize) {
        let row: *const f32 = self.part.packed.get().cast();
        let mut sums = Beside::<1, 1>::new();
        // SAFETY: the caller's promise.
        unsafe {
            let [[place]] = sums.resume::<S>(self, [panel, 0], start);
            token::multiply(stored, row.add(start), cols, &mut *place.cast());
            sums.leave::<S>(self, [panel, 0], start + cols);
        }
    }

    /// `P` panels and `T` tiles, of which `panel` and `tile` are the first.
    #[inline(always)]
    unsafe fn bf16_tiles<S: Simd, const P: usize, const T: usize>(
        &self,
        panels: [*const u8; P],
        tokens: [*const u8; T],
        [panel, tile]: [usize; 2],
        start: usize,
        cols: usize,
        ahead: Ahead<P>,
    ) {
        let (place, cols) = ([panel, tile], start..start + cols);
        let direct = self.direct::<P, T>(place, &cols, self.part.rows(0));
        let mut beside = Beside::new();
        // SAFETY: the caller's promise; sums are where there is room for tiles.
        unsafe {
            let (sums, stride) = match direct {
                Some(sums) => (sums, self.place.stride * 4),
                None => (beside.resume::<S>(self, place, cols.start), ROW_BYTES),
            };
            let resume = cols.start > 0;
            bf16::Product { panels, tokens, cols: cols.len(), sums, stride, resume, ahead }.run();
            if direct.is_none() {
                beside.leave::<S>(self, place, cols.end);
            }
        }
    }

    /// A panel of codes times all tokens.
    #[inline(always)]
    unsafe fn codes<S: Simd>(&self, panel: usize, start: usize, cols: usize, scratch: &mut Scratch) {
        let part = self.part;
        let layout = part.tasks.weight.layout();
        let (group, blocks) = (start / GROUP, cols.div_ceil(GROUP) * 2);
        let buffers: *mut u8 = scratch.get(codes_room(cols)).as_mut_ptr().cast();
        let tiles = buffers.wrapping_add(codes::BUFFER_BYTES);
        let stored = part.tasks.weight.panel(panel);
        // The next panel's codes, in equal shares with each tile of tokens.
        let column_bytes = part.tasks.weight.column_bytes();
        let next = part.tasks.weight.panel(panel + 1).wrapping_add(start * column_bytes);
        let lines = (cols * column_bytes).div_ceil(64 * part.tiles());
        // SAFETY: the caller's promise.
        unsafe {
            codes::Widen { dtype: layout.dtype, panel: stored, group, blocks, out: tiles }.run::<S>();
            for tile in 0..part.tiles() {
                for line in tile * lines..(tile + 1) * lines {
                    S::prefetch(next.wrapping_add(line * 64));
                }
                let rows = codes::rows(part.rows(tile));
                let (place, cols) = ([panel, tile], start..start + cols);
                let direct = self.direct::<1, 1>(place, &cols, rows);
                let mut beside = Beside::<1, 1>::new();
                let (sums, stride) = match direct {
                    Some([[sums]]) => (sums, self.place.stride),
                    None => (beside.resume::<S>(self, place, cols.start)[0][0], PANEL),
                };
                codes::Product {
                    dtype: layout.dtype,
                    tiles,
                    panel: stored,
                    group,
                    blocks,
                    tokens: part.packed.get().wrapping_add(tile * part.tile_bytes + tile_bytes(true, start)),
                    rows,
                    sums,
                    stride,
                    resume: start > 0,
                    buffers: buffers.cast(),
                }
                .run::<S>();
                if direct.is_none() {
                    beside.leave::<S>(self, place, cols.end);
                }
            }
        }
    }

    /// Where in the result the sums of tiles of tokens by panels begin, if it has room for all of their `rows` rows, and no
    /// bias is to be added after `cols`.
    #[inline(always)]
    fn direct<const P: usize, const T: usize>(
        &self,
        [panel, tile]: [usize; 2],
        cols: &Range<usize>,
        rows: usize,
    ) -> Option<[[*mut f32; P]; T]> {
        let part = self.part;
        let layout = part.tasks.weight.layout();
        let is_biased = part.bias.is_some() && cols.end == layout.cols;
        if is_biased || (panel + P) * PANEL > layout.rows || part.rows(tile + T - 1) != rows {
            return None;
        }
        let mut places = [[std::ptr::null_mut(); P]; T];
        for (t, places) in places.iter_mut().enumerate() {
            for (p, place) in places.iter_mut().enumerate() {
                *place = self.outputs(panel + p, tile + t).1;
            }
        }
        Some(places)
    }

    /// Outputs of a panel, and where a tile's first token has them.
    #[inline(always)]
    pub(super) fn outputs(&self, panel: usize, tile: usize) -> (usize, *mut f32) {
        let part = self.part;
        let lanes = (part.tasks.weight.layout().rows - panel * PANEL).min(PANEL);
        (lanes, self.place.start.wrapping_add(tile * ROWS * self.place.stride + panel * PANEL))
    }
}
