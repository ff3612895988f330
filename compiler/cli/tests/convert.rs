//! `llamac convert`: what is written is what the original holds, whole or not at all.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use support::{copy, fixture, folder, llamac, names};

/// The tensors of a directory: dtype, shape and bytes by name.
fn tensors(folder: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for name in
        names(folder).iter().filter(|name| name.starts_with("model") && name.ends_with(".safetensors"))
    {
        let bytes = fs::read(folder.join(name)).expect("a file");
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        for (name, view) in file.iter() {
            let tensor = (view.dtype().to_string(), view.shape().to_vec(), view.data().to_vec());
            assert!(found.insert(name.to_owned(), tensor).is_none(), "{name} is there once");
        }
    }
    found
}

#[test]
fn every_layout_becomes_the_original_bit_for_bit() {
    for (model, layouts) in [
        ("llama1-f16", &["mp1", "mp2", "mp8", "mp2-legacy"][..]),
        ("llama2-bf16", &["mp4", "mp2-views", "bin", "bin-sharded", "bin-legacy", "bin-views"]),
        ("llama3-bf16", &["mp1", "mp2", "mp4", "mp8-copies"]),
        ("tied-f32", &["mp2", "mp1-legacy"]),
    ] {
        let original = tensors(&fixture("meta").join(model));
        for layout in layouts {
            let place = folder();
            let from = fixture("meta").join(format!("{model}-{layout}"));
            llamac("-q convert {from} -o {f}/out", &[("from", &from), ("f", place.path())]).quiet();
            assert!(tensors(&place.path().join("out")) == original, "{model}-{layout}");
        }
    }
}

