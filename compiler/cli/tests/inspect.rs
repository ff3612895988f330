//! `llamac inspect`.

mod support;

use insta::assert_snapshot;
use support::{copy, fixture, folder, llamac, names, redact};

#[test]
fn a_model_is_told_in_a_table() {
    let stories = fixture("stories");
    assert_snapshot!(llamac("inspect {stories}", &[("stories", stories.as_path())]).quiet(), @"
    head                    causal-lm
    parameters              1.15 M
    vocabulary              1024
    layers                  4 of width 128
    attention               4 heads of 32, 2 for keys and values
    feed-forward            width 448
    context                 512 tokens
    tokenizer               yes
    compute                 bf16
    bf16 weights            2.2 MiB in 18 tensors
    f32 weights             4.6 KiB in 10 tensors
    activations             3.1 KiB a token of a chunk (24.6 KiB without reuse)
    KV cache                2.0 KiB a token, f32
    pass canonicalize       nothing to do
    pass merge-lora         nothing to do
    pass assign-schemes     nothing to do
    pass fold-rope          FoldRope 8
    pass fuse-qkv           FuseQkv 4
    pass fuse-gate-up       FuseGateUp 4
    pass fuse-add-rms-norm  FuseAddRmsNorm 8
    pass legalize           nothing to do
    ");
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
    // Values are padded to whole panels.
    let head = number(&shape["head_dim"]) + number(&shape["head_dim"]).next_multiple_of(16);
    let kv = 4 * number(&shape["layers"]) * number(&shape["kv_heads"]) * head;
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

#[test]
fn an_onnx_model_is_told_in_a_table() {
    let exported = fixture("onnx/exported");
    let text = llamac("inspect {model}", &[("model", exported.as_path())]).quiet();
    assert_snapshot!(text, @r"
    format                                          ONNX, IR version 11
    operators                                       ai.onnx 23
    producer                                        make_onnx 1
    metadata note                                   two layers
    metadata task                                   text-generation
    input input_ids                                 i64[batch_size, sequence_length]
    input past_key_values.0…1.value                 f32[batch_size, past_sequence_length, 8]
    output logits                                   f32[batch_size, sequence_length, 16]
    output present.0…1.value                        f32[batch_size, past_sequence_length + sequence_length, 8]
    nodes                                           14
    nodes of ai.onnx                                Reshape 4, Add 2, Concat 2, MatMul 2, RMSNormalization 2, Gather 1, Gemm 1
    module /model/embed_tokens                      1 node
    module /model/layers.0…1                        2 × 5 nodes
    module /lm_head                                 3 nodes
    f32 weights                                     1.6 KiB in 6 initializers, 400 elements
    i64 weights                                     64 B in 3 initializers, 8 elements
    stored in the model                             64 B in 3 initializers
    stored in model.onnx_data                       1.1 KiB of 1.1 KiB in 6 initializers
    largest model.embed_tokens.weight               512 B, f32[16, 8]
    largest lm_head.weight                          512 B, f32[16, 8]
    largest model.layers.0.self_attn.v_proj.weight  256 B, f32[8, 8]
    largest model.layers.1.self_attn.v_proj.weight  256 B, f32[8, 8]
    largest model.layers.0.input_layernorm.weight   32 B, f32[8]
    ");
    // The file, and its directory.
    let file = exported.join("model.onnx");
    assert_eq!(llamac("inspect {model}", &[("model", file.as_path())]).quiet(), text);
}

#[test]
fn whatever_is_in_an_onnx_model_is_told() {
    let mixed = fixture("onnx/mixed.onnx");
    let paths = [("model", mixed.as_path())];
    assert_snapshot!(llamac("inspect {model}", &paths).quiet(), @r"
    format                     ONNX, IR version 10
    operators                  ai.onnx 21, com.microsoft 1, test.other 3, test.local 1
    producer                   make_onnx
    input x                    f32[n, ?, 3]
    input no_rank              bool
    input scalar               i64[]
    input sequence             sequence
    input perhaps              optional
    input map                  map
    input sparse_input         sparse f64[2, m]
    output y                   f32
    nodes                      6, and 13 in graphs inside of them
    nodes of ai.onnx           Abs 6, Neg 6, If 2, Relu 1
    nodes of com.microsoft     SkipSimplifiedLayerNormalization 2
    nodes of test.other        Everything 1
    nodes of test.local        Twice 1
    module (none)              2 nodes
    module /layers/0…1         2 × 1 node
    module /twice              1 node
    module /y                  1 node
    function test.local.Twice  1 node
    f32 weights                152 B in 11 initializers, 38 elements
    complex128 weights         96 B in 2 initializers, 6 elements
    i64 weights                48 B in 2 initializers, 6 elements
    f64 weights                48 B in 2 initializers, 6 elements
    u64 weights                48 B in 2 initializers, 6 elements
    complex64 weights          48 B in 2 initializers, 6 elements
    i32 weights                24 B in 2 initializers, 6 elements
    u32 weights                24 B in 2 initializers, 6 elements
    string weights             13 B in 1 initializer, 3 elements
    u16 weights                12 B in 2 initializers, 6 elements
    i16 weights                12 B in 2 initializers, 6 elements
    f16 weights                12 B in 2 initializers, 6 elements
    bf16 weights               12 B in 2 initializers, 6 elements
    u8 weights                 6 B in 2 initializers, 6 elements
    i8 weights                 6 B in 2 initializers, 6 elements
    bool weights               6 B in 2 initializers, 6 elements
    f8e4m3fn weights           6 B in 2 initializers, 6 elements
    f8e4m3fnuz weights         6 B in 2 initializers, 6 elements
    f8e5m2 weights             6 B in 2 initializers, 6 elements
    f8e5m2fnuz weights         6 B in 2 initializers, 6 elements
    f8e8m0 weights             6 B in 2 initializers, 6 elements
    f6e2m3 weights             6 B in 2 initializers, 6 elements
    f6e3m2 weights             6 B in 2 initializers, 6 elements
    u4 weights                 4 B in 2 initializers, 6 elements
    i4 weights                 4 B in 2 initializers, 6 elements
    f4e2m1 weights             4 B in 2 initializers, 6 elements
    u2 weights                 2 B in 2 initializers, 6 elements
    i2 weights                 2 B in 2 initializers, 6 elements
    sparse weights             1 initializer
    stored in the model        625 B in 64 initializers
    largest square             100 B, f32[5, 5]
    largest typed.complex128   48 B, complex128[3]
    largest raw.complex128     48 B, complex128[3]
    largest typed.i64          24 B, i64[3]
    largest raw.i64            24 B, i64[3]
    ");
    let graph = llamac("inspect {model} --graph", &paths).quiet();
    assert!(graph.starts_with("ir 10, ai.onnx 21, ") && graph.ends_with(" 6 nodes\n"), "{graph}");
}

#[test]
fn json_of_an_onnx_model_is_what_the_onnx_package_reads() {
    let golden = std::fs::read(fixture("onnx/golden.json")).expect("a file");
    let golden: serde_json::Value = serde_json::from_slice(&golden).expect("JSON");
    for (name, golden) in golden.as_object().expect("an object") {
        let model = fixture("onnx").join(name);
        let json = llamac("inspect {model} --json", &[("model", model.as_path())]).quiet();
        let facts: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(facts["kind"], "onnx");
        for (key, expected) in golden["summary"].as_object().expect("an object") {
            assert_eq!(&facts[key], expected, "{name}: {key}");
        }
    }
}

#[test]
fn onnx_models_that_are_wrong_are_refused() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let exported = std::fs::read(fixture("onnx/exported/model.onnx")).expect("a file");
    let message = |status: i32| {
        let told = llamac("inspect {model}", &[("model", path("model.onnx").as_path())]).failure(status);
        redact(&told, &[("DIR", folder.path())])
    };
    assert_snapshot!(message(3), @"
    error[E0200]: a file is missing
      --> DIR/model.onnx
       no such file or directory
    ");
    std::fs::write(path("model.onnx"), &exported).expect("writes");
    assert_snapshot!(message(3), @r"
    error[E0200]: a file is missing
      --> DIR/model.onnx_data
       expected data of the model's tensors
       found    no such file
       help: the model and its data belong in one directory, under the names that they were written with
    ");
    std::fs::write(path("model.onnx_data"), [0; 600]).expect("writes");
    assert_snapshot!(message(3), @r"
    error[E0602]: the data of an ONNX model's tensors is not where it should be
      --> DIR/model.onnx_data
       expected at least 1152 bytes
       found    600 bytes
       help: the file is cut, or belongs to another model: get it again, together with the model
    ");
    std::fs::write(path("model.onnx"), &exported[..1000]).expect("writes");
    assert_snapshot!(message(3), @r"
    error[E0601]: damaged ONNX model
      --> DIR/model.onnx
       a field reaches beyond the end of its message, at byte 19
       help: the file is cut or damaged: get it again
    ");
    std::fs::write(path("model.onnx"), b"version https://git-lfs.github.com/spec/v1").expect("writes");
    assert_snapshot!(message(3), @r"
    error[E0600]: this is not an ONNX model
      --> DIR/model.onnx
       a field has a type that does not exist, at byte 1
       help: this is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository
    ");
    // An export is no checkpoint.
    std::fs::write(path("config.json"), "{}").expect("writes");
    let told = llamac("run {model} -p x", &[("model", folder.path())]).failure(3);
    assert_snapshot!(redact(&told, &[("DIR", folder.path())]), @r#"
    error[E0103]: missing key in the configuration
      --> config.json: model_type
       expected "llama"
       help: is this the config.json of a model? add "model_type": "llama" if it is a LLaMA
    error[E0106]: this kind of model is not supported
      --> DIR
       an ONNX model cannot be compiled
       help: give the checkpoint that it was exported from; `llamac inspect` tells what an ONNX model holds
    "#);
}

#[test]
fn a_checkpoint_beside_an_onnx_model_stays_one() {
    let folder = folder();
    copy("tiny/gqa-f32", folder.path());
    std::fs::copy(fixture("onnx/mixed.onnx"), folder.path().join("model.onnx")).expect("a copy");
    let json = llamac("inspect {model} --json", &[("model", folder.path())]).quiet();
    assert!(json.starts_with(r#"{"kind":"checkpoint""#), "{json}");
}

#[cfg(unix)]
#[test]
fn data_behind_a_link_is_warned_about() {
    let (folder, elsewhere) = (folder(), fixture("onnx/exported"));
    std::fs::copy(elsewhere.join("model.onnx"), folder.path().join("model.onnx")).expect("a copy");
    let link = folder.path().join("model.onnx_data");
    std::os::unix::fs::symlink(elsewhere.join("model.onnx_data"), link).expect("a link");
    let done = llamac("inspect {model}", &[("model", folder.path())]);
    assert_snapshot!(done.stderr, @r"warning: model.onnx_data is a link out of the model's directory: ONNX Runtime will not follow it");
    let told = llamac("inspect {model}", &[("model", elsewhere.as_path())]).quiet();
    assert_eq!(done.success(), told);
    // Links that lead the model and its data to one place, as in a cache of the hub, are nothing to warn about.
    let model = folder.path().join("model.onnx");
    std::fs::remove_file(&model).expect("removes");
    std::os::unix::fs::symlink(elsewhere.join("model.onnx"), &model).expect("a link");
    assert_eq!(llamac("inspect {model}", &[("model", model.as_path())]).quiet(), told);
}

#[test]
fn a_file_is_what_it_begins_with() {
    let folder = folder();
    let tiny = fixture("tiny/gqa-f32");
    let paths = [("f", folder.path()), ("tiny", &*tiny)];
    std::fs::copy(fixture("onnx/mixed.onnx"), folder.path().join("model.bin")).expect("a copy");
    llamac("-q compile {tiny} -o {f}/compiled.onnx", &paths).quiet();
    std::fs::copy(fixture("gguf/mixed/model.gguf"), folder.path().join("blocks")).expect("a copy");
    assert!(llamac("inspect {f}/blocks --json", &paths).quiet().starts_with(r#"{"kind":"checkpoint""#));
    assert!(llamac("inspect {f}/model.bin --json", &paths).quiet().starts_with(r#"{"kind":"onnx""#));
    assert!(llamac("inspect {f}/compiled.onnx --json", &paths).quiet().starts_with(r#"{"kind":"artifact""#));
}
