//! Choosing a token allocates nothing once the sampler has seen its first.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use llamac_runtime::sampling::{Sampler, Sampling};

struct Counting;

thread_local! {
    /// Of this thread alone: the harness has others.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_chosen_token_allocates_nothing() {
    let n = 5_000;
    let sampled = Sampling { do_sample: true, repetition_penalty: 1.1, ..Sampling::default() };
    for sampling in [
        Sampling { repetition_penalty: 1.1, ..Sampling::default() },
        sampled.clone(),
        Sampling { top_k: 0, top_p: 0.9, min_p: Some(0.01), temperature: 0.7, ..sampled.clone() },
        Sampling { top_k: 0, ..sampled },
    ] {
        let mut sampler = Sampler::new(sampling.clone(), n).expect("valid settings");
        let mut logits = vec![0.0; n];
        let mut step = |round: usize| {
            for (i, z) in logits.iter_mut().enumerate() {
                *z = ((i * 37 + round * 101) % 997) as f32 * 0.01;
            }
            sampler.next(&mut logits).expect("a token")
        };
        step(0);
        let before = ALLOCATIONS.get();
        let sum: u64 = (1..60).map(|round| u64::from(step(round))).sum();
        let after = ALLOCATIONS.get();
        assert!(sum > 0);
        assert_eq!(after - before, 0, "{sampling:?}");
    }
}
