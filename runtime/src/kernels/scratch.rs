//! Memory that kernels reuse from call to call: it grows to the largest need and stays.

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// f32 elements on whole cache lines.
#[derive(Default)]
pub(super) struct Scratch {
    lines: Vec<Line>,
}

impl Scratch {
    /// At least `elements` elements: zeros at first, then whatever was left there.
    pub(super) fn get(&mut self, elements: usize) -> &mut [f32] {
        let lines = elements.div_ceil(16);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0.0; 16]));
        }
        // SAFETY: a line is sixteen initialized f32 without padding.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * 16) }
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scratch({} lines)", self.lines.len())
    }
}
