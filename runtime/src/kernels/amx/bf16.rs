//! Tiles of bf16: up to two panels times up to two tiles of tokens.

use std::arch::asm;

use super::pack::{STEP, TILE_BYTES};
use super::{ROW_BYTES, Sums};

/// Multiplies `P` panels by `T` tiles of tokens over `cols` columns and adds to the sums, which are of tokens by panels.
/// `ahead` bytes ahead, panels are asked for.
///
/// # Safety
/// AMX is available, and this thread's tiles are set up for bf16. The panels, in whole pairs of columns, and the packed
/// tokens are valid for the columns.
pub(super) unsafe fn multiply<const P: usize, const T: usize>(
    panels: [*const u8; P],
    tokens: [*const u8; T],
    cols: usize,
    ahead: Option<usize>,
    sums: &mut [[Sums<f32>; P]; T],
) {
    let (whole, rest) = (cols / STEP, cols % STEP);
    // SAFETY: the caller's promise; what is loaded and stored are whole tiles, the last of which is filled up here.
    unsafe {
        load(sums);
        for i in 0..whole {
            let place = i * TILE_BYTES;
            if let Some(ahead) = ahead {
                for line in (0..TILE_BYTES).step_by(64) {
                    panels.iter().for_each(|panel| prefetch(panel.wrapping_add(place + ahead + line)));
                }
            }
            step(panels.map(|p| p.add(place)), tokens.map(|x| x.add(place)));
        }
        if rest > 0 {
            let bytes = rest.div_ceil(2) * ROW_BYTES;
            let mut last = [Sums([[0_u32; 16]; 16]); P];
            for (last, panel) in last.iter_mut().zip(panels) {
                let panel = panel.add(whole * TILE_BYTES);
                std::ptr::copy_nonoverlapping(panel, (&raw mut *last).cast::<u8>(), bytes);
            }
            let place = whole * TILE_BYTES;
            let last: [*const u8; P] = std::array::from_fn(|p| (&raw const last[p]).cast());
            step(last, tokens.map(|x| x.add(place)));
        }
        store(sums);
    }
}

#[inline(always)]
fn prefetch(p: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a hint that does not fault.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
}

/// Sums are tiles 0 and 1 of the first tokens and 2 and 3 of the second.
#[inline(always)]
unsafe fn load<const P: usize, const T: usize>(sums: &[[Sums<f32>; P]; T]) {
    // SAFETY: the sums are whole tiles.
    unsafe {
        change!("tileloadd tmm0, [{} + {}]", in(reg) &raw const sums[0][0], in(reg) ROW_BYTES, options(nostack),);
        if P > 1 {
            change!("tileloadd tmm1, [{} + {}]", in(reg) &raw const sums[0][1 % P], in(reg) ROW_BYTES, options(nostack),);
        }
        if T > 1 {
            change!("tileloadd tmm2, [{} + {}]", in(reg) &raw const sums[1 % T][0], in(reg) ROW_BYTES, options(nostack),);
        }
        if P > 1 && T > 1 {
            change!("tileloadd tmm3, [{} + {}]", in(reg) &raw const sums[1 % T][1 % P], in(reg) ROW_BYTES, options(nostack),);
        }
    }
}

#[inline(always)]
unsafe fn store<const P: usize, const T: usize>(sums: &mut [[Sums<f32>; P]; T]) {
    // SAFETY: as above.
    unsafe {
        change!("tilestored [{} + {}], tmm0", in(reg) &raw mut sums[0][0], in(reg) ROW_BYTES, options(nostack),);
        if P > 1 {
            change!("tilestored [{} + {}], tmm1", in(reg) &raw mut sums[0][1 % P], in(reg) ROW_BYTES, options(nostack),);
        }
        if T > 1 {
            change!("tilestored [{} + {}], tmm2", in(reg) &raw mut sums[1 % T][0], in(reg) ROW_BYTES, options(nostack),);
        }
        if P > 1 && T > 1 {
            change!("tilestored [{} + {}], tmm3", in(reg) &raw mut sums[1 % T][1 % P], in(reg) ROW_BYTES, options(nostack),);
        }
    }
}

/// One tile of each panel times one of each token tile.
#[inline(always)]
unsafe fn step<const P: usize, const T: usize>(w: [*const u8; P], x: [*const u8; T]) {
    // SAFETY: the caller's promise.
    unsafe {
        match (P, T) {
            (1, 1) => change!(
                "tileloadd tmm4, [{x} + {s}]",
                "tileloadd tmm6, [{w} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                x = in(reg) x[0], w = in(reg) w[0], s = in(reg) ROW_BYTES, options(nostack, readonly),
            ),
            (1, _) => change!(
                "tileloadd tmm4, [{x} + {s}]",
                "tileloadd tmm6, [{w} + {s}]",
                "tileloadd tmm5, [{y} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                x = in(reg) x[0], y = in(reg) x[1 % T], w = in(reg) w[0], s = in(reg) ROW_BYTES,
                options(nostack, readonly),
            ),
            (_, 1) => change!(
                "tileloadd tmm4, [{x} + {s}]",
                "tileloadd tmm6, [{w} + {s}]",
                "tileloadd tmm7, [{v} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                x = in(reg) x[0], w = in(reg) w[0], v = in(reg) w[1 % P], s = in(reg) ROW_BYTES,
                options(nostack, readonly),
            ),
            _ => change!(
                "tileloadd tmm4, [{x} + {s}]",
                "tileloadd tmm6, [{w} + {s}]",
                "tileloadd tmm7, [{v} + {s}]",
                "tileloadd tmm5, [{y} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                x = in(reg) x[0], y = in(reg) x[1 % T], w = in(reg) w[0], v = in(reg) w[1 % P],
                s = in(reg) ROW_BYTES, options(nostack, readonly),
            ),
        }
    }
}
