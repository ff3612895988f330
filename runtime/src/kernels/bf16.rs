//! Products in bf16: pairs of weights times pairs of rounded activations, added up in f32.
//!
//! Where the instruction set multiplies bf16 itself, it also rounds in its own way and takes subnormals for zeros; where
//! it does not, both products of a pair are multiply-adds in f32, the first column's first.

use super::simd::Simd;
use super::tile::{Chain, Operands, SPREAD, STREAMED};

/// Bytes of a pair of columns of a panel.
const PAIR: usize = 64;

/// Panels as bf16 is stored, and x as [`super::activations`] rounds it.
#[derive(Clone, Copy)]
pub(super) struct Bf16Pairs;

impl Chain for Bf16Pairs {
    const STEP: usize = 16;

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "the indices are those of the formula")]
    unsafe fn go_on<S: Simd, const P: usize, const M: usize>(
        start: [[S::V; M]; P],
        operands: &Operands,
    ) -> [[S::V; M]; P] {
        let Operands { panels, panel_bytes, cols, ahead, next, x, .. } = *operands;
        let x: *const u32 = x.cast();
        // SAFETY: the caller's promise.
        unsafe {
            // Never indexed by a variable, see `Widened`.
            let mut acc = [[S::splat(0.0); M]; P];
            for p in 0..P {
                for m in 0..M {
                    acc[p][m] = start[p][m];
                }
            }
            for pair in 0..cols.div_ceil(2) {
                if const { M > SPREAD } && pair % (Self::STEP / 2) == 0 {
                    next.ask::<S, P>(pair / (Self::STEP / 2));
                }
                let place = panels.add(pair * PAIR);
                let mut w = [S::load_pairs(place); P];
                for p in 1..P {
                    w[p] = S::load_pairs(place.add(p * panel_bytes));
                }
                if const { M <= STREAMED } {
                    for p in 0..P {
                        S::prefetch(place.wrapping_add(p * panel_bytes + ahead));
                    }
                }
                for m in 0..M {
                    for p in 0..P {
                        acc[p][m] = S::dot_bf16(acc[p][m], w[p], x.add(pair * M + m));
                    }
                }
            }
            let mut end = start;
            for p in 0..P {
                for m in 0..M {
                    end[p][m] = acc[p][m];
                }
            }
            end
        }
    }
}
