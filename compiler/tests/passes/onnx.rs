//! Graphs of two layers made legal for the ONNX targets: the form, and the meaning, which stays.

use insta::assert_snapshot;
use llamac_compiler::model::{Inputs, Logits, ModelOptions};
use llamac_compiler::passes::{Options, PassManager, Stage, assign_schemes};
use llamac_compiler::target::Target;
use llamac_compiler::target::onnx::Onnx;
use llamac_ir::Graph;
use llamac_ir::rewrite::AnyOp;
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

/// The graph of `name` with weights as `weights` says.
fn stored(name: &str, options: &ModelOptions, weights: &str) -> Graph {
    let mut graph = graph(name, options);
    let weights = weights.parse().unwrap_or_else(|e| panic!("{e}"));
    assign_schemes(&mut graph, &weights, &AnyOp).unwrap_or_else(|faults| panic!("{faults}"));
    graph
}

#[test]
fn quantized_weights_keep_their_meaning() {
    for name in ["gqa-f32", "all-bias-f16", "odd-sizes", "tied-embed-only", "mqa-f32", "seqcls-pad"] {
        for weights in ["q8", "q4", "q4a", "q4,down_proj=q8,k_proj=q4a"] {
            let model = stored(name, &CACHED, weights);
            for target in [Onnx::STANDARD, Onnx::ORT] {
                let (legal, _) = legal(model.clone(), &target);
                assert_round_trip(&legal);
                assert_equivalent(&model, &legal);
            }
        }
    }
}

#[test]
fn what_has_no_operator_is_told_with_a_way_out() {
    let faults = |name: &str, weights: &str, target: Onnx| {
        let manager = PassManager::new(Options::default()).expect("no pass is named");
        manager.run(stored(name, &CACHED, weights), &target).unwrap_err().to_string()
    };
    assert_snapshot!(faults("gqa-f32", "q4", Onnx::PORTABLE), @"
    error[E0500]: an operation cannot be expressed on the target
      --> embed at model.embed_tokens
       onnx cannot take it: opset 17 has no operator for quantized weights; take onnx-std or onnx-ort, or --weights f16
       help: no rule of onnx turns embed into something else
    error[E0500]: an operation cannot be expressed on the target
      --> linear at model.layers.0.self_attn.q_proj, and 14 more
       onnx cannot take it: opset 17 has no operator for quantized weights; take onnx-std or onnx-ort, or --weights f16
    ");
    assert_snapshot!(faults("gqa-f32", "q4,embed_tokens=q4", Onnx::STANDARD), @"
    error[E0500]: an operation cannot be expressed on the target
      --> embed at model.embed_tokens
       onnx-std cannot take it: rows of q4 cannot be gathered; store the table as q8, with embed_tokens=q8 in --weights
       help: no rule of onnx-std turns embed into something else
    ");
    assert_snapshot!(faults("all-bias-f16", "lm_head=q4", Onnx::STANDARD), @"
    error[E0500]: an operation cannot be expressed on the target
      --> linear at lm_head
       onnx-std cannot take it: 67 rows have no whole bytes in q4 when they are columns; store it as q8
    ");
    let in_place = Onnx { weights_in_place: true, ..Onnx::ORT };
    assert_snapshot!(faults("gqa-f32", "lm_head=q8", in_place), @"
    error[E0500]: an operation cannot be expressed on the target
      --> linear at lm_head
       onnx-ort cannot take it: weights that stay in place are not quantized; write them with --external-data file
    ");
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
