//! Every fixture's recorded forwards, by the reference evaluator and by the compiled model.

use llamac_compiler::driver::CompileOptions;
use llamac_compiler::passes::WeightPolicy;
use llamac_compiler::reference;
use llamac_compiler::source::Checkpoint;
use llamac_plan::KvDtype;
use llamac_plan::diagnostic::Diagnostics;
use llamac_plan::eval::{Output, Request};
use llamac_runtime::EngineOptions;
use llamac_tests::compare::Comparison;
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open};

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
        let options = EngineOptions { threads: 2, chunk: 48 };
        problems.extend(native(&fixture, &open(&fixture), options));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The class is that of the pooled token, whichever of the forwards reads it.
#[test]
fn classifiers_may_read_through_the_cache() {
    let mut problems = Vec::new();
    for name in ["seqcls-pad", "seqcls-no-pad"] {
        let fixture = Fixture::read(&golden::fixtures().join("tiny").join(name));
        let checkpoint = open(&fixture);
        let mut engine =
            engine(&checkpoint, &CompileOptions::default(), EngineOptions { threads: 2, chunk: 48 });
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
