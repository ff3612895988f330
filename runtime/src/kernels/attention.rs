//! Attention of new tokens over the KV cache, as one pass with a running softmax (Milakov and Gimelshein 2018,
//! arXiv:1805.02867).
//!
//! A query goes through its visible slots in blocks of 64, aligned to the cache. Its arithmetic is the same alone and
//! beside others: scores and weighted sums are chains of one order ([`products`]), and each query keeps its own base of
//! powers, sum and limit. No query is divided between threads. What slots past a query's limit hold does not matter.
//!
//! A cache of elements is multiplied in f32, but one of bf16 in bf16 where there are tiles for it, and one of codes in
//! integers ([`products`]).

use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use llamac_plan::KvDtype;

#[cfg(target_arch = "x86_64")]
use super::amx::Bf16Tiles;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::isa::Isa;
use super::kv::{BLOCK, KvLayout};
use super::math;
use super::scratch::Scratch;
use super::simd::{Kernel, LANES, Simd};
use super::tile;
use super::{Context, Rows, RowsMut};
use products::{Block, Codes, Elements, Products, Queries, scratch_width};

pub(in crate::kernels) mod products;

/// Queries that a task takes through a block of the cache together, so that it is read from nearby. In Miri,
/// few: there, too, threads divide the work.
const TASK_QUERIES: usize = if cfg!(miri) { 2 } else { 48 };

/// Neighbouring rows of queries of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// How the cache is stored.
    pub layout: KvLayout,
    /// The sequence's keys and values in this layer, see [`KvLayout::layer_bytes`].
    pub cache: &'a [u8],
    /// The segment's first row in queries and results.
    pub first_row: usize,
    /// For each row, the number of cache slots that it sees: those below. None visible gives zeros.
    pub limits: &'a [u32],
}

/// `out = softmax(scale · q · kᵀ) · v` for each head of each row of each segment: q and out
/// `[rows, heads · head_dim]`. Query head `h` reads KV head `h / (heads / kv_heads)`. Rows in no segment stay as they
/// are; segments are in the order of their rows and share none.
///
/// # Panics
/// If the shapes do not fit together, or a limit exceeds its cache.
pub fn attention(
    context: &Context,
    query: Rows<'_>,
    segments: &[Segment<'_>],
    heads: usize,
    scale: f32,
    out: RowsMut<'_>,
) {
    assert!(query.len() == out.len() && query.width() == out.width(), "{query:?} → {out:?}");
    let (mut tasks, mut scratch, mut next_row) = (0, 0, 0);
    for segment in segments {
        let KvLayout { kv_heads, head_dim, .. } = segment.layout;
        assert!(
            heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "{kv_heads} KV heads divide {heads} heads"
        );
        assert!(
            heads.checked_mul(head_dim) == Some(query.width()),
            "{heads} heads of {head_dim} in {query:?}"
        );
        assert!(
            segment.first_row <= query.len() && segment.limits.len() <= query.len() - segment.first_row,
            "rows of a segment are inside {query:?}"
        );
        assert!(segment.first_row >= next_row, "segments are in order and share no rows");
        next_row = segment.first_row + segment.limits.len();
        let capacity = segment.layout.capacity(segment.cache.len());
        assert!(
            segment.limits.iter().all(|&limit| limit as usize <= capacity),
            "limits are inside the cache"
        );
        tasks += kv_heads * row_tiles(segment, heads);
        let queries = rows_of_tile(segment, heads).min(segment.limits.len()) * (heads / kv_heads);
        let width = Kind::of(context.isa(), segment.layout.dtype).scratch_width(head_dim);
        scratch = scratch.max(room(queries, context.tile_tokens()) * width);
    }
    // Every thread's memory grows here, not when the thread happens to get its first task of this size.
    for worker in 0..context.threads() {
        context.worker_scratch(worker).lock().unwrap_or_else(PoisonError::into_inner).get(scratch);
    }
    context.pool().run(tasks, &|task, worker| {
        let mut task = task;
        for segment in segments {
            let tiles = row_tiles(segment, heads);
            let of_segment = segment.layout.kv_heads * tiles;
            if task < of_segment {
                let rows = rows_of_tile(segment, heads);
                // Tiles at the end see most of the cache: those first.
                let first = (tiles - 1 - task % tiles) * rows;
                let last = segment.limits.len().min(first + rows);
                let scratch = context.worker_scratch(worker);
                let (kv_head, group) = (task / tiles, heads / segment.layout.kv_heads);
                let tile = Tile { query, out: &out, segment, kv_head, group, first, last, scale, scratch };
                // SAFETY: the context's instruction set is available; shapes and limits were checked above, and no
                // other task has these rows of this KV head's queries.
                unsafe {
                    match Kind::of(context.isa(), segment.layout.dtype) {
                        Kind::Elements => context.isa().dispatch(Attend::<Elements>(tile, PhantomData)),
                        Kind::Codes => context.isa().dispatch(Attend::<Codes>(tile, PhantomData)),
                        // AMX comes with AVX-512.
                        #[cfg(target_arch = "x86_64")]
                        Kind::Bf16Tiles => Avx512::<true>::call(Attend::<Bf16Tiles>(tile, PhantomData)),
                    }
                }
                return;
            }
            task -= of_segment;
        }
    });
}

/// Rows that a task takes: a few queries for each KV head.
fn rows_of_tile(segment: &Segment<'_>, heads: usize) -> usize {
    (TASK_QUERIES / (heads / segment.layout.kv_heads).max(1)).max(1)
}

fn row_tiles(segment: &Segment<'_>, heads: usize) -> usize {
    segment.limits.len().div_ceil(rows_of_tile(segment, heads))
}

/// Places for `queries` queries in tiles of `most`: the last tile may read rows past the last query, and whole vectors
/// keep every part aligned.
fn room(queries: usize, most: usize) -> usize {
    queries.next_multiple_of(most).next_multiple_of(LANES)
}

/// Some rows' queries of one KV head.
struct Tile<'a> {
    query: Rows<'a>,
    out: &'a RowsMut<'a>,
    segment: &'a Segment<'a>,
    kv_head: usize,
    /// Query heads of the KV head.
    group: usize,
    /// First row, counted in the segment.
    first: usize,
    /// Row after the last.
    last: usize,
    scale: f32,
    scratch: &'a Mutex<Scratch>,
}

