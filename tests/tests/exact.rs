//! The same bits for the same tokens at the same positions, whatever runs beside them and however they are cut.

use llamac_compiler::driver::CompileOptions;
use llamac_plan::eval::{Request, Tokens};
use llamac_plan::{Compute, KvDtype};
use llamac_runtime::{Engine, EngineOptions, Feed, Keep, Session, SessionOptions};
use llamac_tests::compare::Comparison;
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open, stored};
use proptest::prelude::*;

const FIXTURES: [&str; 5] = ["gqa-f32", "gqa3-bf16", "all-bias-f16", "odd-sizes", "rope-llama3-new"];

fn compiled(name: &str, options: &CompileOptions, threads: usize, chunk: usize) -> Engine {
    let fixture = Fixture::read(&golden::fixtures().join("tiny").join(name));
    engine(&open(&fixture), options, EngineOptions { threads, chunk, compute: None })
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
        for (weights, compute) in FORMATS {
            let options = CompileOptions { compute, ..stored(weights) };
            for &kv in caches(weights, compute) {
                let expected = forward(&mut compiled(name, &options, 1, 512), &request(ids(1, 150), 0), kv);
                for (threads, chunk, cached) in
                    [(2, 512, 0), (1, 1, 0), (2, 7, 0), (1, 64, 0), (2, 512, 20), (1, 7, 86)]
                {
                    let mut engine = compiled(name, &options, threads, chunk);
                    let found = forward(&mut engine, &request(ids(1, 150), cached), kv);
                    assert!(
                        found == expected,
                        "{name} {weights} {compute:?} {kv:?}: {threads} threads, chunks of {chunk}, {cached} single steps"
                    );
                }
            }
        }
    }
}

/// Rows that are kept may lie in any of the forwards that a request is cut into.
#[test]
fn kept_rows_are_found_wherever_the_cache_is_cut() {
    for (name, keeps) in [("gqa-f32", &[None, Some(1), Some(4), Some(30)][..]), ("seqcls-pad", &[None])] {
        let mut engine = compiled(name, &CompileOptions::default(), 2, 64);
        for &keep in keeps {
            // The classifier pools the twentieth token, the last that is not padding.
            let tokens = Tokens::Ids((0..32).map(|i| if i < 20 { 1 + i } else { 0 }).collect());
            let asked = |cached| Request { tokens: tokens.clone(), keep, ..request(vec![0; 32], cached) };
            let expected = forward(&mut engine, &asked(0), KvDtype::F32);
            for cached in [1, 3, 8, 13, 31] {
                let found = forward(&mut engine, &asked(cached), KvDtype::F32);
                assert!(found == expected, "{name}: {keep:?} kept, {cached} single steps");
            }
        }
    }
}

/// The rows of `prompt` in a session of its own, fed at once.
fn alone(engine: &mut Engine, prompt: &[u32], kv: KvDtype) -> Vec<u32> {
    let options = SessionOptions { capacity: prompt.len(), kv: Some(kv) };
    let mut session = Session::new(engine.model(), options).expect("there is memory");
    let mut feeds = [Feed::ids(&mut session, prompt, Keep::All)];
    bits(engine.forward(&mut feeds).unwrap_or_else(|e| panic!("{e}")).feed(0))
}

/// How weights are stored and multiplied.
const FORMATS: [(&str, Compute); 14] = [
    ("as-is", Compute::Auto),
    ("f32", Compute::Auto),
    ("f16", Compute::Auto),
    ("bf16", Compute::Auto),
    ("q8", Compute::Auto),
    ("q4", Compute::Auto),
    ("q4a", Compute::Auto),
    ("q4,lm_head=bf16", Compute::Auto),
    ("bf16", Compute::F32),
    ("q8", Compute::F32),
    ("q4", Compute::F32),
    ("q4a", Compute::F32),
    ("f32", Compute::Bf16),
    ("q8", Compute::Bf16),
];
const CACHES: [KvDtype; 4] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8];

/// The caches to try: what they hold is of no matter to products, so that all of them are tried with few formats.
fn caches(weights: &str, compute: Compute) -> &'static [KvDtype] {
    if weights.starts_with('q') || compute != Compute::Auto { &CACHES[..1] } else { &CACHES }
}

#[test]
fn a_batch_of_eight_changes_nothing_for_each_of_them() {
    for name in FIXTURES {
        for (weights, compute) in FORMATS {
            let options = CompileOptions { compute, ..stored(weights) };
            let mut single = compiled(name, &options, 1, 512);
            for &kv in caches(weights, compute) {
                let prompts: Vec<Vec<u32>> = (0..8).map(|i| ids(i, 1 + 11 * i)).collect();
                let expected: Vec<_> = prompts.iter().map(|p| alone(&mut single, p, kv)).collect();
                for (threads, chunk) in [(1, 1), (2, 7), (1, 64), (2, 512)] {
                    let mut engine = compiled(name, &options, threads, chunk);
                    let options = SessionOptions { capacity: 80, kv: Some(kv) };
                    let mut sessions: Vec<Session> = prompts
                        .iter()
                        .map(|_| Session::new(engine.model(), options).expect("memory"))
                        .collect();
                    let pairs = sessions.iter_mut().zip(&prompts);
                    let mut feeds: Vec<_> = pairs.map(|(s, p)| Feed::ids(s, p, Keep::All)).collect();
                    let outputs = engine.forward(&mut feeds).unwrap_or_else(|e| panic!("{e}"));
                    for (i, expected) in expected.iter().enumerate() {
                        assert!(
                            bits(outputs.feed(i)) == *expected,
                            "{name} {weights} {compute:?} {kv:?}: sequence {i} with {threads} threads, chunks of {chunk}"
                        );
                    }
                }
            }
        }
    }
}

