//! Graphs of two layers made legal for the ONNX targets: the form, and the meaning, which stays.

use insta::assert_snapshot;
use llamac_compiler::model::{Inputs, Logits, ModelOptions};
use llamac_compiler::passes::{Options, PassManager, Stage};
use llamac_compiler::target::Target;
use llamac_compiler::target::onnx::Onnx;
use llamac_ir::Graph;
use llamac_ir::testing::{assert_equivalent, assert_round_trip};

use crate::fixtures::{PLAIN, graph, names};

/// A decoder with a cache.
const CACHED: ModelOptions =
    ModelOptions { mask: true, length: false, presents: true, logits: Logits::All, ..PLAIN };

/// What reads whole texts at once.
const ENCODER: ModelOptions = ModelOptions { positions: false, cache: false, presents: false, ..CACHED };

const TARGETS: [Onnx; 4] =
    [Onnx::PORTABLE, Onnx::STANDARD, Onnx::ORT, Onnx { weights_in_place: true, ..Onnx::PORTABLE }];

fn legal(graph: Graph, target: &dyn Target) -> (Graph, Vec<String>) {
    let manager = PassManager::new(Options::default()).expect("no pass is named");
    let outcome = manager.run(graph, target).unwrap_or_else(|faults| panic!("{faults}"));
    let Stage::Legalized(legalized) = &outcome.stage else { panic!("nothing stopped the passes") };
    (legalized.graph().clone(), outcome.report.remarks())
}

#[test]
fn every_checkpoint_keeps_its_meaning() {
    for name in names() {
        for options in [CACHED, ENCODER] {
            let model = graph(&name, &options);
            for target in TARGETS {
                let (legal, _) = legal(model.clone(), &target);
                assert_round_trip(&legal);
                assert_equivalent(&model, &legal);
            }
        }
    }
}

#[test]
fn options_keep_their_meaning() {
    let options = [
        ModelOptions { inputs: Inputs::Embeddings, ..CACHED },
        ModelOptions { logits: Logits::Last, ..CACHED },
        ModelOptions { logits: Logits::Counted, ..CACHED },
        ModelOptions { hidden_states: true, ..ENCODER },
    ];
    for options in options {
        let model = graph("gqa-f32", &options);
        for target in TARGETS {
            assert_equivalent(&model, &legal(model.clone(), &target).0);
        }
    }
}

fn text(name: &str, options: &ModelOptions, target: &dyn Target) -> String {
    let (legal, remarks) = legal(graph(name, options), target);
    let ops = legal.order().into_iter().filter(|&node| legal.op(node).is_some()).count();
    format!("{legal}== remarks ==\n{}\n== {ops} operations ==\n", remarks.join("\n"))
}

#[test]
fn portable_decoder() {
    assert_snapshot!(text("gqa-f32", &CACHED, &Onnx::PORTABLE));
}

#[test]
fn standard_decoder() {
    assert_snapshot!(text("gqa-f32", &CACHED, &Onnx::STANDARD));
}

#[test]
fn ort_decoder() {
    assert_snapshot!(text("gqa-f32", &CACHED, &Onnx::ORT));
}

#[test]
fn weights_that_stay_in_place() {
    let target = Onnx { weights_in_place: true, ..Onnx::PORTABLE };
    assert_snapshot!(text("gqa-f32", &CACHED, &target));
}

#[test]
fn classifier_of_whole_texts() {
    assert_snapshot!(text("seqcls-pad", &ENCODER, &Onnx::PORTABLE));
}

#[test]
fn frequencies_that_follow_the_length() {
    assert_snapshot!(text("base-dynamic", &ENCODER, &Onnx::STANDARD));
}
