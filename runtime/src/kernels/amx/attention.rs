//! Attention over a cache of bf16 by tiles: sixteen queries times sixteen slots, and their weights times sixteen elements of
//! the values. Both are panels as they are stored.
//!
//! Queries and weights are rounded to bf16; running sums are f32. A block is multiplied whole, with weights of zero for
//! what a query does not see, so that a query's sums do not depend on the others of its tile.

use super::bf16::{Ahead, Product};
use super::pack::{PackTile, tile_bytes};
use super::{ROW_BYTES, ROWS, Sums, Tiles};
use crate::kernels::attention::products::{Block, Products, Queries};
use crate::kernels::kv::BLOCK;
use crate::kernels::simd::{Kernel, LANES, Simd};

/// A cache of bf16, multiplied by tiles.
pub(in crate::kernels) struct Bf16Tiles;

impl Products for Bf16Tiles {
    type State = Tiles;

    const WEIGHT_ELEMENTS: usize = BLOCK / 2;

    fn tile_queries(_: usize) -> usize {
        ROWS
    }

    fn query_elements(head_dim: usize) -> usize {
        tile_bytes(false, head_dim) / ROWS / 4
    }

    #[inline(always)]
    unsafe fn begin(queries: usize) -> Tiles {
        // SAFETY: the caller's promise: where this is chosen, AMX is available.
        unsafe { Tiles::new(queries.min(ROWS), ROW_BYTES, ROWS) }
    }

    #[inline(always)]
    unsafe fn pack<S: Simd>(
        row: impl Fn(usize) -> *const f32,
        queries: Queries,
        head_dim: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            PackTile { codes: false, row, rows: queries.rows, cols: head_dim, out: out.cast() }.run::<S>()
        }
    }

    #[inline(always)]
    unsafe fn scores<S: Simd>(block: Block, _: Queries, packed: *const f32, seen: usize, scores: *mut f32) {
        let keys = block.layout.keys();
        for panel in (0..seen.div_ceil(LANES)).step_by(2) {
            let panels = [panel, panel + 1].map(|panel| block.start.wrapping_add(panel * keys.panel_bytes()));
            let product = Product {
                panels,
                tokens: [packed.cast()],
                cols: keys.cols,
                sums: [[scores.wrapping_add(panel * LANES), scores.wrapping_add((panel + 1) * LANES)]],
                stride: BLOCK * 4,
                resume: false,
                // While keys are read, the values are fetched.
                ahead: Ahead { from: panels.map(|panel| panel.wrapping_add(block.ahead())), lines: ROWS },
            };
            // SAFETY: the caller's promise: a block has four panels of keys.
            unsafe { product.run() };
        }
    }

    #[inline(always)]
    unsafe fn add_values<S: Simd>(
        block: Block,
        queries: Queries,
        visible: impl Fn(usize) -> usize,
        weights: *mut f32,
        packed: *mut f32,
        sums: *mut f32,
    ) {
        let row = |m: usize| weights.wrapping_add(m * BLOCK).cast_const();
        let pack = PackTile { codes: false, row, rows: queries.rows, cols: BLOCK, out: packed.cast() };
        let values = Values { block, packed: packed.cast(), sums, rows: queries.rows };
        let sees = |m: &usize| visible(*m) > 0;
        // SAFETY: the caller's promise.
        unsafe {
            pack.run::<S>();
            // Zero times what a query does not see is nothing only if that is finite.
            let least = (0..queries.rows).filter(sees).map(&visible).min().unwrap_or(BLOCK);
            if !values.is_finite_from(least) {
                (0..queries.rows).filter(sees).for_each(|m| values.add_beside(visible(m), |row| row == m));
            } else if (0..queries.rows).all(|m| sees(&m)) {
                values.add();
            } else {
                values.add_beside(BLOCK, |m| sees(&m));
            }
        }
    }
}

/// A block's values, to be added to the sums of some queries with their packed weights.
struct Values {
    block: Block,
    packed: *const u8,
    sums: *mut f32,
    rows: usize,
}

