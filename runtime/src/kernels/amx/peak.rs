//! The most that tiles can be multiplied: full ones, four sums at a time.

use std::arch::asm;

use super::{ROWS, Tiles};

/// Operations of a round of [`bf16_chains`].
pub(in crate::kernels) const BF16_OPERATIONS: usize = 4 * ROWS * 16 * 32 * 2;

/// Operations of a round of [`code_chains`].
pub(in crate::kernels) const CODE_OPERATIONS: usize = 2 * BF16_OPERATIONS;

/// Multiplies tiles of bf16, `rounds` times four.
///
/// # Safety
/// AMX is available.
pub(in crate::kernels) unsafe fn bf16_chains(rounds: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let _tiles = Tiles::new(ROWS, 64, 16);
        for _ in 0..rounds {
            change!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                options(nostack, nomem),
            );
        }
    }
}

/// Multiplies tiles of bytes, `rounds` times four.
///
/// # Safety
/// AMX is available.
pub(in crate::kernels) unsafe fn code_chains(rounds: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let _tiles = Tiles::new(ROWS, 64, 16);
        for _ in 0..rounds {
            change!(
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                options(nostack, nomem),
            );
        }
    }
}
