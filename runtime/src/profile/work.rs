//! What a step has to do at least: the bytes that it must read from memory, and the arithmetic. Both follow from the
//! plan; what they take on a machine follows from [`Limits`].
//!
//! Activations are not counted: they stay in the caches. Nor is what a kernel does beyond its result, such as finding
//! the largest score.

use std::ops::AddAssign;

use llamac_plan::{Arithmetic, Compute, KvDtype, Plan, Rows, Slice, Step, WeightId, WeightLayout};

use crate::kernels::{KV_BLOCK, KvLayout};

/// Bytes and operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of weights and caches.
    pub bytes: u64,
    /// Floating-point operations in f32; a multiplication and an addition are two.
    pub f32_ops: u64,
    /// Operations with bf16 factors.
    pub bf16_ops: u64,
    /// Operations with 8-bit factors.
    pub int8_ops: u64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.f32_ops += other.f32_ops;
        self.bf16_ops += other.bf16_ops;
        self.int8_ops += other.int8_ops;
    }
}

impl Work {
    /// All operations.
    pub fn ops(&self) -> u64 {
        self.f32_ops + self.bf16_ops + self.int8_ops
    }

    /// Seconds that a machine of these limits takes at least: reading and arithmetic go on at the same time.
    pub fn seconds(&self, limits: &Limits) -> f64 {
        let arithmetic = self.f32_ops as f64 / limits.ops(Arithmetic::F32)
            + self.bf16_ops as f64 / limits.ops(Arithmetic::Bf16)
            + self.int8_ops as f64 / limits.ops(Arithmetic::Int8);
        (self.bytes as f64 / limits.read).max(arithmetic)
    }

    fn multiply_add(arithmetic: Arithmetic, ops: u64) -> Self {
        match arithmetic {
            Arithmetic::F32 => Self { f32_ops: ops, ..Self::default() },
            Arithmetic::Bf16 => Self { bf16_ops: ops, ..Self::default() },
            Arithmetic::Int8 => Self { int8_ops: ops, ..Self::default() },
        }
    }
}

/// What all threads together reach at best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes a second from memory.
    pub read: f64,
    /// f32 operations a second.
    pub f32: f64,
    /// Operations a second with bf16 factors, where there are instructions for them.
    pub bf16: Option<f64>,
    /// Operations a second with 8-bit factors, where there are instructions for them.
    pub int8: Option<f64>,
}

impl Limits {
    /// Operations a second; without instructions for an arithmetic those of f32, which does its work.
    pub fn ops(&self, arithmetic: Arithmetic) -> f64 {
        match arithmetic {
            Arithmetic::F32 => self.f32,
            Arithmetic::Bf16 => self.bf16.unwrap_or(self.f32),
            Arithmetic::Int8 => self.int8.unwrap_or(self.f32),
        }
    }
}

/// A chunk, as far as work depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkShape {
    /// Its tokens.
    pub(crate) tokens: usize,
    /// Its kept rows.
    pub(crate) kept: usize,
    /// The sum over its tokens of the cache slots that each sees.
    pub(crate) seen: u64,
    /// The sum over its sequences of the cache slots that any of its tokens sees.
    pub(crate) cached: u64,
    /// The precision of matrix products.
    pub(crate) compute: Compute,
    /// How the caches are stored.
    pub(crate) cache: KvLayout,
}

/// What `step` of `plan` has to do for a chunk.
pub(crate) fn of_step(plan: &Plan, step: &Step, chunk: &ChunkShape) -> Work {
    let rows = |slice: &Slice| match plan.buffers[slice.buffer.0].rows {
        Rows::Tokens => chunk.tokens as u64,
        Rows::Kept => chunk.kept as u64,
    };
    match step {
        Step::Embed { table, .. } => {
            let bytes = bytes_of(plan, *table) / plan.shape.vocab_size.max(1) as u64;
            Work { bytes: bytes * chunk.tokens as u64, ..Work::default() }
        }
        Step::Linear { x, weight, bias, .. } | Step::OutputLinear { x, weight, bias } if rows(x) > 0 => {
            let bytes = bytes_of(plan, *weight) + bias.map_or(0, |bias| bytes_of(plan, bias));
            let WeightLayout::Matrix(layout) = plan.weights[weight.0].layout else { return Work::default() };
            let ops = 2 * rows(x) * layout.rows as u64 * layout.cols as u64;
            Work { bytes, ..Work::multiply_add(chunk.compute.arithmetic(layout.dtype), ops) }
        }
        Step::Attention { heads, .. } => {
            let KvLayout { dtype, head_dim, .. } = chunk.cache;
            let arithmetic = match dtype {
                KvDtype::Int8 => Arithmetic::Int8,
                KvDtype::F32 | KvDtype::F16 | KvDtype::Bf16 => Arithmetic::F32,
            };
            let block = chunk.cache.layer_bytes(KV_BLOCK).unwrap_or(0) as u64;
            let ops = 4 * chunk.seen * (*heads * head_dim) as u64;
            Work { bytes: chunk.cached * block / KV_BLOCK as u64, ..Work::multiply_add(arithmetic, ops) }
        }
        _ => Work::default(),
    }
}

fn bytes_of(plan: &Plan, weight: WeightId) -> u64 {
    plan.weights[weight.0].layout.bytes().unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_reading_and_computing_decides() {
        let limits = Limits { read: 10.0, f32: 100.0, bf16: None, int8: Some(400.0) };
        let work = |bytes, f32_ops, int8_ops| Work { bytes, f32_ops, int8_ops, ..Work::default() };
        assert_eq!(work(50, 100, 0).seconds(&limits), 5.0);
        assert_eq!(work(5, 100, 400).seconds(&limits), 2.0);
        // Without instructions for bf16 it is widened.
        assert_eq!(Work { bf16_ops: 300, ..Work::default() }.seconds(&limits), 3.0);
        assert_eq!(work(1, 2, 3).ops(), 5);
    }
}
