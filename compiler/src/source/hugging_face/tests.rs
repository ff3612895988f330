use std::fs;

use ::safetensors::tensor::Dtype;
use llamac_ir::DType;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::testing::{self, Tensor, tensor};
use super::*;

fn open(directory: &TempDir) -> Result<Checkpoint, Diagnostics> {
    Checkpoint::open(directory.path(), None)
}

fn open_with(
    change: impl FnOnce(&mut Value, &mut BTreeMap<String, Tensor>),
) -> Result<Checkpoint, Diagnostics> {
    let (mut config, mut tensors) = (testing::config(), testing::tensors());
    change(&mut config, &mut tensors);
    open(&testing::checkpoint(&config, &tensors))
}

fn codes(faults: &Diagnostics) -> Vec<Code> {
    faults.iter().map(|fault| fault.code).collect()
}

#[test]
fn a_sound_checkpoint_opens() {
    for directory in [
        testing::checkpoint(&testing::config(), &testing::tensors()),
        testing::sharded(&testing::config(), &testing::tensors()),
    ] {
        let checkpoint = open(&directory).unwrap();
        assert_eq!((checkpoint.head, checkpoint.tie), (Head::CausalLm, Tie::Untied));
        assert!(checkpoint.warnings.is_empty() && checkpoint.ignored.is_empty(), "{:?}", checkpoint.warnings);
        let expected = testing::tensors();
        assert!(checkpoint.tensors.keys().eq(expected.keys()));
        for (name, (_, shape, bytes)) in expected {
            let info = checkpoint.tensor(&name).unwrap();
            assert_eq!((info.dtype, &info.shape), (DType::BF16, &shape));
            assert_eq!(checkpoint.bytes(&name).unwrap(), bytes, "{name}");
        }
        assert_eq!(checkpoint.bytes("model.layers.2.mlp.up_proj.weight"), None);
    }
}

#[test]
fn a_wrong_shape_reads_as_documented() {
    let faults = open_with(|_, tensors| {
        tensors.insert("model.layers.1.self_attn.k_proj.weight".to_owned(), tensor(&[8, 8], 0));
    })
    .unwrap_err();
    assert_eq!(
        faults.to_string(),
        "error[E0203]: tensor has the wrong shape\n  \
         --> model.safetensors: model.layers.1.self_attn.k_proj.weight\n   \
         expected [4, 8]  (num_key_value_heads 1 × head_dim 4, hidden_size 8)\n   \
         found    [8, 8]\n   \
         help: config.json says num_key_value_heads = 1; these weights have 2"
    );
}

