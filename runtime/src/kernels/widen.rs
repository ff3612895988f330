//! Panels of any dtype as panels of another: what a product reads that its matrix is not stored as, some columns of a
//! panel at a time, in scratch memory.

use llamac_plan::layout::{BLOCK, GROUP, PANEL, WeightDtype};

use super::activations::to_bf16;
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
    unsafe { S::call(Widen { dtype, panel, first, cols, out }) }
}

/// As [`widen`], in pairs of bf16: `[ceil(cols / 2)][16][2]`, rounded to nearest. `wide` is valid for `[cols + 1][16]`.
///
/// # Safety
/// As [`widen`].
#[inline(always)]
pub(super) unsafe fn to_pairs<S: Simd>(
    dtype: WeightDtype,
    panel: *const u8,
    first: usize,
    cols: usize,
    wide: *mut f32,
    out: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        S::call(Widen { dtype, panel, first, cols, out: wide });
        S::call(Round { wide, cols, out });
    }
}

struct Widen {
    dtype: WeightDtype,
    panel: *const u8,
    first: usize,
    cols: usize,
    out: *mut f32,
}

impl Kernel for Widen {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { dtype, panel, first, cols, out } = self;
        // SAFETY: the caller's promise.
        unsafe {
            match dtype {
                WeightDtype::F32 => elements::<S, F32>(panel, first, cols, out),
                WeightDtype::F16 => elements::<S, F16>(panel, first, cols, out),
                WeightDtype::Bf16 => elements::<S, Bf16>(panel, first, cols, out),
                WeightDtype::Q8 => codes::<S, Q8>(dtype, panel, first, cols, out),
                WeightDtype::Q4 => codes::<S, Q4>(dtype, panel, first, cols, out),
                WeightDtype::Q4A => codes::<S, Q4A>(dtype, panel, first, cols, out),
            }
        }
    }
}

#[inline(always)]
unsafe fn elements<S: Simd, W: Element>(panel: *const u8, first: usize, cols: usize, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let panel = panel.add(first / 2 * W::PAIR_BYTES);
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

/// Four integers each of which picks one of four codes.
const PICK: [[i8; 4]; 4] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];

/// Codes less their zero points are integers of nine bits, and scales have eleven: their product is exact.
#[inline(always)]
unsafe fn codes<S: Simd, F: Format>(
    dtype: WeightDtype,
    panel: *const u8,
    first: usize,
    cols: usize,
    out: *mut f32,
) {
    // What a product with one takes off, as `Format::start` wants it.
    let start = match dtype {
        WeightDtype::Q8 => -S::Q8_ZERO,
        WeightDtype::Q4 => -8,
        _ => i32::from(-1_i16 as u16),
    };
    for block in 0..cols.div_ceil(BLOCK) {
        let group = F::group(first / GROUP + block / 2);
        let half = block % 2;
        // SAFETY: the block is inside the panel, and columns are written that are inside `out`.
        unsafe {
            let start = F::start::<S>(panel.add(group.zeros + half * PANEL), &start);
            let scale = S::load_f16(panel.add(group.scales + half * 2 * PANEL).cast());
            for i in 0..4 {
                let runs = F::runs::<S>(panel.add(group.codes + half * F::BLOCK_BYTES), i);
                for (run, codes) in [i, i + 4].into_iter().zip(runs) {
                    for (j, pick) in PICK.iter().enumerate() {
                        let col = block * BLOCK + run * 4 + j;
                        if col < cols {
                            let code = S::to_f32(F::dot::<S>(start, codes, pick.as_ptr()));
                            S::store(out.add(col * PANEL), S::mul(code, scale));
                        }
                    }
                }
            }
        }
    }
}

/// Columns of f32 as pairs of bf16.
struct Round {
    wide: *mut f32,
    cols: usize,
    out: *mut u32,
}

impl Kernel for Round {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { wide, cols, out } = self;
        // SAFETY: the caller's promise.
        unsafe {
            if cols % 2 == 1 {
                S::store(wide.add(cols * PANEL), S::splat(0.0));
            }
            for pair in 0..cols.div_ceil(2) {
                let [first, second] = wide.add(2 * pair * PANEL).cast::<[[f32; PANEL]; 2]>().read_unaligned();
                let rounded = |r: usize| u32::from(to_bf16(first[r])) | u32::from(to_bf16(second[r])) << 16;
                *out.add(pair * PANEL).cast::<[u32; PANEL]>() = std::array::from_fn(rounded);
            }
        }
    }
}
