//! Memory that kernels reuse from call to call: it grows to the largest need and stays.

use crate::memory::Memory;

/// f32 elements on whole cache lines.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    memory: Option<Memory>,
}

impl Scratch {
    /// At least `elements` elements, of any content.
    ///
    /// # Panics
    /// If the system has no more memory.
    pub(super) fn get(&mut self, elements: usize) -> &mut [f32] {
        let bytes = elements.next_multiple_of(16) * 4;
        let memory = match self.memory.take() {
            Some(memory) if memory.len() >= bytes => memory,
            old => {
                // Not for each prompt that is a little longer than the last.
                let bytes = bytes.max(2 * old.as_ref().map_or(0, Memory::len));
                drop(old);
                Memory::zeroed(bytes).expect("there is memory for a kernel")
            }
        };
        let memory = self.memory.insert(memory);
        // SAFETY: the memory is initialized, as zeros at first, and f32 are; `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(memory.pointer().cast(), memory.len() / 4) }
    }
}
