//! Meta's layouts and PyTorch's files compute what Meta's own mathematics says, to the bit the same in each.

use std::fs;
use std::path::PathBuf;

use llamac_compiler::driver::CompileOptions;
use llamac_compiler::passes::WeightPolicy;
use llamac_compiler::reference;
use llamac_compiler::source::Checkpoint;
use llamac_plan::{Compute, KvDtype};
use llamac_runtime::EngineOptions;
use llamac_tests::compare::Comparison;
use llamac_tests::engine;
use llamac_tests::golden::{self, Fixture};

const MODELS: [&str; 4] = ["llama1-f16", "llama2-bf16", "llama3-bf16", "tied-f32"];

/// The folders that hold the weights of a model.
fn layouts(model: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(golden::fixtures().join("meta")).expect("the fixtures are there");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(model)))
        .collect();
    found.sort();
    found
}

#[test]
fn every_layout_computes_what_meta_does() {
    let mut problems = Vec::new();
    for model in MODELS {
        let fixture = Fixture::read(&golden::fixtures().join("meta").join(model));
        let [case] = &fixture.cases[..] else { panic!("{model} has one case") };
        let mut logits = Vec::new();
        for folder in layouts(model) {
            let checkpoint = Checkpoint::open(&folder, None).unwrap_or_else(|e| panic!("{e}"));
            let options = EngineOptions { threads: 2, chunk: 48, compute: Some(Compute::F32) };
            let mut engine = engine(&checkpoint, &CompileOptions::default(), options);
            let native = llamac_runtime::eval(&mut engine, &case.request, KvDtype::F32).expect("it computes");
            let reference =
                reference::eval(&checkpoint, &WeightPolicy::default(), &case.request).expect("it computes");
            let mut comparison = Comparison::default();
            case.compare(&native, &mut comparison);
            case.compare(&reference, &mut comparison);
            problems.extend(comparison.problems().iter().map(|p| format!("{}: {p}", folder.display())));
            logits.push(native);
        }
        assert!(logits.len() > 2 && logits.iter().all(|other| *other == logits[0]), "{model}");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
