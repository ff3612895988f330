//! What is given in place of a model, and what the messages make of it.

mod support;

use std::fs;

use insta::assert_snapshot;
use safetensors::Dtype;
use support::{arguments, copy, fixture, folder, i64s, llamac, redact, run, save};

/// The message of `inspect` about a folder that `prepare` filled.
fn message(status: i32, prepare: impl FnOnce(&std::path::Path)) -> String {
    let folder = folder();
    prepare(folder.path());
    let message = llamac("inspect {folder}", &[("folder", folder.path())]).failure(status);
    redact(&message, &[("folder", folder.path())])
}

#[test]
fn folders_that_hold_no_model() {
    assert_snapshot!(message(3, |_| {}), @"
    error[E0100]: this is not a model that llamac can read
      --> folder
       expected a directory with config.json and model.safetensors, or with params.json and consolidated.00.pth, or a GGUF file
       found    an empty directory
    ");
    let gpt2 = r#"{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 768}"#;
    assert_snapshot!(message(4, |folder| fs::write(folder.join("config.json"), gpt2).expect("writes")), @r#"
        error[E0106]: this kind of model is not supported
          --> config.json: model_type
           expected "llama"
           found    "gpt2" (GPT2LMHeadModel)
           help: llamac compiles models of the LLaMA architecture
        "#);
    assert_snapshot!(message(3, |folder| fs::write(folder.join("model.gguf"), "GGUF").expect("writes")), @"
        error[E0100]: this is not a model that llamac can read
          --> folder
           expected a directory with config.json and model.safetensors, or with params.json and consolidated.00.pth, or a GGUF file
           found    a directory with GGUF files
           help: give the file: folder/model.gguf
        ");
    assert_snapshot!(message(3, |folder| {
        fs::create_dir(folder.join("model")).expect("a folder");
        copy("tiny/gqa-f32", &folder.join("model"));
    }), @r#"
        error[E0100]: this is not a model that llamac can read
          --> folder
           expected a directory with config.json and model.safetensors, or with params.json and consolidated.00.pth, or a GGUF file
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
    assert_snapshot!(redact(&text, &[]), @"
    error[E0100]: this is not a model that llamac can read
      --> fixtures/storys
       expected a directory with a checkpoint, Hugging Face's or Meta's, a GGUF file, or a compiled model
       found    no such file or directory
       help: did you mean fixtures/stories?
    ");
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
    assert_snapshot!(redact(&text, &[]), @"
    error[E0100]: this is not a model that llamac can read
      --> fixtures/tiny/gqa-f32/model.safetensors
       expected a directory with config.json and model.safetensors, or with params.json and consolidated.00.pth, or a GGUF file
       found    a file
       help: give the directory fixtures/tiny/gqa-f32
    ");

    fs::remove_file(&out).expect("removes");
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
    assert_snapshot!(redact(&text, &[]), @"
    error[E0100]: this is not a model that llamac can read
      --> fixtures/tiny/gqa-f32/golden.json
       expected a directory with config.json and model.safetensors, or with params.json and consolidated.00.pth, or a GGUF file
       found    a file
       help: give the directory fixtures/tiny/gqa-f32
    ");
}

/// Without a folder for temporary files nothing can be compiled to run it.
#[test]
fn what_is_known_before_a_model_is_compiled_is_told_before() {
    let folder = folder();
    let [tiny, stories, tokens] = ["tiny/gqa-f32", "stories", "tiny/tokcls-bias"].map(fixture);
    let inputs = folder.path().join("in");
    save(&inputs, &[("input_ids", Dtype::I64, &[1, 2], i64s(&[1, 99]))]);
    let paths = [("tiny", &*tiny), ("stories", &*stories), ("tokens", &*tokens), ("f", folder.path())];
    let done = |line: &str| run(arguments(line, &paths).env("TMPDIR", "/nonexistent"), "");
    for (line, status, why) in [
        ("run {stories} -p x", 1, "the folder for temporary files does not exist"),
        ("run {stories} -p x --top-p 2", 2, "error[E0406]"),
        ("run {tokens} -p x", 3, "error[E0403]"),
        ("run {tiny} -p x", 3, "give token ids (`--ids`), or use a checkpoint that holds a tokenizer"),
        ("classify {tokens} x", 3, "error[E0403]"),
        ("embed {tiny} x", 3, "error[E0405]"),
        ("eval {tiny} --inputs {f}/in --outputs {f}/out", 3, "error[E0400]"),
        ("eval {stories} --inputs {f}/in --outputs {f}/out --keep 3", 2, "at most the 2 positions"),
    ] {
        let message = done(line).failure(status);
        assert!(message.contains(why), "{line}: {message}");
        assert!(!line.starts_with("embed") || !message.contains("--ids"), "{message}");
    }
    let facts = done("inspect {stories}").quiet();
    assert!(facts.contains("causal-lm") && facts.contains("pass fuse-qkv"), "{facts}");
}

#[test]
fn a_size_that_is_wrong_or_missing_is_named() {
    let help = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let message = message(3, |folder| {
            copy("tiny/gqa-f32", folder);
            let path = folder.join("config.json");
            let mut config: serde_json::Value =
                serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
            change(config.as_object_mut().expect("an object"));
            fs::write(&path, config.to_string()).expect("writes");
        });
        let mut helps: Vec<String> = message
            .lines()
            .filter_map(|line| line.trim().strip_prefix("help: ").map(str::to_owned))
            .collect();
        helps.dedup();
        helps
    };
    let wide = help(&|config| drop(config.insert("head_dim".to_owned(), 16.into())));
    assert_eq!(wide, ["config.json says head_dim = 16; these weights have 8"]);
    let none = help(&|config| drop(config.remove("vocab_size")));
    assert_eq!(none, ["config.json has no vocab_size, which is then 32000; these weights have 67"]);
}

#[test]
fn names_that_lead_nowhere() {
    let folder = folder();
    std::os::unix::fs::symlink("loop", folder.path().join("loop")).expect("a link");
    let message =
        |line: &str| redact(&llamac(line, &[("f", folder.path())]).failure(3), &[("folder", folder.path())]);
    assert_snapshot!(message("run meta-llama/Llama-3.2-1B -p x"), @"
    error[E0100]: this is not a model that llamac can read
      --> meta-llama/Llama-3.2-1B
       expected a directory with a checkpoint, Hugging Face's or Meta's, a GGUF file, or a compiled model
       found    no such file or directory
       help: llamac does not download: get it with `hf download meta-llama/Llama-3.2-1B --local-dir DIR`
    ");
    assert_snapshot!(message("run {f}/loop -p x"), @"
    error[E0100]: this is not a model that llamac can read
      --> folder/loop
       expected a directory with a checkpoint, Hugging Face's or Meta's, a GGUF file, or a compiled model
       found    a link that leads nowhere
    ");
    assert_snapshot!(message("run {f}/none.llamac -p x"), @"
    error[E0100]: this is not a model that llamac can read
      --> folder/none.llamac
       expected a directory with a checkpoint, Hugging Face's or Meta's, a GGUF file, or a compiled model
       found    no such file or directory
    ");
    let named = run(support::command().args(["inspect", "a\u{1b}[2J\nb"]), "").failure(3);
    assert!(named.contains("--> a\\u{1b}[2J\\nb\n"), "{named}");
}