#[test]
fn faults_of_config_weights_and_generation_come_together() {
    let (mut config, mut tensors) = (testing::config(), testing::tensors());
    tensors.remove("model.layers.0.mlp.up_proj.weight");
    tensors.remove("model.layers.1.mlp.up_proj.weight");
    tensors.insert("model.norm.weight".to_owned(), (Dtype::F64, vec![8], vec![0; 64]));
    tensors.insert("model.layers.0.mlp.upp_proj.weight".to_owned(), tensor(&[12, 8], 0));
    config["vocab_size"] = json!(11);
    let directory = testing::checkpoint(&config, &tensors);
    fs::write(directory.path().join("generation_config.json"), r#"{"top_p": 7}"#).unwrap();
    let faults = open(&directory).unwrap_err();
    use Code::*;
    assert_eq!(
        codes(&faults),
        [BadConfigValue, WrongShape, WrongDtype, WrongShape, MissingTensor],
        "{faults}"
    );
    let text = faults.to_string();
    for expected in [
        "generation_config.json: top_p",
        "config.json says vocab_size = 11; these weights have 10",
        "found    F64",
        "the same in layer 1",
        "the files have model.layers.0.mlp.upp_proj.weight",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn config_and_container_faults_come_together() {
    let directory = testing::checkpoint(&testing::config(), &testing::tensors());
    fs::write(directory.path().join("config.json"), r#"{"model_type": "llama", "hidden_size": -1}"#).unwrap();
    fs::write(directory.path().join("model.safetensors"), b"short").unwrap();
    assert_eq!(codes(&open(&directory).unwrap_err()), [Code::BadConfigValue, Code::BadContainer]);
}

#[test]
fn another_architecture_is_one_fault() {
    let faults = open_with(|config, tensors| {
        *config = json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8});
        tensors.clear();
    })
    .unwrap_err();
    assert_eq!((codes(&faults), faults.exit_status()), (vec![Code::UnsupportedModel], 4));
    assert!(faults.to_string().contains("\"gpt2\" (GPT2LMHeadModel)"), "{faults}");
}

#[test]
fn layers_that_are_not_there_are_told_once() {
    let faults = open_with(|config, _| config["num_hidden_layers"] = json!(512)).unwrap_err();
    assert_eq!(codes(&faults), [Code::MissingTensor]);
    let text = faults.to_string();
    assert!(text.contains("layers 2 to 511") && text.contains("these weights have 2"), "{text}");
    let absurd = open_with(|config, _| config["num_hidden_layers"] = json!(1u64 << 60)).unwrap_err();
    assert_eq!(codes(&absurd), [Code::BadConfigValue]);
}

#[test]
fn a_wrong_width_is_told_once_for_all_layers() {
    let faults = open_with(|config, _| config["intermediate_size"] = json!(13)).unwrap_err();
    assert_eq!(faults.iter().count(), 3, "{faults}");
    assert!(faults.to_string().contains("the same in layer 1"), "{faults}");
}

/// Tie × embedding × head of the decision table for tied embeddings.
#[test]
fn ties_follow_the_tensors() {
    let embedding = testing::tensors()[EMBEDDING].clone();
    let case = |tie: bool, embed: bool, head: Option<Tensor>| {
        open_with(|config, tensors| {
            config["tie_word_embeddings"] = json!(tie);
            if !embed {
                tensors.remove(EMBEDDING);
            }
            tensors.remove(LM_HEAD);
            tensors.extend(head.map(|head| (LM_HEAD.to_owned(), head)));
        })
    };
    let other = tensor(&[10, 8], 99);
    let tied = |checkpoint: Result<Checkpoint, Diagnostics>, bytes: &[u8]| {
        let checkpoint = checkpoint.unwrap();
        assert_eq!(
            (checkpoint.head, checkpoint.tie, checkpoint.resolve(LM_HEAD)),
            (Head::CausalLm, Tie::Tied, EMBEDDING)
        );
        assert_eq!(checkpoint.bytes(LM_HEAD), Some(bytes));
        assert_eq!(checkpoint.bytes(EMBEDDING), Some(bytes));
        assert!(!checkpoint.tensors.contains_key(LM_HEAD));
    };
    tied(case(true, true, None), &embedding.2);
    tied(case(true, false, Some(other.clone())), &other.2);
    tied(case(true, true, Some(embedding.clone())), &embedding.2);

    let different = case(true, true, Some(other.clone())).unwrap();
    assert_eq!((different.tie, different.warnings.len()), (Tie::Different, 1));
    assert_eq!(different.bytes(LM_HEAD), Some(&other.2[..]));
    assert_eq!(different.bytes(EMBEDDING), Some(&embedding.2[..]));

    let untied = case(false, true, Some(embedding)).unwrap();
    assert_eq!((untied.tie, untied.resolve(LM_HEAD)), (Tie::Untied, LM_HEAD));
    let faults = case(false, true, None).unwrap_err();
    assert_eq!(codes(&faults), [Code::MissingHead]);
    assert_eq!(codes(&case(false, false, Some(other)).unwrap_err()), [Code::MissingTensor]);
    assert_eq!(codes(&case(true, false, None).unwrap_err()), [Code::MissingTensor, Code::MissingHead]);
}

#[test]
fn another_head_is_loaded_or_refused_but_never_made_up() {
    let directory = testing::checkpoint(&testing::config(), &testing::tensors());
    let base = Checkpoint::open(directory.path(), Some(Head::Base)).unwrap();
    assert_eq!((base.head, base.tensors.contains_key(LM_HEAD)), (Head::Base, false));
    assert_eq!(base.ignored, [LM_HEAD]);
    assert!(base.warnings.is_empty());
    let faults = Checkpoint::open(directory.path(), Some(Head::SequenceClassification)).unwrap_err();
    assert_eq!(codes(&faults), [Code::MissingHead]);
    assert!(faults.to_string().contains("score.weight"), "{faults}");
}

#[test]
fn scores_are_checked_against_the_labels() {
    let classifier = |rows: usize, labels: Value| {
        open_with(|config, tensors| {
            config["architectures"] = json!(["LlamaForSequenceClassification"]);
            config["id2label"] = labels;
            tensors.remove(LM_HEAD);
            tensors.insert(SCORE.to_owned(), tensor(&[rows, 8], 3));
        })
    };
    let checkpoint = classifier(3, json!({"0": "a", "1": "b", "2": "c"})).unwrap();
    assert_eq!((checkpoint.head, checkpoint.config.labels.len()), (Head::SequenceClassification, 3));
    classifier(2, Value::Null).unwrap();
    let faults = classifier(3, Value::Null).unwrap_err();
    assert_eq!(codes(&faults), [Code::WrongShape]);
    assert!(
        faults.to_string().contains("number of labels in id2label = 2; these weights have 3"),
        "{faults}"
    );
}

#[test]
fn a_token_classifier_has_a_bias_unless_the_configuration_says_no() {
    let classifier = |bias: bool, says: Value| {
        open_with(|config, tensors| {
            config["architectures"] = json!(["LlamaForTokenClassification"]);
            config["token_classification_bias"] = says;
            tensors.remove(LM_HEAD);
            tensors.insert(SCORE.to_owned(), tensor(&[2, 8], 3));
            if bias {
                tensors.insert(SCORE_BIAS.to_owned(), tensor(&[2], 4));
            }
        })
    };
    for (bias, says) in [(true, json!(true)), (false, json!(false))] {
        let checkpoint = classifier(bias, says).unwrap();
        assert_eq!(checkpoint.head, Head::TokenClassification);
        assert_eq!((checkpoint.tensors.contains_key(SCORE_BIAS), checkpoint.warnings.len()), (bias, 0));
    }
    let faults = classifier(false, json!(true)).unwrap_err();
    assert_eq!(codes(&faults), [Code::MissingHead]);
    assert!(faults.to_string().contains("token_classification_bias"), "{faults}");
    let checkpoint = classifier(true, json!(false)).unwrap();
    assert_eq!(checkpoint.ignored, [SCORE_BIAS]);
    assert!(checkpoint.warnings[0].contains("token_classification_bias"), "{:?}", checkpoint.warnings);
}

#[test]
fn prefixes_come_off_and_what_is_left_over_is_named() {
    let renamed = |rename: &dyn Fn(&str) -> String| {
        open_with(|_, tensors| {
            *tensors = std::mem::take(tensors).into_iter().map(|(name, t)| (rename(&name), t)).collect();
            tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), tensor(&[2], 0));
            tensors.insert("v_head.weight".to_owned(), tensor(&[1, 8], 0));
            tensors.insert("model.layers.2.input_layernorm.weight".to_owned(), tensor(&[8], 0));
            tensors.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), tensor(&[8], 0));
        })
    };
    for prefix in ["", "module.", "_orig_mod.", "base_model.model."] {
        let checkpoint = renamed(&|name| format!("{prefix}{name}")).unwrap();
        assert!(checkpoint.tensors.keys().eq(testing::tensors().keys()), "{prefix}");
        assert_eq!(checkpoint.ignored.len(), 3, "{:?}", checkpoint.ignored);
        assert_eq!(checkpoint.warnings.len(), 3, "{:?}", checkpoint.warnings);
    }
    let bare = renamed(&|name| name.trim_start_matches("model.").to_owned()).unwrap();
    assert_eq!(bare.head, Head::CausalLm);
}

