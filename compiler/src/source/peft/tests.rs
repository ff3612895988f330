use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use insta::assert_snapshot;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::testing::{self, Tensor, tensor};
use super::*;
use crate::source::Tie;

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// An adapter's folder.
pub(super) fn adapter(config: Value, tensors: &[(String, Tensor)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join(CONFIG), config.to_string()).expect("writes");
    let tensors: BTreeMap<String, Tensor> = tensors.iter().cloned().collect();
    testing::write_tensors(&folder.path().join("adapter_model.safetensors"), &tensors);
    folder
}

fn lora(more: Value) -> Value {
    let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM"});
    let members = more.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(members);
    config
}

fn pair(module: &str, rows: usize, columns: usize) -> Vec<(String, Tensor)> {
    vec![
        (format!("{module}.lora_A.weight"), tensor(&[2, columns], 1)),
        (format!("{module}.lora_B.weight"), tensor(&[rows, 2], 2)),
    ]
}

/// Opens the small checkpoint with `adapters`; the warnings, too.
fn open_with(config: &Value, adapters: &[&TempDir]) -> (Result<Checkpoint, Diagnostics>, Vec<String>) {
    let base = testing::checkpoint(config, &base_tensors(config));
    let loras = adapters.iter().map(|folder| LoraSource { path: folder.path().into(), scale: 1.0 }).collect();
    let sources = AdapterSources { loras, soft_prompt: None };
    let mut warnings = Vec::new();
    let opened = Checkpoint::open_adapted(base.path(), None, &sources, &mut warnings);
    (opened, warnings)
}

/// The tensors of a checkpoint, without an output embedding where it is tied.
fn base_tensors(config: &Value) -> BTreeMap<String, Tensor> {
    let mut tensors = testing::tensors();
    if config["tie_word_embeddings"] == true {
        tensors.remove("lm_head.weight");
    }
    tensors
}

/// What is wrong with the small checkpoint and these adapters, their folders left out.
fn faults(adapters: &[&TempDir]) -> String {
    let (opened, _) = open_with(&testing::config(), adapters);
    let mut text = opened.expect_err("it is wrong").to_string();
    for folder in adapters {
        text = text.replace(&format!("{}/", folder.path().display()), "");
    }
    text
}

