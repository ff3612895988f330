//! Adapters of PEFT over the small checkpoints: what PEFT computes with them, by the reference evaluator and by the
//! compiled model.

use std::ops::ControlFlow;
use std::path::Path;

use llamac_compiler::driver::CompileOptions;
use llamac_compiler::passes::WeightPolicy;
use llamac_compiler::reference;
use llamac_compiler::source::Checkpoint;
use llamac_plan::{Compute, KvDtype};
use llamac_runtime::EngineOptions;
use llamac_runtime::generate::{Event, GenerateOptions, generate};
use llamac_tests::adapters::{Kind, problems};
use llamac_tests::{engine, stored};

/// Weights in single precision: PEFT rounds no sum, and neither does llamac then.
const WIDE: &str = "f32";

#[test]
fn the_reference_evaluator_agrees_with_peft() {
    let policy: WeightPolicy = WIDE.parse().expect("a policy");
    let found: Vec<String> = Kind::Lora
        .names()
        .iter()
        .flat_map(|name| {
            let (fixture, checkpoint) = Kind::Lora.open(name);
            problems(&fixture, |request| reference::eval(&checkpoint, &policy, request))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_compiled_model_agrees_with_peft() {
    let options = EngineOptions { threads: 2, chunk: 48, compute: Some(Compute::F32) };
    let found: Vec<String> = Kind::Lora
        .names()
        .iter()
        .flat_map(|name| {
            let (fixture, checkpoint) = Kind::Lora.open(name);
            let mut engine = engine(&checkpoint, &stored(WIDE), options);
            problems(&fixture, |request| llamac_runtime::eval(&mut engine, request, KvDtype::F32))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Each adapter changes something: a merge that is left out would not agree.
#[test]
fn the_base_alone_does_not_agree() {
    let mut tried = 0;
    for name in Kind::Lora.names() {
        let (fixture, mut checkpoint) = Kind::Lora.open(&name);
        // Of some, all is replaced, and nothing added.
        if checkpoint.adapted.is_empty() {
            continue;
        }
        tried += 1;
        checkpoint.adapted.clear();
        let found =
            problems(&fixture, |request| reference::eval(&checkpoint, &WeightPolicy::default(), request));
        assert!(!found.is_empty(), "{name} changes nothing");
    }
    assert!(tried > 12, "{tried} of {}", Kind::Lora.names().len());
}

#[test]
fn tokens_are_those_that_peft_generates() {
    let options = EngineOptions { threads: 2, chunk: 3, compute: Some(Compute::F32) };
    let mut seen = 0;
    for name in Kind::Lora.names() {
        let (fixture, checkpoint) = Kind::Lora.open(&name);
        for greedy in &fixture.greedy {
            let mut engine = engine(&checkpoint, &CompileOptions::default(), options);
            let settings = GenerateOptions {
                max_new_tokens: Some(greedy.max_new_tokens as u64),
                do_sample: Some(false),
                ..GenerateOptions::default()
            };
            for (prompt, tokens) in greedy.prompt.iter().zip(&greedy.tokens) {
                let each = |_: Event<'_>| ControlFlow::Continue(());
                let generated = generate(&mut engine, None, prompt, &settings, each);
                assert_eq!(&generated.unwrap_or_else(|e| panic!("{name}: {e}")).tokens, tokens, "{name}");
                seen += 1;
            }
        }
    }
    assert!(seen > 0, "there is something to generate");
}

/// A converted checkpoint has the adapter in its weights.
#[test]
fn what_is_converted_needs_no_adapter() {
    use llamac_compiler::driver::{ConvertOptions, Silent, convert};
    use llamac_compiler::hugging_face::guard;
    use llamac_compiler::output::Folder;

    for name in ["lora", "tied-embedding", "tied-tokens", "resized", "reward", "several"] {
        let (fixture, checkpoint) = Kind::Lora.open(name);
        let pad = checkpoint.config.pad_token_id;
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("merged");
        let mut folder = Folder::create(&path, guard).expect("it can be made");
        let options = ConvertOptions { max_shard_size: u64::MAX, threads: 2 };
        convert(checkpoint, options, &mut folder, &Silent)
            .unwrap_or_else(|faults| panic!("{name}: {faults}"));
        folder.publish().expect("it can be named");
        let mut merged = Checkpoint::open(Path::new(&path), None).unwrap_or_else(|e| panic!("{name}: {e}"));
        merged.config.pad_token_id = pad;
        let found = problems(&fixture, |request| reference::eval(&merged, &WeightPolicy::default(), request));
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