#[test]
fn two_names_for_one_tensor_and_unmerged_adapters_are_refused() {
    let faults = open_with(|_, tensors| {
        tensors.insert("module.norm.weight".to_owned(), tensor(&[8], 0));
        tensors.insert("model.layers.0.self_attn.q_proj.lora_A.weight".to_owned(), tensor(&[2, 8], 0));
    })
    .unwrap_err();
    assert_eq!(codes(&faults), [Code::DuplicateTensor, Code::UnsupportedModel]);
}

#[test]
fn the_index_is_checked_against_the_files() {
    const FIRST: &str = "model-00001-of-00002.safetensors";
    const SECOND: &str = "model-00002-of-00002.safetensors";
    let index = |change: &dyn Fn(&Path, &mut Value)| {
        let directory = testing::sharded(&testing::config(), &testing::tensors());
        let path = directory.path().join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(directory.path(), &mut index);
        fs::write(&path, index.to_string()).unwrap();
        open(&directory)
    };
    // A file that the index does not name does not matter, nor does a tensor that it places elsewhere.
    index(&|path, _| fs::write(path.join("stray.safetensors"), b"nothing").unwrap()).unwrap();
    let faults = |change: &dyn Fn(&Path, &mut Value)| index(change).unwrap_err();
    let absent = faults(&|path, _| {
        fs::remove_file(path.join(FIRST)).unwrap();
        fs::write(path.join(SECOND), b"cut").unwrap();
    });
    assert_eq!(codes(&absent), [Code::MissingFile, Code::BadContainer], "{absent}");
    assert!(absent.to_string().contains(FIRST) && absent.to_string().contains(SECOND));
    let renamed = faults(&|path, _| {
        fs::rename(path.join(FIRST), path.join("Model-00001-of-00002.safetensors")).unwrap()
    });
    assert!(renamed.to_string().contains("did you mean Model-00001-of-00002.safetensors"), "{renamed}");
    let misplaced = faults(&|_, index| index["weight_map"][LM_HEAD] = json!(FIRST));
    assert_eq!(codes(&misplaced), [Code::MissingTensor]);
    let invented = faults(&|_, index| index["weight_map"]["model.norm.wait"] = json!(SECOND));
    assert!(invented.to_string().contains("model.norm.wait"), "{invented}");
    let dropped = faults(&|_, index| {
        index["weight_map"].as_object_mut().unwrap().remove(LM_HEAD);
    });
    assert_eq!(codes(&dropped), [Code::MissingHead]);
    for escape in ["../model.safetensors", "/etc/passwd", "a/../../b", "", ".", "a\\b", "a\0b"] {
        let faults = faults(&|_, index| index["weight_map"][LM_HEAD] = json!(escape));
        assert_eq!(codes(&faults), [Code::BadIndex], "{escape}: {faults}");
    }
    for bad in [
        json!({}),
        json!({"weight_map": {}}),
        json!({"weight_map": []}),
        json!({"weight_map": {"a": 1}}),
        json!([]),
    ] {
        assert_eq!(codes(&faults(&|_, index| *index = bad.clone())), [Code::BadIndex]);
    }
}

