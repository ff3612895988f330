//! What is given in place of a model, and what the messages make of it.

mod support;

use std::fs;

use insta::assert_snapshot;
use support::{copy, fixture, folder, llamac, redact};

/// The message of `inspect` about a folder that `prepare` filled.
fn message(status: i32, prepare: impl FnOnce(&std::path::Path)) -> String {
    let folder = folder();
    prepare(folder.path());
    let message = llamac("inspect {folder}", &[("folder", folder.path())]).failure(status);
    redact(&message, &[("folder", folder.path())])
}

#[test]
fn folders_that_hold_no_model() {
    assert_snapshot!(message(3, |_| {}), @r#"
        error[E0100]: this is not a model that llamac can read
          --> folder
           expected a directory with config.json and model.safetensors, or model.safetensors.index.json and shards
           found    an empty directory
        "#);
    let gpt2 = r#"{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 768}"#;
    assert_snapshot!(message(4, |folder| fs::write(folder.join("config.json"), gpt2).expect("writes")), @r#"
        error[E0106]: this kind of model is not supported
          --> config.json: model_type
           expected "llama"
           found    "gpt2" (GPT2LMHeadModel)
           help: llamac compiles models of the LLaMA architecture
        "#);
    assert_snapshot!(message(4, |folder| fs::write(folder.join("model.gguf"), "GGUF").expect("writes")), @r#"
        error[E0106]: this kind of model is not supported
          --> folder
           GGUF files cannot be read yet
           help: get the checkpoint in safetensors, or save it with save_pretrained()
        "#);
    assert_snapshot!(message(3, |folder| {
        fs::create_dir(folder.join("model")).expect("a folder");
        copy("tiny/gqa-f32", &folder.join("model"));
    }), @r#"
        error[E0100]: this is not a model that llamac can read
          --> folder
           expected a directory with config.json and model.safetensors, or model.safetensors.index.json and shards
           found    no config.json
           help: did you mean folder/model?
        "#);
}

#[test]
fn half_a_download() {
    assert_snapshot!(message(3, |folder| {
        copy("tiny/sharded-f32", folder);
        fs::remove_file(folder.join("model-00003-of-00003.safetensors")).expect("removes");
    }), @r#"
        error[E0200]: a file is missing
          --> model.safetensors.index.json: weight_map
           expected model-00003-of-00003.safetensors, with 10 tensors
           found    no such file
           help: the download may not be complete: fetch this file again
        "#);
    assert_snapshot!(message(3, |folder| {
        copy("tiny/gqa-f32", folder);
        fs::remove_file(folder.join("model.safetensors")).expect("removes");
    }), @r#"
        error[E0200]: a file is missing
          --> folder/model.safetensors
           found    no such file
           help: should golden.safetensors be named model.safetensors?
        "#);
}

#[test]
fn a_configuration_that_contradicts_the_weights() {
    let text = message(3, |folder| {
        copy("tiny/gqa-f32", folder);
        let path = folder.join("config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
        config["num_key_value_heads"] = config["num_attention_heads"].clone();
        config["intermediate_size"] = 7.into();
        fs::write(&path, config.to_string()).expect("writes");
    });
    assert!(text.matches("error[E0203]").count() > 4, "{text}");
}

#[test]
fn names_that_are_not_there() {
    let near = fixture("stories").with_file_name("storys");
    let text = llamac("run {near} -p Once", &[("near", near.as_path())]).failure(3);
    assert_snapshot!(redact(&text, &[]), @r#"
        error[E0100]: this is not a model that llamac can read
          --> fixtures/storys
           expected a directory with config.json and model.safetensors, or model.safetensors.index.json and shards
           found    no such file or directory
           help: did you mean fixtures/stories?
        "#);
}

#[test]
fn files_that_are_no_compiled_models() {
    let (folder, tiny) = (folder(), fixture("tiny/gqa-f32"));
    let out = folder.path().join("model.llamac");
    let paths = [("tiny", tiny.as_path()), ("out", out.as_path())];
    let about = |status| redact(&llamac("inspect {out}", &paths).failure(status), &[("out", &out)]);
    let size = |bytes: usize| format!("{bytes} bytes");
    fs::write(&out, "text").expect("writes");
    assert_snapshot!(about(3), @"
    error[E0300]: this is not a compiled model
      --> out
       it is another kind of file
       help: `llamac compile CHECKPOINT -o OUT` makes one
    ");
    let text = llamac("inspect {tiny}/model.safetensors", &paths).failure(3);
    assert_snapshot!(redact(&text, &[]), @r#"
        error[E0100]: this is not a model that llamac can read
          --> fixtures/tiny/gqa-f32/model.safetensors
           expected a directory with config.json and model.safetensors, or model.safetensors.index.json and shards
           found    a file
           help: give the directory fixtures/tiny/gqa-f32
        "#);

    llamac("compile {tiny} -o {out}", &paths).success();
    let whole = fs::read(&out).expect("a file");
    fs::write(&out, &whole[..whole.len() - 1]).expect("writes");
    let cut = about(3).replace(&size(whole.len()), "all").replace(&size(whole.len() - 1), "less");
    assert_snapshot!(cut, @"
    error[E0302]: the compiled model is damaged
      --> out
       the file is cut
       expected all
       found    less
       help: compile the checkpoint again
    ");
    let mut altered = whole.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(&out, altered).expect("writes");
    assert!(about(3).starts_with("error[E0302]"));
    let text = llamac("run {tiny}/golden.json --ids 1", &paths).failure(3);
    assert_snapshot!(redact(&text, &[]), @r#"
        error[E0100]: this is not a model that llamac can read
          --> fixtures/tiny/gqa-f32/golden.json
           expected a directory with config.json and model.safetensors, or model.safetensors.index.json and shards
           found    a file
           help: give the directory fixtures/tiny/gqa-f32
        "#);
}
