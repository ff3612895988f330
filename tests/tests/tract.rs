//! Exports of every fixture for `--target onnx`, read and run by tract: transformers' recorded forwards, and the same
//! ones step by step through the exported cache.

use std::collections::BTreeMap;
use std::path::Path;

use llamac_compiler::driver::{self, ExportOptions, Silent};
use llamac_compiler::ir::RopeScaling;
use llamac_compiler::model::{Inputs, Logits};
use llamac_compiler::passes::{self, WeightFormat};
use llamac_compiler::source::{Checkpoint, Head};
use llamac_compiler::target::onnx::{Destination, ExternalData, Layout, OnnxOptions, Profile};
use llamac_ir::DType;
use llamac_plan::eval::{Request, Tokens};
use llamac_tests::compare::Comparison;
use llamac_tests::golden::{self, Case, Fixture};
use llamac_tests::open;
use llamac_tract::Model;

/// Steps are run where there are no more of them than this.
const STEPS: usize = 16;

fn options(inputs: Inputs) -> ExportOptions {
    let files = OnnxOptions { layout: Layout::Flat, external: ExternalData::File, max_context: None };
    ExportOptions {
        profile: Profile::Portable,
        inputs,
        logits: Logits::All,
        cache: true,
        files,
        verify: false,
        threads: 2,
        passes: passes::Options {
            weights: WeightFormat::Float(DType::F32).into(),
            ..passes::Options::default()
        },
    }
}

/// Exports `checkpoint` into `folder` and opens it in tract.
fn exported(checkpoint: &Checkpoint, options: &ExportOptions, folder: &Path) -> Model {
    let mut destination =
        Destination::create(folder, checkpoint, options.files.layout, options.files.external)
            .expect("a folder");
    driver::export(checkpoint, options, &mut destination, &Silent).unwrap_or_else(|e| panic!("{e}"));
    destination.publish().expect("there is room");
    Model::open(&folder.join("model.onnx")).unwrap_or_else(|e| panic!("{e}"))
}

/// The ways in which the export of `checkpoint` can answer `request`.
fn ways(checkpoint: &Checkpoint, request: &Request) -> Vec<Request> {
    let decoder = checkpoint.head == Head::CausalLm;
    if !decoder && (request.cached > 0 || request.positions.is_some()) {
        return Vec::new();
    }
    let mut ways = vec![request.clone()];
    // Frequencies that follow the length are those of the whole batch in one forward, and of the text so far in steps.
    let by_length =
        matches!(checkpoint.config.rope.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. });
    if decoder && !by_length && request.cached == 0 && (2..=2 * STEPS).contains(&request.seq) {
        ways.push(Request { cached: request.seq / 2, ..request.clone() });
    }
    ways
}

fn problems(fixture: Fixture) -> Vec<String> {
    let (checkpoint, name) = (open(&fixture), fixture.name().to_owned());
    let mut comparison = Comparison::default();
    let mut models: BTreeMap<bool, (Model, tempfile::TempDir)> = BTreeMap::new();
    for case in fixture.cases.into_iter().map(Case::without_hidden_states) {
        let (ids, inputs) = match case.request.tokens {
            Tokens::Ids(_) => (true, Inputs::Ids),
            Tokens::Embeddings(_) => (false, Inputs::Embeddings),
        };
        let ways = ways(&checkpoint, &case.request);
        if ways.is_empty() {
            continue;
        }
        let (model, _) = models.entry(ids).or_insert_with(|| {
            let folder = tempfile::tempdir().expect("a folder");
            (exported(&checkpoint, &options(inputs), folder.path()), folder)
        });
        for request in ways {
            match model.eval(&request) {
                Ok(found) => case.compare(&found, &mut comparison),
                Err(e) => comparison.problem(format!("{}: {e}", case.name)),
            }
        }
    }
    comparison.problems().into_iter().map(|problem| format!("{name}: {problem}")).collect()
}

#[test]
fn exports_agree_with_transformers() {
    let problems: Vec<String> = golden::all().into_iter().flat_map(problems).collect();
    assert_eq!(problems.join("\n"), "");
}
