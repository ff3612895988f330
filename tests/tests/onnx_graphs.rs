//! The graphs that ONNX files are written from, before they are written: every fixture's recorded forwards, in every
//! profile, by the reference evaluator.

use llamac_compiler::model::{self, Inputs, Logits, ModelOptions};
use llamac_compiler::passes::{Options, PassManager, Stage, WeightFormat};
use llamac_compiler::reference;
use llamac_compiler::source::{Checkpoint, Head};
use llamac_compiler::target::onnx::Onnx;
use llamac_ir::DType;
use llamac_plan::eval::{Request, Tokens};
use llamac_tests::compare::Comparison;
use llamac_tests::golden;
use llamac_tests::open;

/// The model that a request is answered by: with a cache for decoders, and without positions where none are given.
fn options(checkpoint: &Checkpoint, request: &Request) -> ModelOptions {
    let decoder = checkpoint.head == Head::CausalLm || request.cached > 0;
    ModelOptions {
        inputs: match request.tokens {
            Tokens::Ids(_) => Inputs::Ids,
            Tokens::Embeddings(_) => Inputs::Embeddings,
        },
        mask: true,
        positions: decoder || request.positions.is_some(),
        length: false,
        cache: decoder,
        hidden_states: request.hidden_states,
        presents: decoder,
        logits: Logits::All,
    }
}

fn problems(target: Onnx) -> Vec<String> {
    let mut problems = Vec::new();
    for fixture in golden::all() {
        let checkpoint = open(&fixture);
        let mut comparison = Comparison::default();
        for case in &fixture.cases {
            let graph = model::build(&checkpoint, &options(&checkpoint, &case.request)).expect("it builds");
            let manager = PassManager::new(Options {
                weights: WeightFormat::Float(DType::F32).into(),
                ..Options::default()
            })
            .expect("no pass is named");
            let outcome = manager.run(graph, &target).expect("every checkpoint can be exported");
            let Stage::Legalized(legalized) = outcome.stage else { panic!("nothing stopped the passes") };
            match reference::eval_graph(&checkpoint, legalized.graph(), &case.request) {
                Ok(found) => case.compare(&found, &mut comparison),
                Err(e) => comparison.problem(format!("{}: {e}", case.name)),
            }
        }
        problems.extend(comparison.problems().into_iter().map(|p| format!("{}: {p}", fixture.name())));
    }
    problems
}

#[test]
fn primitives_agree_with_transformers() {
    assert_eq!(problems(Onnx::PORTABLE).join("\n"), "");
}

#[test]
fn the_standards_operators_agree_with_transformers() {
    assert_eq!(problems(Onnx::STANDARD).join("\n"), "");
}

#[test]
fn the_operators_of_onnx_runtime_agree_with_transformers() {
    assert_eq!(problems(Onnx::ORT).join("\n"), "");
}