/// How far scores may be above the base that powers of e are relative to before sums are rescaled to the largest score:
/// seldom after a query's first block. What is summed up keeps its precision, as terms are e⁸ at most.
const SLACK: f32 = 8.0;

/// Turns a query's scores of a block into weights, in place, and rescales what it has summed up so far if need be: its
/// weighted `sums` of `width` elements and its `total`, the sum of e to the scores above its `base`, in a vector's lanes.
///
/// # Safety
/// The instruction set of `S` is available. `scores` is valid for a block, `sums` for `width` elements, a multiple of the
/// lanes, and `total` for a vector; `visible` is in 1..=64.
#[inline(always)]
unsafe fn softmax<S: Simd>(
    scores: *mut f32,
    visible: usize,
    scale: f32,
    base: &mut f32,
    total: *mut f32,
    sums: *mut f32,
    width: usize,
) {
    const VECTORS: usize = BLOCK / LANES;
    // SAFETY: the caller's promise; scores past the visible ones are masked before they are used.
    unsafe {
        let hidden = S::splat(f32::NEG_INFINITY);
        let mut v = [hidden; VECTORS];
        for (i, v) in v.iter_mut().enumerate() {
            *v = S::mul(S::load(scores.add(i * LANES)), S::splat(scale));
        }
        if visible < BLOCK {
            let limit = S::splat(visible as f32);
            for (i, v) in v.iter_mut().enumerate() {
                *v = S::select_less(S::load(INDEX[i * LANES..].as_ptr()), limit, *v, hidden);
            }
        }
        let most = S::max(S::max(v[0], v[1]), S::max(v[2], v[3]));
        if S::any_less(S::splat(*base + SLACK), most) {
            let next = S::largest(most);
            // Nothing is summed up before there is a base.
            if *base > f32::NEG_INFINITY {
                let factor = math::exp_below::<S>(S::splat(*base - next));
                for i in (0..width).step_by(LANES) {
                    S::store(sums.add(i), S::mul(S::load(sums.add(i)), factor));
                }
                S::store(total, S::mul(S::load(total), factor));
            }
            *base = next;
        }
        let offset = S::splat(*base);
        for (i, v) in v.iter_mut().enumerate() {
            *v = math::exp_below::<S>(S::sub(*v, offset));
            S::store(scores.add(i * LANES), *v);
        }
        S::store(total, S::add(S::load(total), S::add(S::add(v[0], v[1]), S::add(v[2], v[3]))));
    }
}

impl Tile<'_> {
    /// Number of queries; query `i` is head `i % group` of row `first + i / group`.
    fn queries(&self) -> usize {
        (self.last - self.first) * self.group
    }

    /// First column of query `i`'s head.
    fn column(&self, i: usize) -> usize {
        (self.kv_head * self.group + i % self.group) * self.segment.layout.head_dim
    }

    /// Row of query `i` in the whole matrix.
    fn row(&self, i: usize) -> usize {
        self.segment.first_row + self.first + i / self.group
    }
}

/// How a cache is multiplied.
#[derive(Clone, Copy)]
enum Kind {
    Elements,
    Codes,
    #[cfg(target_arch = "x86_64")]
    Bf16Tiles,
}

impl Kind {
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "no other has tiles"))]
    fn of(isa: Isa, dtype: KvDtype) -> Self {
        match dtype {
            #[cfg(target_arch = "x86_64")]
            KvDtype::Bf16 if isa == Isa::Amx => Self::Bf16Tiles,
            KvDtype::F32 | KvDtype::F16 | KvDtype::Bf16 => Self::Elements,
            KvDtype::Int8 => Self::Codes,
        }
    }

    /// See [`products::scratch_width`].
    fn scratch_width(self, head_dim: usize) -> usize {
        match self {
            Self::Elements => scratch_width::<Elements>(head_dim),
            Self::Codes => scratch_width::<Codes>(head_dim),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Tiles => scratch_width::<Bf16Tiles>(head_dim),
        }
    }
}

