//! Kernels: the arithmetic of a forward, on the CPU: in f32, but for products in bf16 and in integers.
//!
//! Every function here is safe, checks its shapes, and runs in parallel on its [`Context`]'s threads. Inside, each
//! kernel is one generic function over sixteen-lane vectors (`simd`), compiled for every instruction set and chosen
//! once, when the context is made. On one instruction set results are the same bits for any number of threads, and a
//! row's are the same whatever other rows are computed with it.
//!
//! Shapes that do not fit together are a caller's error and panic: a plan was checked before it runs. Not here: which
//! buffers live where (the arena), and the order of steps (the executor).

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bf16;
mod codes;
mod elementwise;
mod embed;
mod gate;
mod isa;
mod kv;
mod linear;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
pub mod peak;
mod rotary;
mod scalar;
mod scratch;
mod shares;
mod simd;
mod tasks;
#[cfg(test)]
mod testing;
mod tile;
mod views;
mod widen;

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use attention::{Segment, attention};
pub use elementwise::{activate, add, copy, gather_rows, mul};
pub use embed::embed;
pub use gate::gated_linear;
pub use isa::Isa;
pub use kv::{BLOCK as KV_BLOCK, KvLayout, append};
pub use linear::linear;
pub use norm::{add_rms_norm, rms_norm};
pub use rotary::{rotary, rotary_angles};
pub use views::{Matrix, Rows, RowsMut};

use crate::pool::Pool;
use scratch::Scratch;

/// Elements of simple work that are worth a task of their own: some microseconds. In Miri, few: there,
/// too, threads divide the work.
const TASK_ELEMENTS: usize = if cfg!(miri) { 64 } else { 32 << 10 };

/// What kernels run on: an instruction set, threads, and memory that they reuse.
///
/// Kernels that are called from several threads on one context take turns.
#[derive(Debug)]
pub struct Context {
    isa: Isa,
    pool: Pool,
    /// Packed activations of a linear layer.
    packed: Mutex<Scratch>,
    /// Products of a gate and what it opens, before they are combined.
    halves: Mutex<Scratch>,
    /// One for each thread of the pool.
    workers: Box<[Mutex<Scratch>]>,
}

impl Context {
    /// A context with `threads` threads (the caller's included) and this processor's fastest instruction set.
    pub fn new(threads: usize) -> Self {
        Self::of(threads, Isa::detect())
    }

    /// A context with a given instruction set; `None` if this processor does not have it.
    pub fn with_isa(threads: usize, isa: Isa) -> Option<Self> {
        isa.is_available().then(|| Self::of(threads, isa))
    }

    fn of(threads: usize, isa: Isa) -> Self {
        let pool = Pool::new(threads);
        let workers = (0..pool.threads()).map(|_| Mutex::default()).collect();
        Self { isa, pool, packed: Mutex::default(), halves: Mutex::default(), workers }
    }

    /// The instruction set; this processor has it.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    fn tile_tokens(&self) -> usize {
        self.isa.tile_tokens().0
    }

    fn packed(&self) -> MutexGuard<'_, Scratch> {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn halves(&self) -> MutexGuard<'_, Scratch> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker_scratch(&self, worker: usize) -> &Mutex<Scratch> {
        &self.workers[worker]
    }

    /// Runs `job` over all rows, divided between threads where their `elements` each make that worth while.
    fn for_rows(&self, rows: usize, elements: usize, job: &(dyn Fn(Range<usize>) + Sync)) {
        let rows_a_task = (TASK_ELEMENTS / elements.max(1)).max(1);
        self.pool.run(rows.div_ceil(rows_a_task), &|task, _| {
            job(task * rows_a_task..rows.min((task + 1) * rows_a_task));
        });
    }
}
