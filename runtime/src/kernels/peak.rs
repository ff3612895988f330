//! What the machine can do at best: the limits that speeds are compared with. Reading memory with all threads, and
//! multiplying and adding in registers with the widest instruction of each arithmetic.
//!
//! Nothing here is a result of anything; only the time it takes matters.

use std::hint::black_box;

use llamac_plan::Arithmetic;

use super::Context;
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::isa::Isa;

/// Parts that each thread's share of the memory is cut into.
const PARTS: usize = 8;

/// Multiply-add instructions of a chain. A call takes some tens of microseconds.
const STEPS: usize = 8192;

/// Independent chains of a thread: enough to hide an instruction's latency, few enough for the registers.
const CHAINS: usize = 12;

/// Reads all of `bytes` with all threads.
pub fn read(context: &Context, bytes: &[u8]) {
    let tasks = PARTS * context.threads();
    let part = bytes.len().div_ceil(tasks).next_multiple_of(64).max(64);
    context.pool().run(tasks, &|task, _| {
        let bytes = &bytes[bytes.len().min(task * part)..bytes.len().min((task + 1) * part)];
        black_box(combine(context.isa(), bytes));
    });
}

/// Multiplies and adds with all threads. Returns the number of operations (a multiplication and an addition are two),
/// or `None` if the instruction set has no instruction of this arithmetic.
pub fn multiply_add(context: &Context, arithmetic: Arithmetic) -> Option<u64> {
    let chains = chains(context.isa(), arithmetic)?;
    context.pool().run(context.threads(), &|_, _| {
        // SAFETY: `chains` chose a function for an instruction set that this processor has.
        unsafe { (chains.run)() };
    });
    Some((context.threads() * chains.operations) as u64)
}

/// A loop of independent instructions.
struct Chains {
    run: unsafe fn(),
    /// Operations of all of them.
    operations: usize,
}

#[cfg(target_arch = "x86_64")]
fn chains(isa: Isa, arithmetic: Arithmetic) -> Option<Chains> {
    let (run, operations): (unsafe fn(), usize) = match (isa, arithmetic) {
        (Isa::Amx, Arithmetic::Bf16) => {
            return Some(Chains { run: x86::bf16_tiles, operations: x86::ROUNDS * amx::BF16_OPERATIONS });
        }
        (Isa::Amx, Arithmetic::Int8) => {
            return Some(Chains { run: x86::code_tiles, operations: x86::ROUNDS * amx::CODE_OPERATIONS });
        }
        (Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512, Arithmetic::F32) => (x86::f32_512, 32),
        (Isa::Avx512Bf16, Arithmetic::Bf16) => (x86::bf16_512, 64),
        (Isa::Avx512Bf16 | Isa::Avx512, Arithmetic::Int8) => (x86::int8_512, 128),
        (Isa::Avx2, Arithmetic::F32) => (x86::f32_256, 16),
        (Isa::Avx2, Arithmetic::Int8) => (x86::int8_256, 64),
        (Isa::Avx512 | Isa::Avx2, Arithmetic::Bf16) => return None,
        (Isa::Scalar, arithmetic) => return plain(arithmetic),
    };
    Some(Chains { run, operations: STEPS * CHAINS * operations })
}

