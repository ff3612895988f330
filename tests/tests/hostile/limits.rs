//! Time and memory of reading a file.
//!
//! Memory is counted for each thread by itself, so that tests may run side by side: what is measured here works on
//! the calling thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// What reading a file may take beside twice the file.
const MEMORY: usize = 64 << 20;

/// Far more than any case takes on a busy machine.
const TIME: Duration = Duration::from_secs(20);

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

impl Counting {
    fn grow(bytes: usize) {
        // A thread that is ending has no counters any more.
        let _ = NOW.try_with(|now| {
            now.set(now.get().wrapping_add(bytes));
            // Memory that another thread allocated and this one freed leaves a count below zero.
            let _ = PEAK.try_with(|peak| {
                if (now.get() as isize) > peak.get() as isize {
                    peak.set(now.get());
                }
            });
        });
    }
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::grow(layout.size());
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::grow(layout.size().wrapping_neg());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads a file of `bytes`, and holds the reading to its limits. Returns what was read.
#[track_caller]
pub fn limited<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    within(2 * bytes + MEMORY, read)
}

/// Reads a file with at most `memory` bytes.
#[track_caller]
pub fn within<T>(memory: usize, read: impl FnOnce() -> T) -> T {
    let before = NOW.get();
    PEAK.set(before);
    let start = Instant::now();
    let value = read();
    let (taken, peak) = (start.elapsed(), PEAK.get().wrapping_sub(before));
    assert!(peak <= memory, "{peak} bytes of memory, more than {memory}");
    assert!(taken <= TIME, "{taken:?}");
    value
}

#[test]
fn what_is_allocated_and_freed_again_counts() {
    let peak = |bytes: usize| {
        PEAK.set(NOW.get());
        let before = NOW.get();
        drop(vec![1u8; bytes]);
        PEAK.get() - before
    };
    assert_eq!(peak(1 << 20), 1 << 20);
    assert_eq!(peak(1 << 10), 1 << 10);
    let faulty = std::panic::catch_unwind(|| limited(0, || drop(vec![0u8; MEMORY + 1])));
    assert!(faulty.is_err());
}