/// Bytes of a panel of values: bf16 of sixteen elements of each slot.
const PANEL_BYTES: usize = 2 * LANES * BLOCK;

/// # Safety (of every function)
/// The block is whole, and weights and sums are valid for the tile. AMX is available, and this thread's tiles are set up.
impl Values {
    fn panels(&self) -> usize {
        self.block.layout.values().panels()
    }

    fn panel(&self, panel: usize) -> *const u8 {
        self.block.start.wrapping_add(self.block.layout.first_value_panel() + panel * PANEL_BYTES)
    }

    /// Whether the values of all slots from `slot`, or the one before it, on are finite.
    #[inline(always)]
    unsafe fn is_finite_from(&self, slot: usize) -> bool {
        const EXPONENT: u16 = 0x7f80;
        let first = slot / 2 * 2 * LANES;
        let is_infinite = |x: &[u8; 2]| u16::from_le_bytes(*x) & EXPONENT == EXPONENT;
        (0..self.panels()).all(|panel| {
            // SAFETY: the panel is inside the block.
            let elements = unsafe { &*self.panel(panel).cast::<[[u8; 2]; LANES * BLOCK]>() };
            !elements[first..].iter().fold(false, |found, x| found | is_infinite(x))
        })
    }

    /// Adds to the sums of all queries.
    #[inline(always)]
    unsafe fn add(&self) {
        let width = self.block.layout.head_dim.next_multiple_of(LANES);
        let place = |panel: usize| self.sums.wrapping_add(panel * LANES);
        let mut panel = 0;
        while panel < self.panels() {
            // SAFETY: the caller's promise.
            unsafe {
                if panel + 1 < self.panels() {
                    let panels = [self.panel(panel), self.panel(panel + 1)];
                    self.multiply(panels, panels, [place(panel), place(panel + 1)], width * 4);
                } else {
                    let stored = [self.panel(panel)];
                    self.multiply(stored, stored, [place(panel)], width * 4);
                }
            }
            panel += 2;
        }
    }

    /// Adds to the sums of those queries that `adds` says, and leaves the others'; of slots past the first `visible`, with
    /// zeros for their values.
    #[inline(always)]
    unsafe fn add_beside(&self, visible: usize, adds: impl Fn(usize) -> bool) {
        let width = self.block.layout.head_dim.next_multiple_of(LANES);
        for panel in 0..self.panels() {
            let place = |m: usize| self.sums.wrapping_add(m * width + panel * LANES).cast::<[f32; LANES]>();
            let mut sums = Sums([[0.0; LANES]; ROWS]);
            // SAFETY: the caller's promise.
            unsafe {
                // Pairs of slots, of all elements.
                let mut values = self.panel(panel).cast::<[[[u16; 2]; LANES]; BLOCK / 2]>().read_unaligned();
                for slot in visible..BLOCK {
                    values[slot / 2].iter_mut().for_each(|pair| pair[slot % 2] = 0);
                }
                for m in (0..self.rows).filter(|&m| adds(m)) {
                    sums.0[m] = place(m).read_unaligned();
                }
                let (panel, place_beside) = (self.panel(panel), sums.0.as_mut_ptr().cast());
                self.multiply([panel], [values.as_ptr().cast()], [place_beside], ROW_BYTES);
                for m in (0..self.rows).filter(|&m| adds(m)) {
                    place(m).write_unaligned(sums.0[m]);
                }
            }
        }
    }

    /// Adds the products with `panels`, which are `stored` or what was made of it.
    #[inline(always)]
    unsafe fn multiply<const P: usize>(
        &self,
        stored: [*const u8; P],
        panels: [*const u8; P],
        sums: [*mut f32; P],
        stride: usize,
    ) {
        let mut from = stored;
        // While values are read, the next block's keys are fetched.
        from.iter_mut().for_each(|from| *from = from.wrapping_add(self.block.ahead()));
        let ahead = Ahead { from, lines: ROWS };
        let product =
            Product { panels, tokens: [self.packed], cols: BLOCK, sums: [sums], stride, resume: true, ahead };
        // SAFETY: the caller's promise.
        unsafe { product.run() }
    }
}
