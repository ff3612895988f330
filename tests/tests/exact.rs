//! The same bits for the same tokens at the same positions, whatever runs beside them and however they are cut.

use llamac_compiler::driver::CompileOptions;
use llamac_plan::KvDtype;
use llamac_plan::eval::{Request, Tokens};
use llamac_plan::layout::WeightDtype;
use llamac_runtime::{Engine, EngineOptions, Feed, Keep, Session, SessionOptions};
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open};

const FIXTURES: [&str; 5] = ["gqa-f32", "gqa3-bf16", "all-bias-f16", "odd-sizes", "rope-llama3-new"];

fn compiled(name: &str, options: &CompileOptions, threads: usize, chunk: usize) -> Engine {
    let fixture = Fixture::read(&golden::fixtures().join("tiny").join(name));
    engine(&open(&fixture), options, EngineOptions { threads, chunk })
}

/// Token ids that a model of any vocabulary of at least 60 has.
fn ids(seed: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i * 7 + i * 13 + seed * 29) % 60) as u32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn request(ids: Vec<u32>, cached: usize) -> Request {
    let seq = ids.len();
    let tokens = Tokens::Ids(ids);
    Request { batch: 1, seq, tokens, mask: None, positions: None, keep: None, hidden_states: true, cached }
}

fn forward(engine: &mut Engine, request: &Request, kv: KvDtype) -> Vec<Vec<u32>> {
    let outputs = llamac_runtime::eval(engine, request, kv).unwrap_or_else(|e| panic!("{e}"));
    outputs.iter().map(|output| bits(&output.data)).collect()
}

#[test]
fn threads_chunks_and_the_cache_change_nothing() {
    for name in FIXTURES {
        for weights in [None, Some(WeightDtype::F32), Some(WeightDtype::F16), Some(WeightDtype::Bf16)] {
            let options = CompileOptions { weights, ..CompileOptions::default() };
            for kv in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16] {
                let expected = forward(&mut compiled(name, &options, 1, 512), &request(ids(1, 150), 0), kv);
                for (threads, chunk, cached) in
                    [(2, 512, 0), (1, 1, 0), (2, 7, 0), (1, 64, 0), (2, 512, 20), (1, 7, 86)]
                {
                    let mut engine = compiled(name, &options, threads, chunk);
                    let found = forward(&mut engine, &request(ids(1, 150), cached), kv);
                    assert!(
                        found == expected,
                        "{name} {weights:?} {kv:?}: {threads} threads, chunks of {chunk}, {cached} single steps"
                    );
                }
            }
        }
    }
}

#[test]
fn sequences_that_come_and_go_change_nothing_for_each_other() {
    for name in FIXTURES {
        let mut engine = compiled(name, &CompileOptions::default(), 2, 24);
        let width = engine.model().output_width();
        let prompts: Vec<Vec<u32>> = (0..8).map(|i| ids(i, 40 + 9 * i)).collect();
        let alone: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| forward(&mut engine, &request(prompt.clone(), 0), KvDtype::F32).swap_remove(0))
            .collect();
        // Sequence i enters at step i with i + 1 tokens and goes on with 1 + i % 5 tokens a step until it ends.
        let options = SessionOptions { capacity: 128, kv: Some(KvDtype::F32) };
        let mut sessions: Vec<Session> =
            prompts.iter().map(|_| Session::new(engine.model(), options).expect("there is memory")).collect();
        let mut found: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
        for step in 0.. {
            let mut feeds = Vec::new();
            let mut rows = Vec::new();
            for (i, session) in sessions.iter_mut().enumerate().filter(|(i, _)| *i <= step) {
                let fed = session.len();
                let next = if fed == 0 { i + 1 } else { 1 + i % 5 };
                let tokens = &prompts[i][fed..prompts[i].len().min(fed + next)];
                if !tokens.is_empty() {
                    feeds.push(Feed::ids(session, tokens, Keep::All));
                    rows.push(i);
                }
            }
            if feeds.is_empty() {
                break;
            }
            let outputs = engine.forward(&mut feeds).unwrap_or_else(|e| panic!("{e}"));
            for (feed, i) in rows.into_iter().enumerate() {
                found[i].extend(bits(outputs.feed(feed)));
            }
        }
        for (i, (found, alone)) in found.iter().zip(&alone).enumerate() {
            assert_eq!(found.len(), prompts[i].len() * width);
            assert!(found == alone, "{name}: sequence {i} is not what it is alone");
        }
    }
}

#[test]
fn a_declared_length_makes_cuts_harmless_where_frequencies_depend_on_it() {
    for name in ["rope-dynamic-new", "rope-longrope-new"] {
        let mut engine = compiled(name, &CompileOptions::default(), 2, 64);
        let prompt = ids(3, 80);
        let options = SessionOptions { capacity: 80, kv: None };
        let mut read = |cuts: &[usize], declared: bool| {
            let mut session = Session::new(engine.model(), options).expect("there is memory");
            if declared {
                session.declare_length(80);
            }
            let mut found = Vec::new();
            let mut start = 0;
            for &cut in cuts {
                let mut feeds = [Feed::ids(&mut session, &prompt[start..cut], Keep::All)];
                found.extend(bits(engine.forward(&mut feeds).unwrap_or_else(|e| panic!("{e}")).feed(0)));
                start = cut;
            }
            found
        };
        let whole = read(&[80], false);
        assert!(read(&[5, 17, 40, 80], true) == whole, "{name}");
        assert!(read(&[5, 17, 40, 80], false) != whole, "{name}: the threshold is crossed");
    }
}

#[test]
fn compiling_with_other_threads_gives_the_same_bytes() {
    use llamac_compiler::driver::{Silent, compile};
    use llamac_compiler::output::Output;
    let folder = tempfile::tempdir().expect("there is room");
    for name in FIXTURES {
        let fixture = Fixture::read(&golden::fixtures().join("tiny").join(name));
        let bytes = |threads: usize| {
            let path = folder.path().join(format!("{name}-{threads}"));
            let output = Output::create(&path).expect("there is room");
            let options = CompileOptions { threads, ..CompileOptions::default() };
            compile(&open(&fixture), &options, &output, &Silent).unwrap_or_else(|e| panic!("{e}"));
            output.publish().expect("there is room");
            std::fs::read(&path).expect("it is there")
        };
        assert!(bytes(1) == bytes(2), "{name}");
        assert!(bytes(2) == bytes(2), "{name}");
    }
}