#[test]
fn a_conversion_is_a_checkpoint_that_computes_the_same() {
    let place = folder();
    let path = place.path();
    let [meta, original] = ["meta/llama3-bf16-mp2", "meta/llama3-bf16"].map(fixture);
    let places: [(&str, &Path); 3] = [("meta", &meta), ("original", &original), ("f", path)];
    let done = llamac("convert {meta} -o {f}/out --max-shard-size 10KB", &places);
    assert!(done.stderr.contains("21 tensors, 56.3 KiB in 8 files"), "{}", done.stderr);
    let index: Value =
        serde_json::from_slice(&fs::read(path.join("out/model.safetensors.index.json")).expect("an index"))
            .expect("JSON");
    let map = index["weight_map"].as_object().expect("a map");
    assert_eq!(map.len(), 21);
    let first = map.values().filter_map(Value::as_str).min();
    assert_eq!(map["model.embed_tokens.weight"].as_str(), first);
    let total: usize = tensors(&path.join("out")).values().map(|(.., bytes)| bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    for file in names(&path.join("out")).iter().filter(|name| name.ends_with(".safetensors")) {
        let held: usize = fs::metadata(path.join("out").join(file)).expect("a file").len() as usize;
        assert!(held < 10_000 + 2000, "{file}: {held}");
    }
    let config: Value =
        serde_json::from_slice(&fs::read(path.join("out/config.json")).expect("a file")).expect("JSON");
    assert_eq!((&config["torch_dtype"], &config["rope_theta"]), (&"bfloat16".into(), &500_000.0.into()));
    let greedy = |model: &str| {
        llamac(&format!("run {model} --ids 1,5,9,60 -n 12 --temperature 0 --json"), &places).quiet()
    };
    let tokens = |json: String| {
        let done: Value = serde_json::from_str(json.lines().last().expect("a line")).expect("JSON");
        done["tokens"].clone()
    };
    let expected = tokens(greedy("{original}"));
    for model in ["{meta}", "{f}/out"] {
        assert_eq!(tokens(greedy(model)), expected, "{model}");
    }
}

#[test]
fn layers_are_left_out_and_numbered_anew() {
    let place = folder();
    let path = place.path();
    let meta = fixture("meta/llama1-f16-mp2");
    let places: [(&str, &Path); 2] = [("meta", &meta), ("f", path)];
    llamac("-q convert {meta} -o {f}/second --layers 1..2", &places).quiet();
    let original = tensors(&fixture("meta/llama1-f16"));
    let found = tensors(&path.join("second"));
    assert_eq!(found.len(), 12);
    for (name, tensor) in &found {
        assert!(*tensor == original[&name.replace("layers.0", "layers.1")], "{name}");
    }
    let inspect = |model: &str| llamac(&format!("inspect {model} --json"), &places).quiet();
    let shape = |json: String| serde_json::from_str::<Value>(&json).expect("JSON")["shape"].clone();
    assert_eq!(shape(inspect("{f}/second")), shape(inspect("{meta} --layers 1..2")));
    llamac("-q compile {meta} -o {f}/part.llamac --layers 1..2", &places).quiet();
    let run =
        |model: &str| llamac(&format!("run {model} --ids 1,5 -n 8 --temperature 0 --json"), &places).quiet();
    let tokens =
        |json: String| json.lines().last().map(|line| line.split("prefill_ms").next().map(str::to_owned));
    let expected = tokens(run("{f}/second"));
    assert_eq!(tokens(run("{f}/part.llamac")), expected);
    assert_eq!(tokens(run("{meta} --layers 1..2")), expected);
    for (line, expected) in [
        ("inspect {meta} --layers 1..3", "layers of 0..2"),
        ("inspect {meta} --layers 1..1", "layers of 0..2"),
        ("inspect {meta} --layers 1", "write two numbers"),
        ("inspect {f}/part.llamac --layers 0..1", "compile the checkpoint with --layers"),
    ] {
        let message = llamac(line, &places).failure(2);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn tokenizers_come_along_and_nothing_else_does() {
    let place = folder();
    let path = place.path();
    fs::create_dir(path.join("in")).expect("a folder");
    copy("meta/llama2-bf16-bin", &path.join("in"));
    let json = r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
    fs::write(path.join("in/tokenizer.json"), json).expect("writes");
    for name in ["tokenizer_config.json", "chat_template.jinja", "notes.txt"] {
        fs::write(path.join("in").join(name), "{}").expect("writes");
    }
    llamac("-q convert {f}/in -o {f}/out", &[("f", path)]).quiet();
    assert_eq!(
        names(&path.join("out")),
        [
            "chat_template.jinja",
            "config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let read = |folder: &str, name: &str| fs::read(path.join(folder).join(name)).expect("a file");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(read("in", name), read("out", name), "{name}");
    }
}

#[test]
fn a_sentencepiece_model_gets_a_tokenizer_json() {
    let place = folder();
    let path = place.path();
    fs::create_dir(path.join("in")).expect("a folder");
    copy("stories", &path.join("in"));
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        let _ = fs::remove_file(path.join("in").join(name));
    }
    let places: [(&str, &Path); 1] = [("f", path)];
    let added = r#"{"added_tokens_decoder": {"1024": {"content": "[PAD]", "special": true}}}"#;
    for (name, content) in [
        ("chat_template.jinja", ""),
        ("added_tokens.json", r#"{"[PAD]": 1024}"#),
        ("tokenizer_config.json", r#"{"add_prefix_space": false}"#),
        ("tokenizer_config.json", r#"{"legacy": true}"#),
        ("tokenizer_config.json", added),
    ] {
        fs::write(path.join("in").join(name), content).expect("writes");
        llamac("-q convert {f}/in -o {f}/out", &places).quiet();
        for text in ["a", "Mia_had", "<s>Hello", "a</s>b", "a[PAD]b"] {
            let ids =
                |folder: &str| llamac(&format!("tokenize {{f}}/{folder} {text} --json"), &places).quiet();
            assert_eq!(ids("in"), ids("out"), "{content}: {text}");
        }
        assert!(path.join("out/tokenizer.json").exists() && path.join("out/tokenizer.model").exists());
    }
    fs::write(path.join("in/tokenizer_config.json"), r#"{"bos_token": 5"#).expect("writes");
    let done = llamac("convert {f}/in -o {f}/out", &places);
    let warning = "tokenizer_config.json: invalid tokenizer: ";
    assert!(
        done.stderr.contains(warning) && done.stderr.contains("will refuse the model"),
        "{}",
        done.stderr
    );
    done.success();
}

#[test]
fn a_size_of_the_first_models_is_with_the_tokenizer_beside_it() {
    let place = folder();
    let path = place.path();
    fs::create_dir(path.join("7B")).expect("a folder");
    copy("meta/llama1-f16-mp1", &path.join("7B"));
    let _ = fs::remove_file(path.join("7B/tokenizer.model"));
    let vocabulary = fixture("vocabularies/words/tokenizer.model");
    fs::copy(vocabulary, path.join("tokenizer.model")).expect("a copy");
    let places: [(&str, &Path); 1] = [("f", path)];
    llamac("tokenize {f}/7B Hello", &places).quiet();
}

#[test]
fn only_an_earlier_conversion_is_replaced() {
    let place = folder();
    let path = place.path();
    let [one, two] = ["meta/llama1-f16-mp2", "meta/llama2-bf16-mp4"].map(fixture);
    let places: [(&str, &Path); 3] = [("one", &one), ("two", &two), ("f", path)];
    llamac("-q convert {one} -o {f}/out", &places).quiet();
    llamac("-q convert {two} -o {f}/out --max-shard-size 20KB", &places).quiet();
    assert!(tensors(&path.join("out")) == tensors(&fixture("meta/llama2-bf16")));
    fs::write(path.join("out/notes.txt"), "precious").expect("writes");
    let before = names(&path.join("out"));
    let message = llamac("convert {one} -o {f}/out", &places).failure(2);
    assert!(message.contains("notes.txt is not of a conversion"), "{message}");
    assert_eq!(names(&path.join("out")), before);
    fs::create_dir(path.join("theirs")).expect("a folder");
    copy("tiny/gqa-f32", &path.join("theirs"));
    for golden in ["golden.json", "golden.safetensors"] {
        fs::remove_file(path.join("theirs").join(golden)).expect("a file");
    }
    let message = llamac("convert {one} -o {f}/theirs", &places).failure(2);
    assert!(message.contains("it holds no weights that llamac wrote"), "{message}");
    // A shard that cannot be read leaves nothing.
    fs::create_dir(path.join("cut")).expect("a folder");
    copy("meta/llama1-f16-mp2", &path.join("cut"));
    fs::write(path.join("cut/consolidated.01.pth"), "cut").expect("writes");
    llamac("convert {f}/cut -o {f}/none", &places).failure(3);
    assert!(!path.join("none").exists());
}
