//! The story model's perplexity on held-out stories, as transformers computes it, and its distance from itself.

use llamac_compiler::driver::CompileOptions;
use llamac_plan::Compute;
use llamac_runtime::perplexity::{Likelihood, perplexity};
use llamac_runtime::{Engine, EngineOptions};
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open};

fn stories() -> Fixture {
    Fixture::read(&golden::fixtures().join("stories"))
}

fn run(fixture: &Fixture, threads: usize, chunk: usize) -> Engine {
    let options = EngineOptions { threads, chunk, compute: Some(Compute::F32) };
    engine(&open(fixture), &CompileOptions::default(), options)
}

/// The held-out text's tokens, cut in both ways that the fixture records.
fn sequences(engine: &Engine, fixture: &Fixture) -> [(&'static str, Vec<Vec<u32>>); 2] {
    let text = std::fs::read_to_string(fixture.folder.join("heldout.txt")).expect("there is held-out text");
    let tokenizer = engine.model().tokenizer().expect("the stories have a tokenizer");
    let encode = |text: &str| tokenizer.encode(text, true).unwrap_or_else(|e| panic!("{e}"));
    let eos = engine.model().plan().generation.eos_token_ids[0];
    let lines = text.lines().map(|line| [&encode(line)[..], &[eos]].concat()).collect();
    let windows = encode(&text).chunks(512).map(<[u32]>::to_vec).collect();
    [("lines", lines), ("windows", windows)]
}

#[test]
fn held_out_stories_are_as_likely_as_in_transformers() {
    let fixture = stories();
    let recorded = std::fs::read(fixture.folder.join("perplexity.json")).expect("the fixture records it");
    let recorded: serde_json::Value = serde_json::from_slice(&recorded).expect("it is JSON");
    let mut engine = run(&fixture, 2, 512);
    for (name, sequences) in sequences(&engine, &fixture) {
        let measured = perplexity(&mut engine, None, &sequences, |_| ()).unwrap_or_else(|e| panic!("{e}"));
        let Likelihood { tokens, nll } = measured.likelihood;
        let recorded = &recorded[name];
        assert_eq!(Some(tokens), recorded["scored_tokens"].as_u64());
        let expected = recorded["nll"].as_f64().expect("it is a number");
        assert!((nll / expected - 1.0).abs() < 1e-5, "{name}: {nll} instead of {expected}");
        assert_eq!(measured.divergence, None);
    }
}

#[test]
fn a_model_is_at_no_distance_from_itself_whatever_the_threads() {
    let fixture = stories();
    let (mut one, mut two) = (run(&fixture, 1, 16), run(&fixture, 2, 512));
    let [_, (_, windows)] = sequences(&one, &fixture);
    let windows = &windows[..3];
    let measured = perplexity(&mut one, Some(&mut two), windows, |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let divergence = measured.divergence.expect("there is a reference");
    assert_eq!(divergence.reference, measured.likelihood);
    assert!(divergence.kl < 1e-12 && divergence.largest_kl < 1e-12, "{divergence:?}");
    assert_eq!(divergence.agreement, 1.0);
    let again = perplexity(&mut two, None, windows, |_| ()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again.likelihood, measured.likelihood);
}
