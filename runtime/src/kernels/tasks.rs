//! A matrix times some tokens, as tasks: which panels each has, and where its products go.
//!
//! A gate and what it opens (`function(x · gateᵀ) · (x · upᵀ)`) are the two halves of one matrix. A prompt's products
//! with both are larger than any cache near a core, so a task has the same panels of each half, and combines them while
//! they are there: those of the gate in the result, the others in memory of the thread.

use std::marker::PhantomData;
use std::ops::Range;

use llamac_plan::Activation;
use llamac_plan::layout::PANEL;

use super::elementwise::gate_rows;
use super::shares::Shares;
use super::views::SendMut;
use super::{Context, Matrix, Rows, RowsMut};

/// The most tokens that are multiplied at a time.
pub(super) const TOKENS: usize = 512;

/// Panels of each half in a task with a gate, so that their products stay in the second cache.
const GATED_PANELS: usize = 8;

/// Elements from one token's products to the next one's in a thread's memory: an odd number of cache lines, which do not
/// compete for the same places of the first cache.
const STRIDE: usize = (GATED_PANELS | 1) * PANEL;

/// Where a task's products go: the first token's, as if from the first panel on.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) start: *mut f32,
    /// Elements from one token to the next.
    pub(super) stride: usize,
}

/// What opens the second half of a matrix, whose halves are whole panels.
pub(super) struct Gate<'a> {
    function: Activation,
    memory: SendMut<f32>,
    /// Elements of each thread.
    room: usize,
    life: PhantomData<&'a mut [f32]>,
}

impl<'a> Gate<'a> {
    /// f32 elements that [`Gate::new`] wants for `tokens` tokens.
    pub(super) fn room(tokens: usize, threads: usize) -> usize {
        threads * tokens.min(TOKENS) * STRIDE
    }

    /// A gate in memory that it shares among `threads` threads.
    pub(super) fn new(function: Activation, memory: &'a mut [f32], threads: usize) -> Self {
        // Whole cache lines.
        let room = memory.len() / threads / PANEL * PANEL;
        Self { function, memory: SendMut(memory.as_mut_ptr()), room, life: PhantomData }
    }
}

/// A matrix times some tokens.
pub(super) struct Tasks<'a> {
    pub(super) weight: Matrix<'a>,
    pub(super) tokens: Range<usize>,
    pub(super) out: &'a RowsMut<'a>,
    pub(super) gate: Option<&'a Gate<'a>>,
}

impl Tasks<'_> {
    /// Calls `multiply` for all panels in parallel, about `most` at a time (with a gate no more than are combined at a
    /// time), with the thread's number and where products go.
    pub(super) fn run(
        &self,
        context: &Context,
        most: usize,
        multiply: &(dyn Fn(Range<usize>, usize, Place) + Sync),
    ) {
        let out = |token: usize| Place { start: self.out.pointer(token), stride: self.out.stride() };
        let (panels, threads) = (self.weight.layout().panels(), context.threads());
        let Some(gate) = self.gate else {
            let shares = Shares::new(panels, most, threads);
            return context.pool().run(shares.tasks(), &|task, worker| {
                multiply(shares.panels(task), worker, out(self.tokens.start));
            });
        };
        assert!(self.tokens.len() * STRIDE <= gate.room, "a thread has room for its products");
        let half = panels / 2;
        let shares = Shares::new(half, most.min(GATED_PANELS), threads);
        context.pool().run(shares.tasks(), &|task, worker| {
            let first = shares.panels(task);
            let second = half + first.start..half + first.end;
            let memory = gate.memory.get().wrapping_add(worker * gate.room);
            let place = out(self.tokens.start);
            multiply(first.clone(), worker, place);
            let start = memory.wrapping_sub(second.start * PANEL);
            multiply(second, worker, Place { start, stride: STRIDE });
            let (tokens, width) = (self.tokens.len(), first.len() * PANEL);
            let result = place.start.wrapping_add(first.start * PANEL);
            // SAFETY: the panels' products are inside the result's rows and the thread's part of the memory, where no
            // other task has any. The result is worked on in place.
            unsafe {
                let out = RowsMut::from_raw(result, tokens, width, place.stride);
                let gates = Rows::from_raw(result, tokens, width, place.stride);
                let opened = Rows::from_raw(memory, tokens, width, STRIDE);
                gate_rows(context, gate.function, gates, opened, &out, 0..tokens);
            }
        });
    }
}
