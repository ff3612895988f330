//! The choice of an instruction set, made once.

use super::scalar::Scalar;
use super::simd::{Kernel, Simd};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, for any processor.
    Scalar,
}

impl Isa {
    /// The fastest that this processor has.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Scalar)
    }

    /// Those that this processor has, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Scalar].into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
        }
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
        }
    }

    /// Tokens of a full matrix tile.
    pub(super) fn tile_tokens(self) -> usize {
        match self {
            Self::Scalar => Scalar::TILE_TOKENS,
        }
    }

    /// Runs `kernel` compiled for this instruction set.
    ///
    /// # Safety
    /// This processor has it; and what the kernel demands.
    #[inline]
    pub(super) unsafe fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Scalar => Scalar::call(kernel),
            }
        }
    }
}
