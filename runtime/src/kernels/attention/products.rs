//! The two products of attention with a block of the cache: queries times keys, weights times values.

use llamac_plan::layout::WeightDtype;

use super::{BLOCK, INDEX, KvLayout};
use crate::kernels::activations::{Pack, Precision, block_bytes};
use crate::kernels::codes::{Coded, Q8, Unscaled};
use crate::kernels::simd::{Kernel, LANES, Simd};
use crate::kernels::tile::{self, Next, Operands, Packed, RowMajor, STREAMED};

/// Codes are rounded as for weights of this dtype, which keys are.
const CODES: Precision = Precision::Codes(WeightDtype::Q8);

/// A block of one KV head.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Block {
    pub(in crate::kernels) layout: KvLayout,
    pub(in crate::kernels) start: *const u8,
}

/// Some queries that are multiplied together.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Queries {
    /// Those that there are.
    pub(in crate::kernels) rows: usize,
    /// As many as the tile has, one of [`tile::tile_rows`].
    pub(in crate::kernels) tile: usize,
}

/// How a kind of cache is multiplied.
///
/// # Safety
/// Every function demands that the instruction set of `S` is available, that the block is whole, and that all other
/// pointers are valid for the queries' elements: packed queries as [`Products::query_elements`] says, a block's scores
/// for each query, weighted sums `[head_dim, padded to whole vectors]` for each query.
pub(in crate::kernels) trait Products {
    /// What is set up for a task, until it is dropped.
    type State;

    /// f32 elements that the packed weights of a query take.
    const WEIGHT_ELEMENTS: usize;

    /// The most queries of a tile, when numbers have `most`.
    fn tile_queries(most: usize) -> usize;

    /// f32 elements that a packed query takes.
    fn query_elements(head_dim: usize) -> usize;

    /// Sets up what a task of `queries` queries needs.
    unsafe fn begin(queries: usize) -> Self::State;

    /// Packs the queries that begin at `row(m)`.
    unsafe fn pack<S: Simd>(
        row: impl Fn(usize) -> *const f32,
        queries: Queries,
        head_dim: usize,
        out: *mut f32,
    );

    /// The scores of the first `seen` slots; what is behind them may be anything.
    unsafe fn scores<S: Simd>(
        block: Block,
        queries: Queries,
        packed: *const f32,
        seen: usize,
        scores: *mut f32,
    );

    /// Adds to each query's sums what its weights, in place of scores, make of its `visible` first values.
    unsafe fn add_values<S: Simd>(
        block: Block,
        queries: Queries,
        visible: impl Fn(usize) -> usize,
        weights: *mut f32,
        packed: *mut f32,
        sums: *mut f32,
    );
}

impl Block {
    /// The products of packed queries with the keys of `seen` slots.
    fn keys(self, queries: Queries, packed: *const f32, seen: usize, scores: *mut f32) -> Operands {
        Operands {
            panels: self.start,
            panel_bytes: self.layout.keys().panel_bytes(),
            cols: self.layout.head_dim,
            ahead: self.ahead(),
            next: Next::NONE,
            x: packed,
            out: scores,
            out_stride: BLOCK,
            rows: queries.rows,
            width: seen.next_multiple_of(LANES),
            bias: std::ptr::null(),
            resume: false,
        }
    }

    /// The products of weights with the values of the first `slots` slots.
    fn values(self, queries: Queries, weights: *const f32, slots: usize, sums: *mut f32) -> Operands {
        let padded = self.layout.head_dim.next_multiple_of(LANES);
        Operands {
            panels: self.start.wrapping_add(self.layout.first_value_panel()),
            panel_bytes: self.layout.value_panel_bytes(),
            cols: slots,
            ahead: self.ahead(),
            next: Next::NONE,
            x: weights,
            out: sums,
            out_stride: padded,
            rows: queries.rows,
            width: padded,
            bias: std::ptr::null(),
            resume: true,
        }
    }

    /// While keys are read, the values are fetched; while values are, the next block's keys.
    pub(in crate::kernels) fn ahead(self) -> usize {
        self.layout.block_bytes() / 2
    }
}

/// A cache of elements, multiplied in f32.
pub(in crate::kernels) struct Elements;

impl Products for Elements {
    type State = ();

    const WEIGHT_ELEMENTS: usize = 0;

    fn tile_queries(most: usize) -> usize {
        most
    }

    fn query_elements(head_dim: usize) -> usize {
        Precision::F32.row_elements(head_dim)
    }

    #[inline(always)]
    unsafe fn begin(_: usize) {}

    #[inline(always)]
    unsafe fn pack<S: Simd>(
        row: impl Fn(usize) -> *const f32,
        queries: Queries,
        head_dim: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe { tile::pack(row, queries.rows, head_dim, queries.tile, out) }
    }

    #[inline(always)]
    unsafe fn scores<S: Simd>(
        block: Block,
        queries: Queries,
        packed: *const f32,
        seen: usize,
        scores: *mut f32,
    ) {
        let operands = block.keys(queries, packed, seen, scores);
        // SAFETY: the caller's promise.
        unsafe { tile::multiply::<S, Packed>(block.layout.keys().dtype, queries.tile, operands) };
    }