fn opened(config: &Value, adapters: &[&TempDir]) -> Checkpoint {
    open_with(config, adapters).0.unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn what_is_added_is_a_recipe_of_its_module() {
    let first = adapter(lora(json!({})), &pair(Q, 8, 8));
    let second =
        adapter(lora(json!({"use_rslora": true, "rank_pattern": {"q_proj": 2}, "r": 16})), &pair(Q, 8, 8));
    let checkpoint = opened(&testing::config(), &[&first, &second]);
    let q = &checkpoint.adapted["model.layers.0.self_attn.q_proj"];
    assert_snapshot!(q.weight, @"convert(add_low_rank(add_low_rank(convert(@model.layers.0.self_attn.q_proj.weight, dtype=f32), @model.layers.0.self_attn.q_proj.lora_A.0.weight, @model.layers.0.self_attn.q_proj.lora_B.0.weight, scale=2.0), @model.layers.0.self_attn.q_proj.lora_A.1.weight, @model.layers.0.self_attn.q_proj.lora_B.1.weight, scale=2.82842712474619), dtype=bf16)");
    assert_eq!(checkpoint.adapted.len(), 1);
    // Layers are numbered anew with the rest of the model.
    let base = testing::checkpoint(&testing::config(), &testing::tensors());
    let second_layer = adapter(lora(json!({})), &pair(&Q.replace(".0.", ".1."), 8, 8));
    let loras = vec![LoraSource { path: second_layer.path().into(), scale: 0.5 }];
    let sources = AdapterSources { loras, soft_prompt: None };
    let cut = Checkpoint::open_adapted(base.path(), None, &sources, &mut Vec::new()).expect("it opens");
    let cut = cut.with_layers(1..2).expect("there is a second layer");
    assert_snapshot!(cut.adapted["model.layers.0.self_attn.q_proj"].weight, @"convert(add_low_rank(convert(@model.layers.1.self_attn.q_proj.weight, dtype=f32), @model.layers.1.self_attn.q_proj.lora_A.0.weight, @model.layers.1.self_attn.q_proj.lora_B.0.weight, scale=1.0), dtype=bf16)");
    assert!(cut.tensors.contains_key("model.layers.1.self_attn.q_proj.lora_A.0.weight"));
    assert!(
        opened(&testing::config(), &[&second_layer]).with_layers(0..1).expect("a layer").adapted.is_empty()
    );
}

#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    let mut tensors = pair(Q, 8, 16);
    tensors.extend(pair(&Q.replace(".0.", ".1."), 8, 16));
    tensors.extend(pair(&Q.replace("q_proj", "k_proj"), 8, 8));
    tensors.extend(pair("base_model.model.model.layers.7.mlp.up_proj", 12, 8));
    tensors.extend(pair("base_model.model.model.norm", 8, 8));
    tensors.push((format!("{}.lora_B.weight", Q.replace("q_proj", "v_proj")), tensor(&[4, 2], 0)));
    tensors.push((format!("{}.lora_magnitude_vector", Q.replace("q_proj", "o_proj")), tensor(&[8], 0)));
    tensors.push((format!("{Q}.base_layer.bias"), tensor(&[8], 0)));
    let mut integers = tensor(&[12, 2], 0);
    integers.0 = Dtype::I16;
    tensors.push(("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight".into(), tensor(&[2, 8], 0)));
    tensors.push(("base_model.model.model.layers.0.mlp.up_proj.lora_B.weight".into(), integers));
    assert_snapshot!(faults(&[&adapter(lora(json!({})), &tensors)]), @"
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: base_model.model.model.layers.7.mlp.up_proj.lora_A.weight
       the model has 2 layers
    error[E0204]: tensor has a dtype that is not supported
      --> adapter_model.safetensors: base_model.model.model.layers.0.mlp.up_proj.lora_B.weight
       expected F32, F16 or BF16
       found    I16
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: base_model.model.model.layers.7.mlp.up_proj.lora_B.weight
       the model has 2 layers
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: base_model.model.model.norm.lora_A.weight
       the model has no model.norm.weight that an adapter could change
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: base_model.model.model.norm.lora_B.weight
       the model has no model.norm.weight that an adapter could change
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight
       expected [4, 2]  (4 rows of self_attn.k_proj, rank 2)
       found    [8, 2]
    error[E0202]: a tensor is missing
      --> adapter_model.safetensors: model.layers.0.self_attn.o_proj.lora_A.weight
       the adapter has lora_magnitude_vector of this module, but not this
    error[E0202]: a tensor is missing
      --> adapter_model.safetensors: model.layers.0.self_attn.o_proj.lora_B.weight
       the adapter has lora_magnitude_vector of this module, but not this
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: base_model.model.model.layers.0.self_attn.o_proj.lora_magnitude_vector
       it would change nothing: adapter_config.json calls for no such tensor of this module
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias
       the model has no biases there
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
       the same in layer 1
       expected [2, 8]  (rank 2, 8 columns of self_attn.q_proj)
       found    [2, 16]
    error[E0202]: a tensor is missing
      --> adapter_model.safetensors: model.layers.0.self_attn.v_proj.lora_A.weight
       the adapter has lora_B.weight of this module, but not this
    ");
}

#[test]
fn kinds_that_are_no_plain_lora_are_refused_by_name() {
    let refused = |more: Value| faults(&[&adapter(lora(more), &pair(Q, 8, 8))]);
    assert_snapshot!(refused(json!({"peft_type": "LOHA"})), @"
    error[E0801]: this kind of adapter is not supported
      --> adapter_config.json: peft_type
       expected LORA
       found    LOHA
       help: merge it with merge_and_unload() of peft, if it has that, and save the result
    ");
    assert_snapshot!(refused(json!({"layer_replication": [[0, 2]], "alora_invocation_tokens": [1], "use_qalora": true,
        "megatron_config": {"a": 1}, "target_parameters": [], "use_bdlora": null})), @"
    error[E0801]: this kind of adapter is not supported
      --> adapter_config.json: layer_replication
       this is a LoRA of repeated layers
       help: merge it with merge_and_unload() of peft and save the result
    error[E0801]: this kind of adapter is not supported
      --> adapter_config.json: alora_invocation_tokens
       this is an activated LoRA
       help: merge it with merge_and_unload() of peft and save the result
    error[E0801]: this kind of adapter is not supported
      --> adapter_config.json: use_qalora
       this is a QA-LoRA
       help: merge it with merge_and_unload() of peft and save the result
    error[E0801]: this kind of adapter is not supported
      --> adapter_config.json: megatron_config
       this is a LoRA of Megatron's parallel layers
       help: merge it with merge_and_unload() of peft and save the result
    ");
    assert_snapshot!(refused(json!({"peft_type": null})), @"
    error[E0800]: this is not an adapter that llamac can read
      --> adapter_config.json: peft_type
       expected a kind of adapter, as LORA
       found    none
    ");
    assert_snapshot!(refused(json!({"r": 0, "lora_alpha": "4", "rank_pattern": {"q_proj": 0, "(": 1},
        "alpha_pattern": [], "use_dora": 1, "trainable_token_indices": [-1]})), @r#"
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: r
       expected a whole number from 1 to 1048576
       found    0
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: lora_alpha
       expected a number
       found    "4"
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: use_dora
       expected true or false
       found    1
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: rank_pattern.(
       expected a regular expression of names of modules
       found    (
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: rank_pattern.q_proj
       expected a rank
       found    0
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: alpha_pattern
       expected an object
       found    []
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: trainable_token_indices
       expected a list of token ids, or one for each embedding
       found    [-1]
    "#);
    let embedding = [
        ("base_model.model.model.embed_tokens.lora_embedding_A".to_owned(), tensor(&[2, 10], 0)),
        ("base_model.model.model.embed_tokens.lora_embedding_B".to_owned(), tensor(&[8, 2], 0)),
        ("base_model.model.model.embed_tokens.lora_magnitude_vector".to_owned(), tensor(&[10], 0)),
    ];
    assert_snapshot!(faults(&[&adapter(lora(json!({"use_dora": true})), &embedding)]), @"
    error[E0801]: this kind of adapter is not supported
      --> adapter_model.safetensors: model.embed_tokens
       this is a DoRA of an embedding
    ");
}

#[test]
fn folders_that_hold_no_adapter_are_told_apart() {
    let empty = tempfile::tempdir().expect("a folder");
    let whole = testing::checkpoint(&testing::config(), &testing::tensors());
    let half = tempfile::tempdir().expect("a folder");
    fs::write(half.path().join(CONFIG), lora(json!({})).to_string()).expect("writes");
    let text = [&empty, &whole, &half]
        .map(|folder| faults(&[folder]).replace(&folder.path().display().to_string(), "FOLDER"));
    assert_snapshot!(text.join("\n"), @"
    error[E0800]: this is not an adapter that llamac can read
      --> FOLDER
       expected a folder with adapter_config.json and adapter_model.safetensors
       found    no adapter_config.json
    error[E0800]: this is not an adapter that llamac can read
      --> FOLDER
       expected a folder with adapter_config.json and adapter_model.safetensors
       found    no adapter_config.json
       help: this is a whole checkpoint: compile it as it is
    error[E0200]: a file is missing
      --> adapter_model.safetensors
       found    no such file
       help: the download may not be complete: fetch the adapter's weights, too
    ");
    let refusal = |path: PathBuf| {
        let sources = AdapterSources { loras: vec![LoraSource { path, scale: 1.0 }], soft_prompt: None };
        Adapters::open(&sources, &mut Vec::new()).expect_err("it is not there").to_string()
    };
    let absent = refusal(PathBuf::from("/nonexistent"));
    assert!(absent.contains("no such folder"), "{absent}");
    let file = refusal(half.path().join(CONFIG));
    assert!(file.contains("a file"), "{file}");
    assert!(file.contains(&format!("give the folder: {}", half.path().display())), "{file}");
    assert!(faults(&[&adapter(lora(json!({})), &[])]).contains("it holds no tensor"));
}

#[test]
fn two_adapters_do_not_replace_one_tensor() {
    let norm = ("base_model.model.model.norm.weight".to_owned(), tensor(&[8], 0));
    let [a, b] = [0, 1].map(|_| adapter(lora(json!({})), std::slice::from_ref(&norm)));
    assert!(faults(&[&a, &b]).contains("replaces the same"));
    let mut dora = pair(Q, 8, 8);
    dora.push((format!("{Q}.lora_magnitude_vector"), tensor(&[8], 0)));
    let [a, b] = [(true, &dora), (false, &pair(Q, 8, 8))]
        .map(|(dora, tensors)| adapter(lora(json!({"use_dora": dora})), tensors));
    assert!(faults(&[&a, &b]).contains("the two have no sum"));
}

#[test]
fn embeddings_agree_on_the_vocabulary() {
    let embedding = |rows| ("base_model.model.model.embed_tokens.weight".to_owned(), tensor(&[rows, 8], 0));
    let head = |rows, seed| ("base_model.model.lm_head.weight".to_owned(), tensor(&[rows, 8], seed));
    assert!(faults(&[&adapter(lora(json!({})), &[embedding(12)])]).contains("10 and 12 tokens"));
    assert!(faults(&[&adapter(lora(json!({})), &[embedding(12), head(11, 0)])]).contains("11 and 12 tokens"));
    let both = adapter(lora(json!({})), &[embedding(12), head(12, 0)]);
    let checkpoint = opened(&testing::config(), &[&both]);
    assert_eq!((checkpoint.config.vocab_size, checkpoint.tie), (12, Tie::Untied));
    assert!(String::from_utf8_lossy(&checkpoint.config_json).contains("\"vocab_size\": 12"));
    let mut tied = testing::config();
    tied["tie_word_embeddings"] = json!(true);
    let of = |tensors: &[_], more: Value| {
        let checkpoint = opened(&tied, &[&adapter(lora(more), tensors)]);
        (checkpoint.config.vocab_size, checkpoint.tie, checkpoint.weights.contains_key("lm_head.weight"))
    };
    assert_eq!(of(&[embedding(12), head(12, 0)], json!({})), (12, Tie::Tied, false));
    assert_eq!(of(&[embedding(12), head(12, 1)], json!({})), (12, Tie::Untied, true));
    assert_eq!(of(&[embedding(12)], json!({})), (12, Tie::Tied, false));
    assert_eq!(of(&[embedding(10)], json!({})), (10, Tie::Untied, true));
    assert_eq!(of(&[embedding(10)], json!({"ensure_weight_tying": true})), (10, Tie::Tied, false));
    assert_eq!(of(&[head(10, 1)], json!({})), (10, Tie::Untied, true));
}

#[test]
fn heads_come_with_their_labels() {
    let score = |rows| ("base_model.model.score.weight".to_owned(), tensor(&[rows, 8], 0));
    let task = |name: &str| lora(json!({"task_type": name}));
    let checkpoint = opened(&testing::config(), &[&adapter(task("SEQ_CLS"), &[score(3)])]);
    assert_eq!(checkpoint.head, Head::SequenceClassification);
    assert_eq!(checkpoint.config.labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert!(!checkpoint.weights.contains_key("lm_head.weight"));
    let json = String::from_utf8_lossy(&checkpoint.config_json);
    assert!(json.contains("LlamaForSequenceClassification") && json.contains("\"2\":\"LABEL_2\""), "{json}");
    assert!(faults(&[&adapter(task("TOKEN_CLS"), &[score(2)])]).contains("score.bias"));
    assert!(faults(&[&adapter(task("SEQ_CLS"), &pair(Q, 8, 8))]).contains("sequence-classification"));
    // Without a head nobody asks what the adapter has for one.
    let base = testing::checkpoint(&testing::config(), &testing::tensors());
    let folder = adapter(task("SEQ_CLS"), &[score(3)]);
    let loras = vec![LoraSource { path: folder.path().into(), scale: 1.0 }];
    let sources = AdapterSources { loras, soft_prompt: None };
    let opened = Checkpoint::open_adapted(base.path(), Some(Head::Base), &sources, &mut Vec::new());
    assert_eq!(opened.expect("it opens").head, Head::Base);
}

#[test]
fn what_is_odd_is_told() {
    let more =
        json!({"init_lora_weights": "pissa_niter_16", "fan_in_fan_out": true, "new_trick": 1, "other": null});
    let (opened, warnings) = open_with(&testing::config(), &[&adapter(lora(more), &pair(Q, 8, 8))]);
    opened.unwrap_or_else(|faults| panic!("{faults}"));
    let warnings: Vec<&str> =
        warnings.iter().filter_map(|w| Some(w.split_once("adapter_config.json: ")?.1)).collect();
    assert_snapshot!(warnings.join("\n"), @"
    init_lora_weights is pissa_niter_16, which changes the base model: unless the adapter was converted when it was saved, it fits that changed base only
    fan_in_fan_out is true, but a LLaMA's matrices are [out, in]: it is taken as false
    new_trick is not known and is ignored
    ");
}

#[test]
fn a_merged_checkpoint_has_no_adapters_left() {
    let mut tied = testing::config();
    tied["tie_word_embeddings"] = json!(true);
    let tensors = [
        ("base_model.model.model.embed_tokens.lora_embedding_A".to_owned(), tensor(&[2, 10], 0)),
        ("base_model.model.model.embed_tokens.lora_embedding_B".to_owned(), tensor(&[8, 2], 0)),
    ];
    let checkpoint = opened(&tied, &[&adapter(lora(json!({})), &tensors)]);
    assert_eq!(checkpoint.tie, Tie::Tied);
    let merged = checkpoint.merged().expect("it merges");
    assert_eq!((merged.tie, merged.adapted.len()), (Tie::Untied, 0));
    assert_eq!(merged.weights["lm_head.weight"].to_string(), "@model.embed_tokens.weight");
    assert!(merged.weights["model.embed_tokens.weight"].to_string().contains("add_low_rank"));
    let mut biased = pair(Q, 8, 8);
    biased.push((format!("{Q}.lora_B.bias"), tensor(&[8], 0)));
    let checkpoint = opened(&testing::config(), &[&adapter(lora(json!({"lora_bias": true})), &biased)]);
    let faults = checkpoint.merged().expect_err("there is no place for it").to_string();
    assert!(faults.contains("model.layers.0.self_attn.q_proj.bias"), "{faults}");
}
