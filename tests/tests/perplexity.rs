//! The story model's perplexity on held-out stories, as transformers computes it.

use llamac_compiler::driver::CompileOptions;
use llamac_runtime::{EngineOptions, Feed, Keep, Session, SessionOptions};
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open};

/// The negative log-likelihood of `token` after `logits`.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - largest)
}

#[test]
fn held_out_stories_are_as_likely_as_in_transformers() {
    let fixture = Fixture::read(&golden::fixtures().join("stories"));
    let recorded = std::fs::read(fixture.folder.join("perplexity.json")).expect("the fixture records it");
    let recorded: serde_json::Value = serde_json::from_slice(&recorded).expect("it is JSON");
    let text = std::fs::read_to_string(fixture.folder.join("heldout.txt")).expect("there is held-out text");
    let mut engine =
        engine(&open(&fixture), &CompileOptions::default(), EngineOptions { threads: 2, chunk: 512 });
    let model = engine.model().clone();
    let tokenizer = model.tokenizer().expect("the stories have a tokenizer");
    let eos = model.plan().generation.eos_token_ids[0];
    let (mut likelihood, mut scored) = (0.0, 0u64);
    for line in text.lines() {
        let mut ids = tokenizer.encode(line, true).unwrap_or_else(|e| panic!("{e}"));
        ids.push(eos);
        let options = SessionOptions { capacity: ids.len(), kv: None };
        let mut session = Session::new(&model, options).expect("there is memory");
        let mut feeds = [Feed::ids(&mut session, &ids, Keep::All)];
        let outputs = engine.forward(&mut feeds).unwrap_or_else(|e| panic!("{e}"));
        let rows = outputs.feed(0).chunks_exact(model.output_width());
        for (row, next) in rows.zip(&ids[1..]) {
            likelihood += surprise(row, *next);
            scored += 1;
        }
    }
    assert_eq!(Some(scored), recorded["lines"]["scored_tokens"].as_u64());
    let perplexity = (likelihood / scored as f64).exp();
    let expected = recorded["lines"]["perplexity"].as_f64().expect("it is a number");
    assert!((perplexity / expected - 1.0).abs() < 1e-5, "{perplexity} instead of {expected}");
}