#[test]
fn other_folders_are_recognised() {
    let directory = |files: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        }
        directory
    };
    let llama = json!({"model_type": "llama"}).to_string();
    for (files, status, expected) in [
        (&[][..], 3, "an empty directory"),
        (&["readme.md"], 3, "no config.json"),
        (&["Config.json"], 3, "should Config.json be named"),
        (&["inner/config.json"], 3, "inner?"),
        (&["refs/main", "snapshots/0a1b/config.json"], 3, "snapshots/0a1b?"),
        (&["a/config.json", "b/config.json"], 3, "one of the directories in it: a, b"),
        (&["a/config.json", "b/config.json", "c/config.json", "d/config.json"], 3, "a, b, c and 1 more"),
        (&["params.json", "tokenizer.model"], 3, "consolidated.00.pth"),
        (&["params.json", "consolidated.00.pth"], 3, "a file of torch.save()"),
        (&["consolidated.00.pth"], 3, "fetch params.json"),
        (&["model.gguf"], 3, "give the file"),
        (&["adapter_config.json", "adapter_model.safetensors"], 4, "adapter without its model"),
    ] {
        let faults = open(&directory(files)).unwrap_err();
        assert!(
            faults.to_string().contains(expected) && faults.exit_status() == status,
            "{files:?}: {faults}"
        );
    }
    for (files, status, expected) in [
        (&["pytorch_model.bin"][..], 3, "a file of torch.save()"),
        (&["pytorch_model-00001-of-00002.bin"], 3, "not the index"),
        (&["model-00001-of-00002.safetensors"], 3, "not the index"),
        (&["weights.safetensors"], 3, "should weights.safetensors be named"),
        (&["tokenizer.json"], 3, "fetch the weights too"),
    ] {
        let directory = directory(files);
        fs::write(directory.path().join("config.json"), &llama).unwrap();
        let faults = open(&directory).unwrap_err();
        assert!(
            faults.to_string().contains(expected) && faults.exit_status() == status,
            "{files:?}: {faults}"
        );
    }
}

