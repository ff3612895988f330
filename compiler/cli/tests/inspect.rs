//! `llamac inspect`.

mod support;

use insta::assert_snapshot;
use support::{fixture, folder, llamac, names};

#[test]
fn a_model_is_told_in_a_table() {
    let stories = fixture("stories");
    assert_snapshot!(llamac("inspect {stories}", &[("stories", stories.as_path())]).quiet(), @r#"
        head                    causal-lm
        parameters              1.15 M
        vocabulary              1024
        layers                  4 of width 128
        attention               4 heads of 32, 2 for keys and values
        feed-forward            width 448
        context                 512 tokens
        tokenizer               yes
        compute                 f32
        bf16 weights            2.2 MiB in 18 tensors
        f32 weights             4.6 KiB in 10 tensors
        activations             4.6 KiB a token of a chunk (29.6 KiB without reuse)
        KV cache                2.0 KiB a token, f32
        pass canonicalize       nothing to do
        pass fold-rope          FoldRope 8
        pass fuse-qkv           FuseQkv 4
        pass fuse-gate-up       FuseGateUp 4
        pass fuse-add-rms-norm  FuseAddRmsNorm 8
        pass legalize           nothing to do
        "#);
}

#[test]
fn json_tells_the_same_of_a_checkpoint_and_its_artifact() {
    let (folder, classifier) = (folder(), fixture("tiny/seqcls-pad"));
    let out = folder.path().join("model.llamac");
    let paths = [("model", classifier.as_path()), ("out", out.as_path())];
    let parse = |json: &str| serde_json::from_str::<serde_json::Value>(json).expect("JSON");
    let mut checkpoint = parse(&llamac("inspect {model} --json", &paths).quiet());
    llamac("compile {model} -o {out}", &paths).success();
    let mut artifact = parse(&llamac("inspect {out} --json", &paths).quiet());
    assert_eq!(
        (checkpoint["kind"].take(), artifact["kind"].take()),
        ("checkpoint".into(), "artifact".into())
    );
    assert_eq!(checkpoint, artifact);
    assert_eq!(artifact["head"], "sequence-classification");
    assert!(artifact["labels"].as_array().is_some_and(|labels| labels.len() > 1));
    let (shape, memory) = (&artifact["shape"], &artifact["memory"]);
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    let kv = 2 * 4 * number(&shape["layers"]) * number(&shape["kv_heads"]) * number(&shape["head_dim"]);
    assert_eq!(number(&memory["kv_per_token"]), kv);
    assert!(number(&memory["arena_per_token"]) < number(&memory["unshared_per_token"]));

    // The parameters are those of the checkpoint's file.
    let bytes = std::fs::read(classifier.join("model.safetensors")).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let elements: usize = tensors.iter().map(|(_, view)| view.shape().iter().product::<usize>()).sum();
    assert_eq!(number(&artifact["parameters"]), elements as u64);
    assert_eq!(names(folder.path()), ["model.llamac"]);
}

#[test]
fn a_compiled_model_has_no_graph() {
    let (folder, tiny) = (folder(), fixture("tiny/gqa-f32"));
    let out = folder.path().join("model.llamac");
    let paths = [("tiny", tiny.as_path()), ("out", out.as_path())];
    llamac("compile {tiny} -o {out}", &paths).success();
    let message = llamac("inspect {out} --graph", &paths).failure(2);
    assert!(message.contains("--graph"), "{message}");
}
