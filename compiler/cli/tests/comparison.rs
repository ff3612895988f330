//! `llamac verify A B` and `compile --verify`.

mod support;

use std::path::Path;

use insta::assert_snapshot;
use safetensors::Dtype;
use support::{copy, fixture, folder, i64s, llamac, load, names, redact, save};

/// Copies `tiny/gqa-f32` into `to` with one tensor changed.
fn changed(to: &Path, name: &str, change: impl FnOnce(&mut Vec<f32>)) {
    copy("tiny/gqa-f32", to);
    let path = to.join("model.safetensors");
    let mut tensors = load(&path);
    change(&mut tensors.get_mut(name).expect("a tensor").1);
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let saved: Vec<_> = tensors
        .iter()
        .map(|(name, (shape, values))| (name.as_str(), Dtype::F32, shape.as_slice(), bytes(values)))
        .collect();
    save(&path, &saved);
}

#[test]
fn a_compiled_model_agrees_with_its_checkpoint() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let compiled = folder.path().join("model.llamac");
    let paths = [("model", &*model), ("compiled", &*compiled)];
    llamac("compile {model} -o {compiled}", &paths).success();
    let text = llamac("verify {model} {compiled}", &paths).quiet();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with(" within 1e-4"), "{text}");
    assert_eq!(lines[1], "read: 1 × 8 tokens, 2 of them through the cache");
    let outputs: Vec<&str> = lines[3..].iter().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(outputs, ["hidden_states.0", "hidden_states.1", "hidden_states.2", "logits"]);
    let difference = |line: &&str| line.split_whitespace().nth(2).and_then(|cell| cell.parse::<f32>().ok());
    let differences: Vec<f32> = lines[3..].iter().filter_map(difference).collect();
    assert!(differences.len() == 4 && differences.iter().all(|difference| *difference <= 1e-4), "{text}");
    // Either may be the reference; a checkpoint also agrees with itself, with everything that the evaluator tells.
    llamac("verify {compiled} {model}", &paths).quiet();
    let text = llamac("verify {model} {model} --tolerance 0", &paths).quiet();
    assert!(text.contains("present.1.value"), "{text}");
}

#[test]
fn the_first_module_that_differs_is_named() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let [other, compiled] = ["other", "model.llamac"].map(|name| folder.path().join(name));
    std::fs::create_dir(&other).expect("a folder");
    changed(&other, "model.layers.0.mlp.down_proj.weight", |values| values[5] += 0.5);
    let paths = [("model", &*model), ("other", &*other), ("compiled", &*compiled)];
    llamac("compile {other} -o {compiled}", &paths).success();
    let message = llamac("verify {model} {compiled}", &paths).failure(6);
    let message = redact(&message, &[("compiled", &compiled)]);
    assert!(message.contains("--> compiled: hidden_states.1, of model.layers.0"), "{message}");
    assert!(message.contains("what is computed before agrees"), "{message}");
    llamac("verify {model} {compiled} --tolerance 10", &paths).quiet();
    // Between checkpoints it is known to the projection.
    changed(&other, "model.layers.1.self_attn.v_proj.weight", |values| values[0] += 0.5);
    let message = llamac("verify {model} {other}", &paths).failure(6);
    assert!(message.contains("present.1.value, of model.layers.1.self_attn.v_proj"), "{message}");
}

#[test]
fn narrower_weights_are_allowed_more() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let compiled = folder.path().join("model.llamac");
    let paths = [("model", &*model), ("compiled", &*compiled)];
    llamac("compile {model} -o {compiled} --weights bf16", &paths).success();
    llamac("verify {model} {compiled}", &paths).quiet();
    llamac("verify {model} {compiled} --tolerance 1e-5", &paths).failure(6);
}

#[test]
fn inputs_may_be_given_and_padding_is_left_out() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let [inputs, compiled] = ["in", "model.llamac"].map(|name| folder.path().join(name));
    let paths = [("model", &*model), ("in", &*inputs), ("compiled", &*compiled)];
    llamac("compile {model} -o {compiled}", &paths).success();
    save(
        &inputs,
        &[
            ("input_ids", Dtype::I64, &[2, 3], i64s(&[0, 0, 5, 1, 2, 3])),
            ("attention_mask", Dtype::I64, &[2, 3], i64s(&[0, 0, 1, 1, 1, 1])),
        ],
    );
    let text = llamac("verify {model} {compiled} --inputs {in}", &paths).quiet();
    assert!(text.contains("read: 2 × 3 tokens, 0 of them through the cache"), "{text}");
}

#[test]
fn a_checkpoint_is_compared_for_the_head_of_the_other() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let compiled = folder.path().join("model.llamac");
    let paths = [("model", &*model), ("compiled", &*compiled)];
    llamac("compile {model} -o {compiled} --head base", &paths).success();
    for line in ["verify {model} {compiled}", "verify {compiled} {model}"] {
        let text = llamac(line, &paths).quiet();
        assert!(text.contains("last_hidden_state"), "{text}");
    }
}

#[test]
fn faults_of_both_models_come_together() {
    let folder = folder();
    let paths = [("folder", folder.path())];
    let message = llamac("verify {folder}/a {folder}/b --inputs {folder}/in", &paths).failure(3);
    for part in ["/a", "/b", "/in"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    llamac("verify {folder}/a --tolerance 1", &paths).failure(2);
    llamac("verify {folder}/a {folder}/b --tolerance -1", &paths).failure(2);
}

#[test]
fn compiling_verifies_before_anything_is_there() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let paths = [("model", &*model), ("folder", folder.path())];
    for target in ["native", "onnx", "onnx-std", "onnx-ort"] {
        for weights in ["as-is", "f16"] {
            let line = format!(
                "-q compile {{model}} -o {{folder}}/{target}-{weights} --target {target} --verify --weights {weights}"
            );
            llamac(&line, &paths).quiet();
        }
    }
    assert_eq!(names(folder.path()).len(), 8);
    // A context of a few tokens is verified with as many.
    llamac("-q compile {model} -o {folder}/short --max-context 2 --verify", &paths).quiet();
}

#[test]
fn what_differs_has_a_code() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    changed(folder.path(), "lm_head.weight", |values| values.iter_mut().for_each(|value| *value += 1.0));
    let paths = [("model", &*model), ("other", folder.path())];
    let message = llamac("verify {model} {other}", &paths).failure(6);
    assert_snapshot!(redact(&message, &[("other", folder.path())]));
}
