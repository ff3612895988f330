//! Models that are wrong in one place must be told from transformers by the fixtures: the parity tests can fail.

use llamac_compiler::driver::CompileOptions;
use llamac_compiler::model::{self, Inputs, ModelOptions};
use llamac_compiler::reference;
use llamac_compiler::source::Checkpoint;
use llamac_ir::{Graph, Real};
use llamac_plan::KvDtype;
use llamac_runtime::EngineOptions;
use llamac_tests::compare::Comparison;
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open};

fn fixture(name: &str) -> Fixture {
    Fixture::read(&golden::fixtures().join("tiny").join(name))
}

/// Whether the recorded outputs of `fixture` are those of `checkpoint`, its graph's text changed by `edit`.
fn agrees(fixture: &Fixture, checkpoint: &Checkpoint, edit: impl Fn(String) -> String) -> bool {
    let mut comparison = Comparison::default();
    for case in &fixture.cases {
        let inputs = match case.request.tokens {
            llamac_plan::eval::Tokens::Ids(_) => Inputs::Ids,
            llamac_plan::eval::Tokens::Embeddings(_) => Inputs::Embeddings,
        };
        let options = ModelOptions {
            inputs,
            mask: true,
            hidden_states: case.request.hidden_states,
            presents: true,
            ..ModelOptions::default()
        };
        let graph = model::build(checkpoint, &options).expect("it builds");
        let graph = Graph::parse(&edit(graph.to_string())).expect("the edited text is a graph");
        let found = reference::eval_graph(checkpoint, &graph, &case.request).expect("it runs");
        case.compare(&found, &mut comparison);
    }
    comparison.problems().is_empty()
}

/// The same of the compiled checkpoint.
fn compiled_agrees(fixture: &Fixture, checkpoint: &Checkpoint) -> bool {
    let options = EngineOptions { threads: 1, chunk: 64, compute: None };
    let mut engine = engine(checkpoint, &CompileOptions::default(), options);
    let mut comparison = Comparison::default();
    for case in &fixture.cases {
        match llamac_runtime::eval(&mut engine, &case.request, KvDtype::F32) {
            Ok(found) => case.compare(&found, &mut comparison),
            Err(e) => comparison.problem(e.to_string()),
        }
    }
    comparison.problems().is_empty()
}

/// The checkpoint of fixture `name` agrees with transformers, and no longer does once `mutate` has changed it.
fn caught(name: &str, mutate: impl FnOnce(&mut Checkpoint)) {
    let fixture = fixture(name);
    let mut checkpoint = open(&fixture);
    assert!(agrees(&fixture, &checkpoint, |text| text), "{name} agrees before the change");
    mutate(&mut checkpoint);
    assert!(!agrees(&fixture, &checkpoint, |text| text), "{name} must not agree after the change");
    assert!(!compiled_agrees(&fixture, &checkpoint), "{name} must not agree after the change, compiled");
}

#[test]
fn another_theta_is_caught() {
    caught("gqa-f32", |checkpoint| {
        let theta = checkpoint.config.rope.theta.get();
        checkpoint.config.rope.theta = Real::new(theta * 1.1);
    });
}

#[test]
fn another_eps_is_caught() {
    caught("gqa-f32", |checkpoint| checkpoint.config.rms_norm_eps = Real::new(1e-3));
}

#[test]
fn dropped_biases_are_caught() {
    caught("attention-bias", |checkpoint| checkpoint.config.attention_bias = false);
    caught("mlp-bias", |checkpoint| checkpoint.config.mlp_bias = false);
}

#[test]
fn pooling_at_another_place_is_caught() {
    caught("seqcls-pad", |checkpoint| checkpoint.config.pad_token_id = Some(1));
    let fixture = fixture("seqcls-pad");
    let checkpoint = open(&fixture);
    let pad = checkpoint.config.pad_token_id.expect("the fixture has a padding token");
    let last = |text: String| {
        let rule = format!("pad={pad}");
        assert!(text.contains(&rule), "{text}");
        text.replace(&rule, "pad=none")
    };
    assert!(!agrees(&fixture, &checkpoint, last));
}

#[test]
fn another_activation_is_caught() {
    caught("act-gelu-tanh", |checkpoint| checkpoint.config.activation = llamac_ir::Activation::Gelu);
}

#[test]
fn a_wrong_map_of_query_heads_to_key_heads_is_caught() {
    let fixture = fixture("gqa-f32");
    let checkpoint = open(&fixture);
    let (heads, size) = (checkpoint.config.num_key_value_heads, checkpoint.config.head_dim);
    let reversed = |text: String| {
        let mut text = text;
        for layer in 0..checkpoint.config.num_hidden_layers {
            for which in ["k", "v"] {
                let name = format!("@model.layers.{layer}.self_attn.{which}_proj.weight");
                let parts: Vec<String> = (0..heads)
                    .rev()
                    .map(|head| format!("slice({name}, start={}, rows={size})", head * size))
                    .collect();
                let recipe = format!("concat({})", parts.join(", "));
                // The first occurrence declares the weight, the second uses it.
                let (declaration, rest) = text.split_once(&format!("{name}:")).expect("it is declared");
                assert_eq!(rest.matches(&name).count(), 1);
                text = format!("{declaration}{name}:{}", rest.replace(&name, &recipe));
            }
        }
        text
    };
    assert!(agrees(&fixture, &checkpoint, |text| text));
    assert!(!agrees(&fixture, &checkpoint, reversed));
}