/// What one place of a batch does in a forward.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Tokens that its sequence reads; a new sequence enters if there is none.
    tokens: usize,
    /// Whether only the last row is kept.
    last: bool,
    /// Whether the sequence leaves afterwards.
    leaves: bool,
}

fn turn() -> impl Strategy<Value = Turn> {
    let tokens = prop_oneof![3 => Just(0), 5 => Just(1), 3 => 2..9usize, 1 => 9..60usize];
    (tokens, any::<bool>(), 0..5).prop_map(|(tokens, last, leaves)| Turn {
        tokens,
        last,
        leaves: leaves == 0,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Sequences enter and leave at any step, and read any number of tokens beside any others.
    #[test]
    fn any_schedule_gives_each_sequence_what_it_gets_alone(
        name in prop::sample::select(&FIXTURES[..]),
        (weights, compute) in prop::sample::select(&FORMATS[..]),
        kv in prop::sample::select(&CACHES[..]),
        threads in 1..=2usize,
        chunk in prop::sample::select(&[1, 2, 7, 24, 64, 512][..]),
        schedule in prop::collection::vec(prop::collection::vec(turn(), 1..=8), 1..24),
    ) {
        let options = CompileOptions { compute, ..stored(weights) };
        let mut engine = compiled(name, &options, threads, chunk);
        let width = engine.model().output_width();
        let prompts: Vec<Vec<u32>> = (0..8).map(|i| ids(i, 96)).collect();
        let mut single = compiled(name, &options, 1, 512);
        let expected: Vec<_> = prompts.iter().map(|prompt| alone(&mut single, prompt, kv)).collect();
        let mut places: Vec<Option<(Session, usize)>> = (0..8).map(|_| None).collect();
        let mut entered = 0;
        for turns in &schedule {
            let mut feeds = Vec::new();
            let mut rows = Vec::new();
            for (place, turn) in places.iter_mut().zip(turns) {
                let options = SessionOptions { capacity: 96, kv: Some(kv) };
                let (session, prompt) = place.get_or_insert_with(|| {
                    entered += 1;
                    (Session::new(engine.model(), options).expect("there is memory"), entered % 8)
                });
                let start = session.len();
                let end = 96.min(start + turn.tokens);
                let keep = if turn.last { Keep::Last(1) } else { Keep::All };
                let kept = if turn.last { start.max(end.saturating_sub(1))..end } else { start..end };
                rows.push((*prompt, kept));
                feeds.push(Feed::ids(session, &prompts[*prompt][start..end], keep));
            }
            let outputs = engine.forward(&mut feeds).unwrap_or_else(|e| panic!("{e}"));
            for (feed, (prompt, kept)) in rows.into_iter().enumerate() {
                let expected = &expected[prompt][kept.start * width..kept.end * width];
                prop_assert!(bits(outputs.feed(feed)) == expected, "sequence {} at {:?}", prompt, kept);
            }
            for (place, _) in places.iter_mut().zip(turns).filter(|(_, turn)| turn.leaves) {
                *place = None;
            }
        }
    }
}

/// Fusions change the order of no sum, so the numbers are close: as close as to any reference.
#[test]
fn fusions_change_no_result() {
    let fixtures = [
        "gqa-f32",
        "gqa3-bf16",
        "all-bias-f16",
        "odd-sizes",
        "act-gelu-tanh",
        "base-bare",
        "qa-model-f16",
        "seqcls-pad",
        "tokcls-bias",
    ];
    let fusions = ["fuse-qkv", "fuse-gate-up", "fuse-add-rms-norm"];
    for name in fixtures {
        let fixture = Fixture::read(&golden::fixtures().join("tiny").join(name));
        let checkpoint = open(&fixture);
        let run = |off: &[&str], kv| {
            let mut options = CompileOptions::default();
            options.passes.switches = off.iter().map(|&pass| (pass.to_owned(), false)).collect();
            let mut engine = engine(
                &checkpoint,
                &options,
                EngineOptions { threads: 2, chunk: 64, compute: Some(Compute::F32) },
            );
            let steps = engine.model().plan().steps.len();
            (
                steps,
                llamac_runtime::eval(&mut engine, &request(ids(5, 40), 8), kv)
                    .unwrap_or_else(|e| panic!("{e}")),
            )
        };
        for kv in CACHES {
            let (fused_steps, fused) = run(&[], kv);
            for off in [&fusions[..1], &fusions[1..2], &fusions[2..], &fusions[..]] {
                let (steps, found) = run(off, kv);
                assert!(steps > fused_steps, "{name}: nothing was fused by {off:?}");
                let mut comparison = Comparison::default();
                for (found, fused) in found.iter().zip(&fused) {
                    assert_eq!((&found.name, &found.shape), (&fused.name, &fused.shape));
                    comparison.add(&found.name, &found.data, &fused.data);
                }
                assert_eq!(comparison.problems(), [""; 0], "{name} {kv:?} without {off:?}");
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
