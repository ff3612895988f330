//! One token in bf16, with vectors: the very sums of a tile's row, at a speed of memory that loads of tiles do not reach.
//!
//! For each 32 columns the instruction for tiles adds up the products of even columns and those of odd ones, each by
//! multiply-adds in f32 that start at zero, and adds both to the sum so far (Intel 64 and IA-32 Architectures Software
//! Developer's Manual, `TDPBF16PS`). It takes subnormals for zeros. So do vectors, when the processor is told to: in
//! assembly, since compiled code counts on the default.

use std::arch::asm;
use std::arch::x86_64::*;

use super::AHEAD;
use super::ROW_BYTES;
use super::pack::{STEP, TILE_BYTES};

/// A row rounded to bf16, as f32: `cols` numbers, and zeros up to a whole step.
///
/// # Safety
/// AMX is available; `row` is valid for the columns, and `out` for whole steps.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn pack(row: *const f32, cols: usize, out: *mut f32) {
    for start in (0..cols.next_multiple_of(STEP)).step_by(16) {
        let there = cols.saturating_sub(start).min(16);
        // SAFETY: the caller's promise; lanes past the columns are not read.
        unsafe {
            let x = _mm512_maskz_loadu_ps(((1_u32 << there) - 1) as u16, row.wrapping_add(start));
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x));
            let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded));
            _mm512_storeu_si512(out.add(start).cast(), wide);
        }
    }
}

/// Adds the products of a panel, in whole pairs of `cols` columns, and a packed row to `sums`.
///
/// # Safety
/// AMX is available, and with it AVX-512. The panel and the row are valid for the columns.
#[inline(always)]
pub(super) unsafe fn multiply(panel: *const u8, row: *const f32, cols: usize, sums: &mut [f32; 16]) {
    let (whole, rest) = (cols / STEP, cols % STEP);
    // SAFETY: the caller's promise.
    unsafe {
        if whole > 0 {
            steps(panel, row, whole, sums);
        }
        if rest > 0 {
            let mut last = [0_u8; TILE_BYTES];
            let bytes = rest.div_ceil(2) * ROW_BYTES;
            std::ptr::copy_nonoverlapping(panel.add(whole * TILE_BYTES), last.as_mut_ptr(), bytes);
            steps(last.as_ptr(), row.add(whole * STEP), 1, sums);
        }
    }
}

/// `count` whole steps, at least one.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn steps(panel: *const u8, row: *const f32, count: usize, sums: &mut [f32; 16]) {
    /// Bits of the control register by which subnormal operands and results are zeros.
    const FLUSH: u32 = 0x8040;
    // As it is, and as it is meanwhile.
    let mut control = [0_u32; 2];
    /// Multiplies a pair of columns, its place being a line of the panel and eight bytes of the row.
    macro_rules! pair {
        ($line:literal) => {
            concat!(
                "vmovdqu64 {odd}, [{panel} + 64*",
                $line,
                "]\n",
                "prefetcht1 [{panel} + 64*",
                $line,
                " + {ahead}]\n",
                "vpslld {even}, {odd}, 16\n",
                "vpandd {odd}, {odd}, {high}\n",
                "vfmadd231ps {evens}, {even}, dword ptr [{row} + 8*",
                $line,
                "]{{1to16}}\n",
                "vfmadd231ps {odds}, {odd}, dword ptr [{row} + 8*",
                $line,
                " + 4]{{1to16}}\n",
            )
        };
    }
    // SAFETY: the caller's promise; a prefetch does not fault. The control register is what it was in the end.
    unsafe {
        asm!(
            "stmxcsr [{control}]",
            "mov {flushing:e}, [{control}]",
            "or {flushing:e}, {flush}",
            "mov [{control} + 4], {flushing:e}",
            "ldmxcsr [{control} + 4]",
            "vmovups {total}, [{sums}]",
            "2:",
            "vpxord {evens}, {evens}, {evens}",
            "vpxord {odds}, {odds}, {odds}",
            pair!("0"), pair!("1"), pair!("2"), pair!("3"),
            pair!("4"), pair!("5"), pair!("6"), pair!("7"),
            pair!("8"), pair!("9"), pair!("10"), pair!("11"),
            pair!("12"), pair!("13"), pair!("14"), pair!("15"),
            "vaddps {evens}, {evens}, {odds}",
            "vaddps {total}, {total}, {evens}",
            "add {panel}, 1024",
            "add {row}, 128",
            "dec {count}",
            "jnz 2b",
            "vmovups [{sums}], {total}",
            "ldmxcsr [{control}]",
            panel = inout(reg) panel => _,
            row = inout(reg) row => _,
            count = inout(reg) count => _,
            sums = in(reg) sums.as_mut_ptr(),
            control = in(reg) control.as_mut_ptr(),
            flushing = out(reg) _,
            flush = const FLUSH,
            ahead = const AHEAD,
            high = in(zmm_reg) _mm512_set1_epi32(0xffff_0000_u32 as i32),
            even = out(zmm_reg) _,
            odd = out(zmm_reg) _,
            evens = out(zmm_reg) _,
            odds = out(zmm_reg) _,
            total = out(zmm_reg) _,
            options(nostack),
        );
    }
}
