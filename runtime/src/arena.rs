//! The memory of a forward's activations: one block, cut into buffers by the plan.
//!
//! Windows of it are handed to kernels as raw views, several at a time. That they are inside the arena, and that a
//! step's result does not overlap its inputs except as the very same window, was checked when the model was opened.

use std::ops::Range;

use llamac_plan::{Buffer, Plan, Slice};

use crate::kernels::{Rows, RowsMut};
use crate::memory::Memory;

/// The activations of one chunk.
#[derive(Debug)]
pub(crate) struct Arena {
    memory: Memory,
    /// Tokens of the longest chunk: the factor between the plan's offsets and bytes.
    tokens: usize,
}

impl Arena {
    /// An arena for chunks of up to `tokens` tokens of a checked `plan`; `None` if there is not enough memory.
    pub(crate) fn new(plan: &Plan, tokens: usize) -> Option<Self> {
        Some(Self { memory: Memory::zeroed(plan.arena_bytes_per_token.checked_mul(tokens)?)?, tokens })
    }

    /// Some rows of a window, to read.
    ///
    /// # Safety
    /// `slice` passed the plan's check, and no [`RowsMut`] that overlaps it is written to while this view is read,
    /// unless it is the same window and the kernel works in place.
    pub(crate) unsafe fn rows(&self, buffers: &[Buffer], slice: &Slice, rows: Range<usize>) -> Rows<'_> {
        let (pointer, stride) = self.locate(buffers, slice, &rows);
        // SAFETY: `locate` stays inside the arena; aliasing is the caller's promise.
        unsafe { Rows::from_raw(pointer, rows.len(), slice.width, stride) }
    }

    /// Some rows of a window, to write.
    ///
    /// # Safety
    /// `slice` passed the plan's check, and no other view that overlaps it is used while this one is, unless it is
    /// the same window and the kernel works in place.
    pub(crate) unsafe fn rows_mut(
        &self,
        buffers: &[Buffer],
        slice: &Slice,
        rows: Range<usize>,
    ) -> RowsMut<'_> {
        let (pointer, stride) = self.locate(buffers, slice, &rows);
        // SAFETY: as above.
        unsafe { RowsMut::from_raw(pointer, rows.len(), slice.width, stride) }
    }

    fn locate(&self, buffers: &[Buffer], slice: &Slice, rows: &Range<usize>) -> (*mut f32, usize) {
        assert!(
            rows.start <= rows.end && rows.end <= self.tokens,
            "a chunk fits the arena that was made for it"
        );
        let buffer = &buffers[slice.buffer.0];
        let row_bytes = Buffer::row_bytes(buffer.width).expect("the plan was checked");
        let offset = buffer.offset * self.tokens + rows.start * row_bytes + slice.start * 4;
        // SAFETY: the buffer's rows end within `arena_bytes_per_token × tokens`, the size of the memory.
        (unsafe { self.memory.pointer().add(offset) }.cast(), row_bytes / 4)
    }
}
