//! `llamac estimate` says what then happens.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{fixture, folder, llamac};

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn estimates_are_what_a_compiled_model_takes() {
    let place = folder();
    for (name, weights, kv) in [
        ("stories", "as-is", "f32"),
        ("stories", "f32", "bf16"),
        ("tiny/odd-sizes", "f16", "f16"),
        ("meta/llama3-bf16-mp4", "bf16", "f32"),
        ("tiny/tied-embed-only", "as-is", "f32"),
        ("stories", "q8", "int8"),
        ("gguf/stories/model.gguf", "as-is", "f32"),
    ] {
        let model = fixture(name);
        let places: [(&str, &Path); 2] = [("model", &model), ("f", place.path())];
        let line = format!("estimate {{model}} --context 200 --batch 3 --weights {weights} --kv {kv} --json");
        let estimate = json(&llamac(&line, &places).quiet());
        llamac(&format!("-q compile {{model}} -o {{f}}/model --weights {weights} --kv {kv}"), &places)
            .quiet();
        let size = fs::metadata(place.path().join("model")).expect("a file").len();
        assert_eq!(estimate["artifact_bytes"], size, "{name}");
        let inspected = json(&llamac("inspect {f}/model --json", &places).quiet());
        assert_eq!(estimate["shape"], inspected["shape"], "{name}");
        assert_eq!(estimate["weights"], inspected["weights"], "{name}");
        assert_eq!(estimate["parameters"], inspected["parameters"], "{name}");
        let number = |value: &Value| value.as_f64().expect("a number");
        let near = |found: f64, expected: f64, what: &str| {
            assert!((found / expected - 1.0).abs() < 0.05, "{name}: {what}: {found} instead of {expected}");
        };
        // Blocks of 64 tokens.
        let (shape, memory) = (&inspected["shape"], &inspected["memory"]);
        let head_dim = number(&shape["head_dim"]);
        let cache = number(&memory["kv_per_token"]) * 256.0 * 3.0;
        near(number(&estimate["memory"]["cache"]), cache, "cache");
        // Parameters outside of the embedding, each multiplied and added once for every token.
        let (layers, heads) = (number(&shape["layers"]), number(&shape["heads"]));
        let (hidden, kv_heads) = (number(&shape["hidden_size"]), number(&shape["kv_heads"]));
        let (ffn, vocab) = (number(&shape["intermediate_size"]), number(&shape["vocab_size"]));
        let matrices = layers * (hidden * head_dim * (2.0 * heads + 2.0 * kv_heads) + 3.0 * hidden * ffn);
        let decode = 3.0 * (2.0 * (matrices + hidden * vocab) + 4.0 * layers * heads * head_dim * 200.0);
        near(number(&estimate["flops"]["decode"]), decode, "decode");
        let pairs = 200.0 * 201.0 / 2.0;
        let prefill =
            3.0 * (2.0 * (200.0 * matrices + hidden * vocab) + 4.0 * layers * heads * head_dim * pairs);
        near(number(&estimate["flops"]["prefill"]), prefill, "prefill");
        let sum: f64 =
            ["weights", "cache", "activations"].iter().map(|key| number(&estimate["memory"][key])).sum();
        assert_eq!(number(&estimate["memory"]["total"]), sum);
    }
}

#[test]
fn people_get_a_table() {
    let stories = fixture("stories");
    let text = llamac("estimate {stories} --context 512", &[("stories", &stories)]).quiet();
    insta::assert_snapshot!(text, @"
    head               causal-lm
    parameters         1.15 M
    bf16 weights       2.2 MiB in 18 tensors
    f32 weights        4.6 KiB in 10 tensors
    compiled model     2.3 MiB
    memory             4.7 MiB for 512 tokens
      weights, mapped  2.2 MiB
      KV cache         1.0 MiB
      activations      1.5 MiB
    prefill            1.18 B floating-point operations
    a decoded token    3.08 M floating-point operations
    limit of decoding  3241.63 steps a second for each 10 GB/s of memory: a step reads 2.9 MiB
    ");
    let beyond = llamac("estimate {stories} --context 513", &[("stories", &stories)]).failure(5);
    assert!(beyond.contains("at most 512 tokens") && beyond.contains("513"), "{beyond}");
}

#[test]
fn what_cannot_be_counted_is_told() {
    let place = folder();
    let config = fs::read_to_string(fixture("stories").join("config.json")).expect("a configuration");
    let mut config = json(&config);
    config["max_position_embeddings"] = (1 << 24).into();
    fs::write(place.path().join("config.json"), config.to_string()).expect("a file");
    let weights = "model.safetensors";
    fs::copy(fixture("stories").join(weights), place.path().join(weights)).expect("a file");
    for (context, why) in [(1 << 20, "the work cannot be counted"), (1 << 24, "does not fit into any memory")]
    {
        let line = format!("estimate {{model}} --context {context} --batch 4294967295");
        let text = llamac(&line, &[("model", place.path())]).failure(5);
        assert!(text.contains(why) && text.contains("a smaller --batch"), "{text}");
    }
}
