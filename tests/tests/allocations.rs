//! Decoding allocates nothing once an engine has seen its largest forward.
//!
//! Without the test harness, whose own thread allocates when it likes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llamac_plan::KvDtype;
use llamac_runtime::{EngineOptions, Feed, Keep, Session, SessionOptions};
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open, stored};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

/// Pages that this process has mapped, whoever asked for them: kernels' memory does not come from the allocator.
fn mapped() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("the process's sizes");
    pages.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number")
}

fn main() {
    for (name, threads, weights, kv) in [
        ("gqa-f32", 1, "as-is", KvDtype::F32),
        ("gqa3-bf16", 2, "as-is", KvDtype::Bf16),
        ("gqa-f32", 2, "q8", KvDtype::Int8),
        ("gqa3-bf16", 1, "q4", KvDtype::Int8),
        ("rope-dynamic-new", 2, "as-is", KvDtype::F32),
        ("rope-longrope-new", 2, "as-is", KvDtype::F16),
    ] {
        let fixture = Fixture::read(&golden::fixtures().join("tiny").join(name));
        let options = EngineOptions { threads, chunk: 40, compute: None };
        let mut engine = engine(&open(&fixture), &stored(weights), options);
        let options = SessionOptions { capacity: 200, kv: Some(kv) };
        let mut session = Session::new(engine.model(), options).expect("there is memory");
        // A prompt as long as a chunk; later tokens come alone.
        let prompt: Vec<u32> = (1..=40).collect();
        engine.forward(&mut [Feed::ids(&mut session, &prompt, Keep::Last(1))]).expect("a prompt");
        let mut step = |token: u32| {
            let outputs = [token];
            let mut feeds = [Feed::ids(&mut session, &outputs, Keep::Last(1))];
            engine.forward(&mut feeds).map(|outputs| outputs.feed(0)[0]).unwrap_or_else(|e| panic!("{e}"))
        };
        // Threads allocate when they start and end: those of the compilation have had time to end, the engine's to start.
        std::thread::sleep(Duration::from_millis(500));
        let pages = mapped();
        let before = (ALLOCATIONS.load(Ordering::Relaxed), pages);
        let sum: f32 = (0..150).map(|i| step(i % 60)).sum();
        let after = (ALLOCATIONS.load(Ordering::Relaxed), mapped());
        assert!(sum.is_finite());
        assert_eq!(after, before, "{name} as {weights}, {kv:?}, on {threads} threads");
    }
}
