//! What a caller of the engine may get wrong: every fault is told at once, in words, and no session has moved.

use std::sync::Arc;

use insta::assert_snapshot;
use llamac_compiler::driver::CompileOptions;
use llamac_runtime::bench::{self, BenchOptions, Event};
use llamac_runtime::{Engine, EngineOptions, Feed, Input, Keep, Session, SessionOptions};
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open};

fn run(name: &str) -> Engine {
    let fixture = Fixture::read(&golden::fixtures().join("tiny").join(name));
    engine(
        &open(&fixture),
        &CompileOptions::default(),
        EngineOptions { threads: 1, chunk: 16, compute: None },
    )
}

fn session(engine: &Engine, capacity: usize) -> Session {
    Session::new(engine.model(), SessionOptions { capacity, kv: None }).expect("there is memory")
}

#[test]
fn every_fault_of_every_feed_is_told() {
    let mut engine = run("gqa-f32");
    let [mut a, mut b, mut c] = [4, 4, 4].map(|capacity| session(&engine, capacity));
    let feeds = &mut [
        Feed { positions: Some(&[0, 1]), ..Feed::ids(&mut a, &[1, 9999, 3], Keep::None) },
        Feed { visible: Some(&[true; 3]), ..Feed::ids(&mut b, &[1; 5], Keep::Range(4, 6)) },
        Feed { input: Input::Embeddings(&[0.0; 33]), ..Feed::ids(&mut c, &[], Keep::None) },
    ];
    assert_snapshot!(engine.forward(feeds).unwrap_err(), @"
    error[E0400]: token id outside the vocabulary
      --> token 2
       expected an id below 67
       found    9999
    error[E0402]: invalid input tensor
       there must be a position for each token
       expected 3
       found    2
    error[E0402]: invalid input tensor
       the mask must have an entry for each token
       expected 5
       found    3
    error[E0402]: invalid input tensor
       the kept row is past the last token
       expected 5
       found    6
    error[E0401]: the context is full
       expected at most 4 tokens
       found    5 tokens
       help: open the session with a larger capacity, or feed less
    error[E0402]: invalid input tensor
       embeddings are not whole rows
       expected 32
       found    33
    ");
    // The sessions are as they were: what fits is computed as if nothing had been wrong.
    let expected = {
        let mut fresh = session(&engine, 4);
        engine.forward(&mut [Feed::ids(&mut fresh, &[1, 2, 3, 4], Keep::Last(1))]).unwrap().feed(0).to_vec()
    };
    let outputs = engine.forward(&mut [Feed::ids(&mut b, &[1, 2, 3, 4], Keep::Last(1))]).unwrap();
    assert_eq!(outputs.feed(0), expected);
    assert_snapshot!(engine.forward(&mut [Feed::ids(&mut b, &[5], Keep::None)]).unwrap_err(), @"
    error[E0401]: the context is full
       expected at most 4 tokens
       found    5 tokens
       help: open the session with a larger capacity, or feed less
    ");
}

#[test]
fn a_session_belongs_to_its_model() {
    let (mut engine, other) = (run("gqa-f32"), run("gqa-f32"));
    assert!(!Arc::ptr_eq(engine.model(), other.model()));
    let mut session = session(&other, 4);
    assert_snapshot!(engine.forward(&mut [Feed::ids(&mut session, &[1], Keep::None)]).unwrap_err(), @"
    error[E0402]: invalid input tensor
       a session can only be fed by an engine of its own model
    ");
}

#[test]
fn memory_that_is_not_there_is_told() {
    let engine = run("gqa-f32");
    let fault = Session::new(engine.model(), SessionOptions { capacity: usize::MAX, kv: None }).unwrap_err();
    assert!(fault.to_string().contains("does not fit into memory"), "{fault}");
}

#[test]
fn a_measurement_tells_how_far_contexts_are_filled() {
    // Chunks of 16 tokens.
    let mut engine = run("gqa-f32");
    let (depths, batches) = (vec![0, 20], vec![1, 3]);
    let options = BenchOptions { prompt: 5, new: 2, depths, batches, repetitions: 2, kv: None };
    let mut events = Vec::new();
    let measured = bench::bench(&mut engine, &options, |event| events.push(event)).expect("it runs");
    let filled = [Event::Filled(16), Event::Filled(4)].repeat(4);
    let repetitions = [Event::Repetition(0), Event::Repetition(1)];
    assert_eq!(events, [&[Event::Fill(80)][..], &filled, &repetitions].concat());
    assert_eq!(measured.measurements.len(), 5);
}