    /// What all queries see they take together, the rest each alone: in both cases slot after slot.
    #[inline(always)]
    unsafe fn add_values<S: Simd>(
        block: Block,
        queries: Queries,
        visible: impl Fn(usize) -> usize,
        weights: *mut f32,
        _: *mut f32,
        sums: *mut f32,
    ) {
        let values = block.layout.values();
        let all = 0..queries.rows;
        let least = all.clone().map(&visible).min().unwrap_or(0);
        let common = if all.clone().all(|m| visible(m) == least) { least } else { least & !1 };
        // SAFETY: the caller's promise; slots are visible, so that they are inside the block.
        unsafe {
            let together = block.values(queries, weights, common, sums);
            if common > 0 {
                tile::multiply::<S, RowMajor<BLOCK>>(values.dtype, queries.tile, together);
            }
            for m in all {
                if visible(m) > common {
                    let alone = Operands {
                        panels: together.panels.wrapping_add(common * LANES * values.dtype.size()),
                        cols: visible(m) - common,
                        x: weights.add(m * BLOCK + common),
                        out: sums.add(m * together.out_stride),
                        rows: 1,
                        ..together
                    };
                    tile::multiply::<S, RowMajor<BLOCK>>(values.dtype, 1, alone);
                }
            }
        }
    }
}

/// A cache of codes, multiplied in integers. Queries are rounded to codes as activations are, and so are weights, each
/// times its value's scale.
pub(in crate::kernels) struct Codes;

impl Products for Codes {
    type State = ();

    const WEIGHT_ELEMENTS: usize = 2 * block_bytes(1) / 4;

    fn tile_queries(most: usize) -> usize {
        most.min(STREAMED)
    }

    fn query_elements(head_dim: usize) -> usize {
        CODES.row_elements(head_dim)
    }

    #[inline(always)]
    unsafe fn begin(_: usize) {}

    #[inline(always)]
    unsafe fn pack<S: Simd>(
        row: impl Fn(usize) -> *const f32,
        queries: Queries,
        head_dim: usize,
        out: *mut f32,
    ) {
        let Queries { rows, tile } = queries;
        // SAFETY: the caller's promise.
        unsafe { Pack { precision: CODES, row, rows, cols: head_dim, tile, out }.run::<S>() }
    }

    #[inline(always)]
    unsafe fn scores<S: Simd>(
        block: Block,
        queries: Queries,
        packed: *const f32,
        seen: usize,
        scores: *mut f32,
    ) {
        let operands = block.keys(queries, packed, seen, scores);
        // SAFETY: the caller's promise.
        unsafe { tile::multiply_by::<S, Coded<Q8>, 1>(queries.tile, operands) };
    }

    /// A slot that is hidden has a weight of zero, whose product is zero whatever the code. A query that sees nothing
    /// is left alone, because not even adding a zero leaves every number as it is.
    #[inline(always)]
    unsafe fn add_values<S: Simd>(
        block: Block,
        queries: Queries,
        visible: impl Fn(usize) -> usize,
        weights: *mut f32,
        packed: *mut f32,
        sums: *mut f32,
    ) {
        let all = 0..queries.rows;
        // SAFETY: the caller's promise; the scales follow the keys.
        unsafe {
            let scales: *const u16 = block.start.add(block.layout.key_bytes()).cast();
            for m in all.clone() {
                let limit = S::splat(visible(m) as f32);
                for i in (0..BLOCK).step_by(LANES) {
                    let weight = weights.add(m * BLOCK + i);
                    let scaled = S::mul(S::load(weight), S::load_f16(scales.add(i)));
                    let index = S::load(INDEX[i..].as_ptr());
                    S::store(weight, S::select_less(index, limit, scaled, S::splat(0.0)));
                }
            }
            if all.clone().all(|m| visible(m) > 0) {
                add_codes::<S>(block, queries, weights, packed, sums);
            } else {
                for m in all.filter(|&m| visible(m) > 0) {
                    let alone = Queries { rows: 1, tile: 1 };
                    let sums = sums.add(m * block.layout.head_dim.next_multiple_of(LANES));
                    add_codes::<S>(block, alone, weights.add(m * BLOCK), packed, sums);
                }
            }
        }
    }
}

/// Rounds weights to codes and multiplies them by a whole block's values.
///
/// # Safety
/// As [`Products::add_values`].
#[inline(always)]
unsafe fn add_codes<S: Simd>(
    block: Block,
    queries: Queries,
    weights: *const f32,
    packed: *mut f32,
    sums: *mut f32,
) {
    let Queries { rows, tile } = queries;
    // SAFETY: the caller's promise.
    unsafe {
        let row = |m: usize| weights.wrapping_add(m * BLOCK);
        Pack { precision: CODES, row, rows, cols: BLOCK, tile, out: packed }.run::<S>();
        let operands = block.values(queries, packed, BLOCK, sums);
        tile::multiply_by::<S, Coded<Unscaled>, 1>(tile, operands);
    }
}

/// f32 elements that a query takes: packed, its scores of a block, its weighted sums, its running softmax, its limit,
/// and its packed weights.
pub(in crate::kernels) fn scratch_width<P: Products>(head_dim: usize) -> usize {
    let packed = P::query_elements(head_dim).next_multiple_of(LANES);
    packed + BLOCK + head_dim.next_multiple_of(LANES) + LANES + 2 + P::WEIGHT_ELEMENTS
}
