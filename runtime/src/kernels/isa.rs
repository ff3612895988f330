//! The choice of an instruction set, made once.

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::scalar::Scalar;
use super::simd::{Kernel, Simd};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AMX with tiles of bf16 and bytes, beside AVX-512 with VNNI and BF16.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 with VNNI and BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Plain Rust, for any processor.
    Scalar,
}

impl Isa {
    /// All that this build has kernels for, the fastest first.
    const ALL: &[Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::Amx,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        Self::Scalar,
    ];

    /// The fastest that this processor has.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Scalar)
    }

    /// Those that this processor has, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|isa| isa.is_available())
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => super::amx::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Avx512::<true>::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::<false>::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::is_available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            Self::Scalar => true,
        }
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            Self::Scalar => "scalar",
        }
    }

    /// Tokens of a full matrix tile of numbers, and of codes.
    pub(super) fn tile_tokens(self) -> (usize, usize) {
        const fn of<S: Simd>() -> (usize, usize) {
            (S::TILE_TOKENS, S::CODE_TILE_TOKENS)
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512Bf16 => of::<Avx512<true>>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => of::<Avx512<false>>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => of::<Avx2>(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => of::<Neon>(),
            Self::Scalar => of::<Scalar>(),
        }
    }

    /// Runs `kernel` compiled for this instruction set's vectors.
    ///
    /// # Safety
    /// This processor has it; and what the kernel demands.
    #[inline]
    pub(super) unsafe fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Amx | Self::Avx512Bf16 => Avx512::<true>::call(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => Avx512::<false>::call(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => Avx2::call(kernel),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => Neon::call(kernel),
                Self::Scalar => Scalar::call(kernel),
            }
        }
    }
}
