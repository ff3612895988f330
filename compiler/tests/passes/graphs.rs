//! Whole graphs of two layers before, between and after the passes, as snapshots; and their meaning, which stays.

use insta::assert_snapshot;
use llamac_compiler::passes::{Options, Outcome, PassManager};
use llamac_compiler::target::native::Native;
use llamac_ir::Graph;
use llamac_ir::testing::{assert_equivalent, assert_round_trip};

use crate::fixtures::{FULL, PLAIN, graph, names};

/// The last pass before the graph is made legal.
const LAST_FUSION: &str = "fuse-add-rms-norm";

fn run(graph: &Graph, options: Options) -> Outcome {
    let manager = PassManager::new(options).expect("the passes exist");
    manager.run(graph.clone(), &Native).unwrap_or_else(|faults| panic!("{faults}\n{graph}"))
}

fn until(stop: &str) -> Options {
    Options { stop_after: Some(stop.to_owned()), ..Options::default() }
}

/// The model's graph, what fusion and legalization make of it, and what each rule did.
fn story(name: &str) -> String {
    let model = graph(name, &PLAIN);
    let fused = run(&model, until(LAST_FUSION));
    let legal = run(&model, Options::default());
    let legal_text = legal.stage.graph().to_string();
    let fused_text = fused.stage.graph().to_string();
    let legal_text = if legal_text == fused_text { "as fused\n".to_owned() } else { legal_text };
    let remarks = legal.report.remarks().join("\n");
    format!(
        "== model ==\n{model}\n== fused ==\n{fused_text}\n== legal for native ==\n{legal_text}\n== passes ==\n{}\n\
         == remarks ==\n{remarks}\n",
        legal.report
    )
}

#[test]
fn causal_lm_with_grouped_queries() {
    assert_snapshot!(story("gqa-f32"));
}

#[test]
fn causal_lm_with_a_key_head_for_each_query_head() {
    assert_snapshot!(story("mha-f16"));
}

#[test]
fn sequence_classification_with_one_key_head() {
    assert_snapshot!(story("seqcls-one-label"));
}

#[test]
fn base_model_with_stretched_frequencies() {
    assert_snapshot!(story("base-dynamic"));
}

#[test]
fn biases_everywhere() {
    assert_snapshot!(story("all-bias-f16"));
}

#[test]
fn biases_of_attention_alone() {
    assert_snapshot!(story("attention-bias"));
}

#[test]
fn tied_embeddings_are_one_weight() {
    let text = story("tied-embed-only");
    assert!(!text.contains("@lm_head.weight"));
    assert_snapshot!(text);
}

#[test]
fn two_sets_of_frequencies() {
    assert_snapshot!(story("rope-longrope-new"));
}

#[test]
fn without_fusions_legalization_does_what_must_be_done() {
    let off = ["fold-rope", "fuse-qkv", "fuse-gate-up", "fuse-add-rms-norm"];
    let options = Options { switches: off.map(|name| (name.to_owned(), false)).into(), ..Options::default() };
    let model = graph("gqa-f32", &PLAIN);
    let outcome = run(&model, options);
    assert_equivalent(&model, outcome.stage.graph());
    assert_snapshot!(format!("{}\n{}", outcome.stage.graph(), outcome.report));
}

/// Every fusion fires in every layer of every fixture, and no result changes.
#[test]
fn fused_graphs_mean_what_models_mean() {
    for name in names() {
        let model = graph(&name, &FULL);
        let fused = run(&model, until(LAST_FUSION));
        assert_round_trip(fused.stage.graph());
        assert_equivalent(&model, fused.stage.graph());
        let layers = model.params().filter(|(param, _)| param.starts_with("past.")).count() / 2;
        let firings =
            ["FoldRope", "FuseQkv", "FuseGateUp", "FuseAddRmsNorm"].map(|rule| fused.report.firings(rule));
        assert_eq!(firings, [2 * layers, layers, layers, 2 * layers], "{name}");
        let angles = fused.stage.graph().to_string().matches("= rotary_angles").count();
        assert_eq!(angles, 1, "{name}: one set of angles for all layers");
    }
}
