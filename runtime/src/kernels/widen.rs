//! Panels of any dtype as panels of another: what a product reads that its matrix is not stored as, some columns of a
//! panel at a time, in scratch memory.

use llamac_plan::layout::{BLOCK, GROUP, PANEL, WeightDtype};

use super::codes::{Format, Q4, Q4A, Q8};
use super::simd::{Kernel, Simd};
use super::tile::{Bf16, Element, F16, F32};

/// Writes the `cols` columns from `first` on of a panel as `[cols][16]` f32. `first` begins a group.
///
/// # Safety
/// The instruction set of `S` is available; `panel` is a whole panel of `dtype` with those columns, and `out` is valid
/// for them.
#[inline(always)]
pub(super) unsafe fn widen<S: Simd>(
    dtype: WeightDtype,
    panel: *const u8,
    first: usize,
    cols: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe { S::call(Convert { dtype, panel, first, cols, out: Columns(out) }) }
}

/// As [`widen`], in pairs of bf16: `[ceil(cols / 2)][16][2]`, rounded to nearest.
///
/// # Safety
/// As [`widen`].
#[inline(always)]
pub(super) unsafe fn to_pairs<S: Simd>(
    dtype: WeightDtype,
    panel: *const u8,
    first: usize,
    cols: usize,
    out: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe { S::call(Convert { dtype, panel, first, cols, out: Pairs(out) }) }
}

/// Where columns go, by twos; of an odd number of columns, the last has a column of zeros beside it.
trait Out: Copy {
    /// # Safety
    /// The instruction set of `S` is available; the result is valid for the pair.
    unsafe fn put<S: Simd>(self, pair: usize, columns: [S::V; 2], is_last_odd: bool);
}

/// f32.
#[derive(Clone, Copy)]
struct Columns(*mut f32);

impl Out for Columns {
    #[inline(always)]
    unsafe fn put<S: Simd>(self, pair: usize, [first, second]: [S::V; 2], is_last_odd: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            let out = self.0.add(2 * pair * PANEL);
            S::store(out, first);
            if !is_last_odd {
                S::store(out.add(PANEL), second);
            }
        }
    }
}

/// bf16.
#[derive(Clone, Copy)]
struct Pairs(*mut u32);

impl Out for Pairs {
    #[inline(always)]
    unsafe fn put<S: Simd>(self, pair: usize, [first, second]: [S::V; 2], is_last_odd: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            let second = if is_last_odd { S::splat(0.0) } else { second };
            S::store_pairs(self.0.add(pair * PANEL), first, second);
        }
    }
}

/// Bytes of codes that are asked for ahead of their use.
const AHEAD: usize = 4096;

struct Convert<O> {
    dtype: WeightDtype,
    panel: *const u8,
    first: usize,
    cols: usize,
    out: O,
}

impl<O: Out> Kernel for Convert<O> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.dtype {
                WeightDtype::F32 => self.elements::<S, F32>(),
                WeightDtype::F16 => self.elements::<S, F16>(),
                WeightDtype::Bf16 => self.elements::<S, Bf16>(),
                WeightDtype::Q8 => self.codes::<S, Q8>(-S::Q8_ZERO),
                WeightDtype::Q4 => self.codes::<S, Q4>(-8),
                WeightDtype::Q4A => self.codes::<S, Q4A>(i32::from(-1_i16 as u16)),
            }
        }
    }
}

/// Four integers each of which picks one of four codes.
const PICK: [[i8; 4]; 4] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];

/// # Safety (of every function)
/// As [`Kernel::run`].
impl<O: Out> Convert<O> {
    #[inline(always)]
    unsafe fn elements<S: Simd, W: Element>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            let panel = self.panel.add(self.first / 2 * W::PAIR_BYTES);
            for pair in 0..self.cols / 2 {
                self.out.put::<S>(pair, W::load_pair::<S>(panel.add(pair * W::PAIR_BYTES)), false);
            }
            if self.cols % 2 == 1 {
                let last = W::load_last::<S>(panel.add(self.cols / 2 * W::PAIR_BYTES));
                self.out.put::<S>(self.cols / 2, [last; 2], true);
            }
        }
    }

    /// Codes less their zero points are integers of nine bits, and scales have eleven: their product is exact. `start` is
    /// what a product with one takes off, as `Format::start` wants it.
    #[inline(always)]
    unsafe fn codes<S: Simd, F: Format>(&self, start: i32) {
        for block in 0..self.cols.div_ceil(BLOCK) {
            let group = F::group(self.first / GROUP + block / 2);
            let half = block % 2;
            // SAFETY: the block is inside the panel, and columns are written that are inside the result.
            unsafe {
                // Few tokens' weights come straight from memory.
                for line in (0..F::BLOCK_BYTES).step_by(64) {
                    S::prefetch(self.panel.wrapping_add(group.codes + half * F::BLOCK_BYTES + line + AHEAD));
                }
                let start = F::start::<S>(self.panel.add(group.zeros + half * PANEL), &start);
                let scale = S::load_f16(self.panel.add(group.scales + half * 2 * PANEL).cast());
                for i in 0..4 {
                    let runs = F::runs::<S>(self.panel.add(group.codes + half * F::BLOCK_BYTES), i);
                    for (run, codes) in [(i, runs[0]), (i + 4, runs[1])] {
                        for j in [0, 2] {
                            let col = block * BLOCK + run * 4 + j;
                            if col < self.cols {
                                let first = S::to_f32(F::dot::<S>(start, codes, PICK[j].as_ptr()));
                                let second = S::to_f32(F::dot::<S>(start, codes, PICK[j + 1].as_ptr()));
                                let columns = [S::mul(first, scale), S::mul(second, scale)];
                                self.out.put::<S>(col / 2, columns, col + 1 == self.cols);
                            }
                        }
                    }
                }
            }
        }
    }
}