#[cfg(target_arch = "aarch64")]
fn chains(isa: Isa, arithmetic: Arithmetic) -> Option<Chains> {
    match (isa, arithmetic) {
        (Isa::Neon, Arithmetic::F32) => Some(Chains { run: neon::f32_128, operations: STEPS * CHAINS * 8 }),
        (Isa::Neon, Arithmetic::Int8) => {
            Some(Chains { run: neon::int8_128, operations: STEPS * CHAINS * 16 })
        }
        (Isa::Neon, Arithmetic::Bf16) => None,
        (Isa::Scalar, arithmetic) => plain(arithmetic),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn chains(_: Isa, arithmetic: Arithmetic) -> Option<Chains> {
    plain(arithmetic)
}

fn plain(arithmetic: Arithmetic) -> Option<Chains> {
    (arithmetic == Arithmetic::F32).then_some(Chains { run: f32_plain, operations: STEPS * CHAINS * 2 })
}

fn f32_plain() {
    let mut sums = [black_box(0.1_f32); CHAINS];
    let (a, b) = (black_box(0.9_f32), black_box(0.1_f32));
    for _ in 0..STEPS {
        sums.iter_mut().for_each(|sum| *sum = *sum * a + b);
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
fn combine(isa: Isa, bytes: &[u8]) -> u64 {
    match isa {
        // SAFETY: the context's instruction set is available, and AVX-512 comes with AVX2.
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { x86::combine(bytes) },
        Isa::Scalar => combine_plainly(bytes),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn combine(_: Isa, bytes: &[u8]) -> u64 {
    combine_plainly(bytes)
}

fn combine_plainly(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 16];
    for line in bytes.as_chunks::<128>().0 {
        for (sum, bytes) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum ^= u64::from_le_bytes(*bytes);
        }
    }
    sums.iter().fold(0, |a, b| a ^ b)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{CHAINS, STEPS, amx};

    /// Rounds of products of tiles: as long as the other loops.
    pub(super) const ROUNDS: usize = STEPS / 4;

    pub(super) unsafe fn bf16_tiles() {
        // SAFETY: the caller has AMX.
        unsafe { amx::bf16_chains(ROUNDS) }
    }

    pub(super) unsafe fn code_tiles() {
        // SAFETY: the caller has AMX.
        unsafe { amx::code_chains(ROUNDS) }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn combine(bytes: &[u8]) -> u64 {
        /// As far ahead as the kernels ask.
        const AHEAD: usize = 4096;
        let mut sums = [_mm256_setzero_si256(); 8];
        for chunk in bytes.as_chunks::<256>().0 {
            let pointer = chunk.as_ptr();
            for (i, sum) in sums.iter_mut().enumerate() {
                // Line by line: loads wait behind a heap of requests.
                if i % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T1>(pointer.wrapping_add(AHEAD + 32 * i).cast());
                }
                // SAFETY: the chunk has eight vectors.
                *sum = _mm256_xor_si256(*sum, unsafe { _mm256_loadu_si256(pointer.add(32 * i).cast()) });
            }
        }
        let sum = sums.iter().fold(_mm256_setzero_si256(), |a, &b| _mm256_xor_si256(a, b));
        _mm256_extract_epi64::<0>(sum) as u64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_512() {
        let mut sums = [_mm512_set1_ps(black_box(0.1)); CHAINS];
        let (a, b) = (_mm512_set1_ps(black_box(0.9)), _mm512_set1_ps(black_box(0.1)));
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, a, b));
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16_512() {
        let mut sums = [_mm512_set1_ps(black_box(0.1)); CHAINS];
        let one = black_box([0x3f80_u16; 32]);
        // SAFETY: 64 bytes of any bits are 32 bf16.
        let a: __m512bh = unsafe { std::mem::transmute(one) };
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, a, a));
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8_512() {
        let mut sums = [_mm512_set1_epi32(black_box(1)); CHAINS];
        let a = _mm512_set1_epi8(black_box(1));
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, a, a));
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_256() {
        let mut sums = [_mm256_set1_ps(black_box(0.1)); CHAINS];
        let (a, b) = (_mm256_set1_ps(black_box(0.9)), _mm256_set1_ps(black_box(0.1)));
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, a, b));
        }
        black_box(sums);
    }

    /// Products of bytes, widened twice: what there is without an instruction for it.
    #[target_feature(enable = "avx2")]
    pub(super) fn int8_256() {
        let mut sums = [_mm256_set1_epi32(black_box(1)); CHAINS];
        let (a, ones) = (_mm256_set1_epi8(black_box(1)), _mm256_set1_epi16(black_box(1)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                let bytes = _mm256_xor_si256(*sum, a);
                let products = _mm256_madd_epi16(_mm256_maddubs_epi16(a, bytes), ones);
                *sum = _mm256_add_epi32(*sum, products);
            }
        }
        black_box(sums);
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;
    use std::hint::black_box;

    use super::{CHAINS, STEPS};

    #[target_feature(enable = "neon")]
    pub(super) fn f32_128() {
        let mut sums = [vdupq_n_f32(black_box(0.1)); CHAINS];
        let a = vdupq_n_f32(black_box(0.9));
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = vfmaq_f32(a, *sum, a));
        }
        black_box(sums);
    }

    /// Eight products of bytes and their sums by pairs.
    #[target_feature(enable = "neon")]
    pub(super) fn int8_128() {
        let mut sums = [vdupq_n_s32(black_box(1)); CHAINS];
        let a = vdup_n_s8(black_box(1));
        for _ in 0..STEPS {
            for sum in &mut sums {
                let bytes = veor_s8(a, vreinterpret_s8_s32(vget_low_s32(*sum)));
                *sum = vpadalq_s16(*sum, vmull_s8(a, bytes));
            }
        }
        black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "loops of thousands of steps in registers")]
    fn every_instruction_set_has_limits() {
        for isa in Isa::available() {
            let context = Context::with_isa(2, isa).expect("it is available");
            assert!(multiply_add(&context, Arithmetic::F32).expect("all have f32") > 0);
            for arithmetic in [Arithmetic::Bf16, Arithmetic::Int8] {
                assert_ne!(multiply_add(&context, arithmetic), Some(0));
            }
            for len in [0, 1, 64, 1000, 1 << 16] {
                read(&context, &vec![1; len]);
            }
        }
    }

    #[test]
    fn all_of_the_memory_counts() {
        let bytes: Vec<u8> = (0..1024).map(|i| (i % 251) as u8).collect();
        let all = combine_plainly(&bytes);
        for place in (0..bytes.len()).step_by(8) {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert_ne!(combine_plainly(&other), all, "{place}");
        }
    }
}
