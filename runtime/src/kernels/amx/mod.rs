//! AMX: products of tiles, sixteen tokens times a panel at once.
//!
//! Tiles are the panels as they are stored: a block of a bf16 panel is a tile, and so are a block's codes, once they are
//! bytes. Products of codes are exact, so they agree with those of AVX-512, which a few tokens take. Products of bf16
//! add up as these instructions do, so all bf16 products are theirs, or the same bits, for one token or many: a row of a
//! tile does not depend on the others.
//!
//! The compiler knows no tiles: they are set up, used and released within a task, in assembly. All other kernels are those
//! of AVX-512 with BF16.

use std::arch::asm;
use std::sync::OnceLock;

pub(super) use attention::Bf16Tiles;
pub(super) use linear::{linear, multiplies};
pub(super) use peak::{BF16_OPERATIONS, CODE_OPERATIONS, bf16_chains, code_chains};

use super::simd::LANES;

/// Assembly that may change any tile; its operands end with a comma.
macro_rules! change {
    ($($part:tt)*) => {
        asm!(
            $($part)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        )
    };
}

mod attention;
mod beside;
mod bf16;
mod codes;
mod linear;
mod pack;
mod peak;
mod token;

/// Rows of a tile: tokens, or pairs of columns.
const ROWS: usize = 16;

/// Bytes of a row of a tile.
const ROW_BYTES: usize = 64;

/// Bytes of weights that are asked for ahead of their use when they come straight from memory.
const AHEAD: usize = 4096;

/// Whether this processor multiplies tiles of bf16 and of bytes, and the system lets this process.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| super::avx512::Avx512::<true>::is_available() && has_tiles() && permitted())
}

/// Bits of `cpuid`, leaf 7: AMX-BF16, AMX-TILE, AMX-INT8.
fn has_tiles() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    !cfg!(miri) && std::arch::x86_64::__cpuid_count(7, 0).edx & BITS == BITS
}

/// Asks the system for the tiles' state, for all threads of this process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: a system call that changes what this process may do and no memory; one that the system does not know
    // fails.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What tiles there are: sums in 0–3, tokens in 4 and 5, weights in 6 and 7.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// This thread's tiles, set up until this is dropped.
pub(super) struct Tiles;

impl Tiles {
    /// Tiles of `tokens` tokens (1 to 16) of `token_bytes` bytes each, and of `steps` rows of weights.
    ///
    /// # Safety
    /// AMX is available.
    unsafe fn new(tokens: usize, token_bytes: usize, steps: usize) -> Self {
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut set = |tiles: std::ops::Range<usize>, rows: usize, bytes: usize| {
            config.rows[tiles.clone()].fill(rows as u8);
            config.row_bytes[tiles].fill(bytes as u16);
        };
        set(0..4, tokens, ROW_BYTES);
        set(4..6, tokens, token_bytes);
        set(6..8, steps, ROW_BYTES);
        // SAFETY: the configuration is valid for palette 1.
        unsafe { change!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly),) };
        Self
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: AMX is available, or there would be none.
        unsafe { change!("tilerelease", options(nostack, nomem),) };
    }
}

/// A tile of sums in memory.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums<T>([[T; LANES]; ROWS]);
