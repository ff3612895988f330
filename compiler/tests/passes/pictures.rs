//! Graphs as pictures.

use insta::assert_snapshot;
use llamac_compiler::driver;
use llamac_compiler::model::{Logits, ModelOptions};
use llamac_compiler::passes::{Options, PassManager};
use llamac_compiler::report;
use llamac_compiler::source::Checkpoint;
use llamac_compiler::target::native::Native;
use llamac_compiler::target::onnx::Onnx;
use llamac_ir::Graph;

use crate::fixtures::{FULL, PLAIN, graph};

fn fused(model: Graph) -> Graph {
    let outcome = PassManager::new(Options::default()).unwrap().run(model, &Native).unwrap();
    outcome.stage.graph().clone()
}

#[test]
fn graphviz_clusters_layers() {
    assert_snapshot!(report::dot(&fused(graph("gqa-f32", &PLAIN))));
}

/// The titles of the layers in a picture.
fn titles(svg: &str) -> Vec<&str> {
    let frames = svg.split("<text class=\"f\"").skip(1);
    frames.map(|frame| frame.split(['>', '<']).nth(1).unwrap()).collect()
}

#[test]
fn layers_that_are_alike_are_drawn_once() {
    let model = graph("sharded-f32", &PLAIN);
    let svg = report::svg(&model);
    assert_eq!(titles(&svg), ["model.layers.0 to 2, × 3"]);
    assert_eq!(svg.matches(">attention</text>").count(), 1);
    // The first norm stands alone after fusion, so the first layer differs from the others.
    let svg = report::svg(&fused(model));
    assert_eq!(titles(&svg), ["model.layers.0", "model.layers.1 to 2, × 2"]);
    assert_eq!(svg.matches(">attention</text>").count(), 2);
    // A hidden state that only some layers give out makes them differ.
    let svg = report::svg(&graph("sharded-f32", &FULL));
    assert_eq!(titles(&svg), ["model.layers.0 to 1, × 2", "model.layers.2"]);
}

#[test]
fn pictures_are_well_formed() {
    let svg = report::svg(&fused(graph("gqa-f32", &ModelOptions { mask: false, ..FULL })));
    for tag in ["svg", "g", "text", "title", "style", "defs", "marker"] {
        let opened = svg.matches(&format!("<{tag}>")).count() + svg.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, svg.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    for name in ["input_ids", "past.1.key", "logits", "hidden_states.1", "present.0.value"] {
        assert!(svg.contains(&format!(">{name}</text>")), "{name}");
    }
}

#[test]
fn constants_are_drawn_where_they_are_read() {
    let options = ModelOptions { mask: true, logits: Logits::All, ..PLAIN };
    let manager = PassManager::new(Options::default()).unwrap();
    let outcome = manager.run(graph("gqa-f32", &options), &Onnx::PORTABLE).unwrap();
    let svg = report::svg(outcome.stage.graph());
    assert!(outcome.stage.graph().to_string().contains("= constant "));
    assert!(!svg.contains(">constant<"));
    let square = svg.split("<g class=").find(|item| item.contains(">function=pow<")).unwrap();
    assert!(square.starts_with("\"o\"") && square.contains(">2.0<"), "{square}");
    let normed = svg.split("<g class=").find(|item| item.contains(">@input_layernorm.weight<")).unwrap();
    assert!(normed.starts_with("\"m\"") && normed.contains(">mul<"), "{normed}");
}

/// The book shows the story model as it is compiled.
#[test]
fn the_picture_in_the_book_is_true() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let checkpoint = Checkpoint::open(root.join("fixtures/stories"), None).unwrap();
    let compiled = driver::lower(&checkpoint, &Options::default()).unwrap();
    let shown = std::fs::read_to_string(root.join("docs/stories.svg")).unwrap();
    let hint = "write it anew: llamac compile fixtures/stories --emit svg=docs/stories.svg";
    assert!(shown == report::svg(compiled.stage.graph()), "{hint}");
}
