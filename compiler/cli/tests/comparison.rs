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
fn quantized_weights_are_compared_with_themselves() {
    let (folder, model) = (folder(), fixture("stories"));
    let compiled = folder.path().join("model.llamac");
    let paths = [("model", &*model), ("compiled", &*compiled)];
    for weights in ["q8", "q4", "f16", "q4a,lm_head=f32,layers.1=bf16"] {
        llamac(&format!("compile {{model}} -o {{compiled}} --weights {weights}"), &paths).success();
        for line in ["verify {model} {compiled}", "verify {compiled} {model}"] {
            let text = llamac(line, &paths).quiet();
            assert!(text.lines().next().is_some_and(|line| line.ends_with(" within 1e-4")), "{text}");
        }
    }
    // Others do not agree, but may be as far from each other as rounding makes them.
    let other = folder.path().join("other.llamac");
    let paths = [("model", &*model), ("compiled", &*compiled), ("other", &*other)];
    llamac("compile {model} -o {other} --weights q8", &paths).success();
    let text = llamac("verify {other} {compiled}", &paths).quiet();
    let first = text.lines().next().expect("a line");
    assert!(first.contains(" differs from ") && first.ends_with("where 5e-1 is allowed"), "{text}");
}

/// Whose tensors have other names than what is made of them.
#[test]
fn quantized_checkpoints_and_adapters_are_compared_with_what_is_made_of_them() {
    let folder = folder();
    let [compiled, merged] = ["model.llamac", "merged"].map(|name| folder.path().join(name));
    for name in ["gptq-4", "gptq-4-act-order", "awq", "packed-4", "packed-zeros", "int8", "fp8", "bnb-nf4"] {
        let model = fixture(&format!("quantized/{name}"));
        let paths = [("model", &*model), ("compiled", &*compiled)];
        for weights in ["as-is", "q8", "bf16"] {
            llamac(&format!("compile {{model}} -o {{compiled}} --weights {weights}"), &paths).success();
            llamac("verify {model} {compiled}", &paths).quiet();
        }
    }
    for (base, adapter) in [("gqa-f32", "reward"), ("gqa-f32", "saved-modules"), ("gqa-f32", "resized")] {
        let (base, adapter) = (fixture(&format!("tiny/{base}")), fixture(&format!("adapters/{adapter}")));
        let paths =
            [("base", &*base), ("adapter", &*adapter), ("compiled", &*compiled), ("merged", &*merged)];
        llamac("compile {base} --lora {adapter} -o {compiled}", &paths).success();
        llamac("convert {base} --lora {adapter} -o {merged}", &paths).success();
        llamac("verify {merged} {compiled}", &paths).quiet();
        std::fs::remove_dir_all(&merged).expect("it is there");
    }
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
    let folder = folder();
    let [f32, bf16] = ["f32", "bf16"].map(|name| folder.path().join(name));
    let model = fixture("tiny/gqa-f32");
    let paths = [("model", &*model), ("f32", &*f32), ("bf16", &*bf16)];
    llamac("compile {model} -o {f32}", &paths).success();
    llamac("compile {model} -o {bf16} --weights bf16", &paths).success();
    llamac("verify {f32} {bf16}", &paths).quiet();
    llamac("verify {f32} {bf16} --tolerance 1e-5", &paths).failure(6);
    llamac("verify {f32} {bf16} --tolerance 1e-4", &paths).failure(6);
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
    // Whatever the model is compiled for.
    let done = llamac("compile {model} -o {folder}/bf16 --compute bf16 --verify", &paths);
    assert!(done.stderr.contains("; verified in f32: differences up to "), "{}", done.stderr);
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