/// A tile's attention by products of a kind.
struct Attend<'a, P>(Tile<'a>, PhantomData<P>);

impl<P: Products> Kernel for Attend<'_, P> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.attend::<S, P>() }
    }
}

impl Tile<'_> {
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn attend<S: Simd, P: Products>(self) {
        let layout = self.segment.layout;
        let (dim, padded) = (layout.head_dim, layout.head_dim.next_multiple_of(LANES));
        let (queries, most) = (self.queries(), P::tile_queries(S::TILE_TOKENS));
        let query_elements = P::query_elements(dim);
        let room = room(queries, S::TILE_TOKENS);
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = scratch.get(room * scratch_width::<P>(dim));
        // SAFETY: the caller's promise.
        let _state = unsafe { P::begin(queries) };
        let (packed, scratch) = scratch.split_at_mut(room * query_elements.next_multiple_of(LANES));
        let (scores, scratch) = scratch.split_at_mut(room * BLOCK);
        let (sums, scratch) = scratch.split_at_mut(room * padded);
        let (weights, scratch) = scratch.split_at_mut(room * P::WEIGHT_ELEMENTS);
        let (total, scratch) = scratch.split_at_mut(room * LANES);
        let (bases, limits) = scratch.split_at_mut(room);
        // Read often, and a division away.
        let limits: &mut [u32] = bytemuck::cast_slice_mut(&mut limits[..queries]);
        limits
            .iter_mut()
            .enumerate()
            .for_each(|(i, limit)| *limit = self.segment.limits[self.first + i / self.group]);
        sums.fill(0.0);
        bases.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        let (packed, scores, sums) = (packed.as_mut_ptr(), scores.as_mut_ptr(), sums.as_mut_ptr());
        let weights = weights.as_mut_ptr();

        // SAFETY: every pointer stays inside its part of the scratch memory, inside a query's head, or inside the
        // blocks of this KV head, which the limits (checked by `attention`) do not exceed.
        unsafe {
            let tile_at = |start: usize| {
                let rows = most.min(queries - start);
                Queries { rows, tile: tile::tile_rows(rows, most) }
            };
            for start in (0..queries).step_by(most) {
                let query =
                    |m: usize| self.query.pointer(self.row(start + m)).wrapping_add(self.column(start + m));
                P::pack::<S>(query, tile_at(start), dim, packed.add(start * query_elements));
            }
            let last =
                (self.first..self.last).map(|row| self.segment.limits[row] as usize).max().unwrap_or(0);
            let blocks = layout.blocks(self.segment.cache.len());
            for block in 0..last.div_ceil(BLOCK) {
                let place = (self.kv_head * blocks + block) * layout.block_bytes();
                let start = self.segment.cache[place..place + layout.block_bytes()].as_ptr();
                let visible = |i: usize| (limits[i] as usize).saturating_sub(block * BLOCK).min(BLOCK);
                let block = Block { layout, start };
                for start in (0..queries).step_by(most) {
                    let tile = tile_at(start);
                    let seen = (start..start + tile.rows).map(visible).max().unwrap_or(0);
                    if seen == 0 {
                        continue;
                    }
                    let packed = packed.add(start * query_elements);
                    let (scores, sums) = (scores.add(start * BLOCK), sums.add(start * padded));
                    P::scores::<S>(block, tile, packed, seen, scores);
                    for m in 0..tile.rows {
                        let i = start + m;
                        if visible(i) > 0 {
                            let (scores, sums) = (scores.add(m * BLOCK), sums.add(m * padded));
                            let total = total[i * LANES..].as_mut_ptr();
                            softmax::<S>(scores, visible(i), self.scale, &mut bases[i], total, sums, padded);
                        }
                    }
                    P::add_values::<S>(block, tile, |m| visible(start + m), scores, weights, sums);
                }
            }
            for (i, total) in total.chunks_exact(LANES).enumerate().take(queries) {
                let out = self.out.pointer(self.row(i)).wrapping_add(self.column(i));
                // Who sees nothing has a sum of zero over zero.
                let total = if limits[i] == 0 { 1.0 } else { S::sum(S::load(total.as_ptr())) };
                let total = S::splat(total);
                for d in (0..dim).step_by(LANES) {
                    let v = S::div(S::load(sums.add(i * padded + d)), total);
                    math::store::<S>(out.add(d), dim - d, v);
                }
            }
        }
    }
}

/// Numbers of a block's slots.
const INDEX: [f32; BLOCK] = {
    let mut index = [0.0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        index[i] = i as f32;
        i += 1;
    }
    index
};

#[cfg(test)]
mod tests;