#[test]
fn paths_that_are_near_a_checkpoint_are_suggested() {
    let directory = testing::checkpoint(&testing::config(), &testing::tensors());
    let path = directory.path();
    let fault = |path: &Path| Checkpoint::open(path, None).unwrap_err().to_string();
    assert!(fault(&path.join("config.json")).contains(&format!("give the directory {}", path.display())));
    assert!(fault(&path.join("model.safetensors")).contains("give the directory"));
    assert!(fault(&path.join("config.jso")).contains("config.json?"));
    fs::create_dir(path.join("original")).unwrap();
    assert!(fault(&path.join("original")).contains(&format!("did you mean {}?", path.display())));
    fs::create_dir(path.join("a-model")).unwrap();
    assert!(fault(&path.join("a-modle")).contains("a-model?"));
    for (name, expected) in [("model.gguf", "expected a GGUF file"), ("weights.pth", "give the directory")] {
        fs::write(path.join(name), "").unwrap();
        assert!(fault(&path.join(name)).contains(expected));
    }
    assert!(fault(Path::new("/dev/null")).contains("no directory"));
    assert!(fault(Path::new("Cargo.tmol")).contains("did you mean Cargo.toml?"));
}

#[test]
fn pointers_and_web_pages_are_recognised() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1234567\n";
    let names = [
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    for name in names {
        for (content, help) in [(pointer, "git lfs pull"), ("<!doctype html>\n<html>", "web page")] {
            let directory = testing::checkpoint(&testing::config(), &testing::tensors());
            fs::write(directory.path().join(name), content).unwrap();
            let faults = open(&directory).unwrap_err().to_string();
            assert!(faults.contains(name) && faults.contains(help), "{name}: {faults}");
        }
    }
    let directory = testing::sharded(&testing::config(), &testing::tensors());
    fs::write(directory.path().join("model.safetensors.index.json"), pointer).unwrap();
    assert!(open(&directory).unwrap_err().to_string().contains("git lfs pull"));
}

#[test]
fn what_may_be_the_cause_is_told_with_the_faults() {
    let mut config = testing::config();
    config["num_key_value_head"] = config.as_object_mut().unwrap().remove("num_key_value_heads").unwrap();
    let directory = testing::checkpoint(&config, &testing::tensors());
    let mut warnings = Vec::new();
    let faults = Checkpoint::open_telling(directory.path(), None, &mut warnings).unwrap_err();
    assert_eq!(codes(&faults), [Code::WrongShape, Code::WrongShape]);
    assert_eq!(
        warnings,
        ["config.json: num_key_value_head means nothing; did you mean num_key_value_heads?"]
    );
}

#[test]
fn a_misspelled_tensor_of_a_head_is_found() {
    let faults = open_with(|config, tensors| {
        config["architectures"] = json!(["LlamaForCausalLM"]);
        let weight = tensors.remove("lm_head.weight").unwrap();
        tensors.insert("lm_haed.weight".to_owned(), weight);
    })
    .unwrap_err();
    assert_eq!(codes(&faults), [Code::MissingHead]);
    assert!(faults.to_string().contains("the files have lm_haed.weight"), "{faults}");
}

#[test]
fn files_that_are_no_files_are_refused() {
    for name in ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"] {
        let directory = testing::checkpoint(&testing::config(), &testing::tensors());
        let path = directory.path().join(name);
        fs::remove_file(&path).ok();
        fs::create_dir(&path).unwrap();
        let faults = open(&directory).unwrap_err();
        assert!(faults.to_string().contains("not a regular file"), "{name}: {faults}");
    }
}

#[test]
fn tokenizer_files_come_along() {
    let directory = testing::checkpoint(&testing::config(), &testing::tensors());
    fs::write(directory.path().join("tokenizer.json"), b"anything").unwrap();
    let tokenizer = open(&directory).unwrap().tokenizer;
    assert_eq!(tokenizer.tokenizer.as_deref(), Some(&b"anything"[..]));
    assert_eq!((tokenizer.config, tokenizer.special_tokens_map), (None, None));
}
