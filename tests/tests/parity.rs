//! Every fixture's recorded forwards, by the reference evaluator and by the compiled model.

use llamac_compiler::driver::CompileOptions;
use llamac_compiler::passes::WeightPolicy;
use llamac_compiler::reference;
use llamac_compiler::source::Checkpoint;
use llamac_plan::diagnostic::Diagnostics;
use llamac_plan::eval::{Output, Request};
use llamac_plan::{Compute, KvDtype};
use llamac_runtime::EngineOptions;
use llamac_tests::compare::Comparison;
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open, stored};

/// Runs every case of `fixture` and tells what is too far from transformers.
fn compare(
    fixture: &Fixture,
    mut eval: impl FnMut(&Request) -> Result<Vec<Output>, Diagnostics>,
) -> impl Iterator<Item = String> {
    let mut comparison = Comparison::default();
    for case in &fixture.cases {
        match eval(&case.request) {
            Ok(found) => case.compare(&found, &mut comparison),
            Err(e) => comparison.problem(format!("{}: {e}", case.name)),
        }
    }
    comparison.problems().into_iter().map(|problem| format!("{}: {problem}", fixture.name()))
}

fn native(fixture: &Fixture, checkpoint: &Checkpoint, options: EngineOptions) -> Vec<String> {
    let mut engine = engine(checkpoint, &CompileOptions::default(), options);
    compare(fixture, |request| llamac_runtime::eval(&mut engine, request, KvDtype::F32)).collect()
}

#[test]
fn the_reference_evaluator_agrees_with_transformers() {
    let mut problems = Vec::new();
    for fixture in golden::all() {
        let checkpoint = open(&fixture);
        problems.extend(compare(&fixture, |request| {
            reference::eval(&checkpoint, &WeightPolicy::default(), request)
        }));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_compiled_model_agrees_with_transformers() {
    let mut problems = Vec::new();
    for fixture in golden::all() {
        let options = EngineOptions { threads: 2, chunk: 48, compute: Some(Compute::F32) };
        problems.extend(native(&fixture, &open(&fixture), options));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The reference evaluator and the compiled model with weights stored as `weights` says, compared over all cases of
/// some fixtures.
fn with_weights(weights: &str, compute: Compute) -> Vec<(String, Comparison)> {
    let policy: WeightPolicy = weights.parse().expect("it is a policy");
    let compared = |fixture: &Fixture| {
        let checkpoint = open(fixture);
        let options = EngineOptions { threads: 2, chunk: 48, compute: Some(compute) };
        let mut engine = engine(&checkpoint, &stored(weights), options);
        let mut comparison = Comparison::default();
        for case in &fixture.cases {
            let expected = reference::eval(&checkpoint, &policy, &case.request);
            let found = llamac_runtime::eval(&mut engine, &case.request, KvDtype::F32);
            match (expected, found) {
                (Ok(expected), Ok(found)) => case.compare_with(&found, expected, &mut comparison),
                (expected, found) => panic!("{}: {:?}, {:?}", case.name, expected.err(), found.err()),
            }
        }
        (fixture.name().to_owned(), comparison)
    };
    let fixtures = [
        "gqa-f32",
        "gqa3-bf16",
        "all-bias-f16",
        "odd-sizes",
        "rope-llama3-new",
        "qa-model-f16",
        "seqcls-pad",
    ];
    let read = |name| Fixture::read(&golden::fixtures().join("tiny").join(name));
    fixtures.map(read).iter().map(compared).collect()
}

/// In f32 it does not matter where the numbers come from that quantization left.
#[test]
fn quantized_weights_are_multiplied_in_f32_as_the_reference_does() {
    for weights in ["q8", "q4", "q4a"] {
        for (name, comparison) in with_weights(weights, Compute::F32) {
            assert_eq!(comparison.problems(), [""; 0], "{name} {weights}");
        }
    }
}

/// Rounded activations make a difference: bf16 has 8 bits of precision, codes have 7 for the largest of a block. The
/// weights are random, so that errors add up like those of activations that have nothing in common.
#[test]
fn narrow_activations_come_close_to_the_reference() {
    for (weights, compute, most) in [
        ("bf16", Compute::Bf16, 0.02),
        ("q8", Compute::Int8, 0.03),
        ("q4", Compute::Int8, 0.03),
        ("q4a", Compute::Int8, 0.03),
    ] {
        for (name, comparison) in with_weights(weights, compute) {
            let difference = comparison.relative_l2();
            assert!(difference < most, "{name} {weights}: {difference:.2e}");
            assert!(difference > 1e-4, "{name} {weights}: {difference:.2e} is what f32 has");
        }
    }
}

/// The class is that of the pooled token, whichever of the forwards reads it.
#[test]
fn classifiers_may_read_through_the_cache() {
    let mut problems = Vec::new();
    for name in ["seqcls-pad", "seqcls-no-pad"] {
        let fixture = Fixture::read(&golden::fixtures().join("tiny").join(name));
        let checkpoint = open(&fixture);
        let mut engine = engine(
            &checkpoint,
            &CompileOptions::default(),
            EngineOptions { threads: 2, chunk: 48, compute: Some(Compute::F32) },
        );
        let cached = |request: &Request| Request { cached: request.seq / 2, ..request.clone() };
        problems.extend(compare(&fixture, |request| {
            reference::eval(&checkpoint, &WeightPolicy::default(), &cached(request))
        }));
        problems.extend(compare(&fixture, |request| {
            llamac_runtime::eval(&mut engine, &cached(request), KvDtype::F32)
        }));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
