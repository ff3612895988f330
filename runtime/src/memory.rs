//! Zeroed memory, aligned to cache lines, that fails instead of aborting.
//!
//! Pages that are never touched are never backed, so a cache may be as large as its context without costing it.

use std::cell::UnsafeCell;

use bytemuck::Zeroable;

/// A cache line.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A block of bytes with interior mutability; whoever hands out views keeps writers apart from readers.
pub(crate) struct Memory {
    lines: Box<[UnsafeCell<Line>]>,
}

// SAFETY: the bytes are only reached through raw pointers, whose users promise to keep threads apart.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.len())
    }
}

impl Memory {
    /// At least `bytes` zeros, or `None` if the system has no more.
    pub(crate) fn zeroed(bytes: usize) -> Option<Self> {
        let lines = bytemuck::allocation::try_zeroed_slice_box::<Line>(bytes.div_ceil(64)).ok()?;
        let lines = Box::into_raw(lines) as *mut [UnsafeCell<Line>];
        // SAFETY: `UnsafeCell<Line>` has the layout of `Line`, and the box gave up its ownership.
        Some(Self { lines: unsafe { Box::from_raw(lines) } })
    }

    /// Its size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.lines.len() * 64
    }

    /// Its start.
    pub(crate) fn pointer(&self) -> *mut u8 {
        self.lines.as_ptr() as *mut u8
    }
}
