use insta::assert_snapshot;
use llamac_plan::PromptKind;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::testing::{self, Tensor, tensor};
use super::tests::adapter;
use super::*;

/// The configuration of a prompt of three embeddings for the small checkpoint.
fn prompt(more: Value) -> Value {
    let config = json!({
        "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "token_dim": 8, "num_layers": 2, "num_attention_heads": 2,
        "num_transformer_submodules": 1, "task_type": "CAUSAL_LM", "prompt_tuning_init": "RANDOM",
    });
    with(config, more)
}

/// The same of a prefix.
fn prefix(more: Value) -> Value {
    let own = json!({"peft_type": "PREFIX_TUNING", "token_dim": 4, "num_attention_heads": 1, "prompt_tuning_init": null});
    with(prompt(own), more)
}

fn with(mut config: Value, more: Value) -> Value {
    let more = more.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(more);
    config
}

fn embeddings(shape: &[usize]) -> (String, Tensor) {
    ("prompt_embeddings".to_owned(), tensor(shape, 3))
}

fn open(folder: &TempDir) -> (Result<Checkpoint, Diagnostics>, Vec<String>) {
    let base = testing::checkpoint(&testing::config(), &testing::tensors());
    let sources = AdapterSources { loras: Vec::new(), soft_prompt: Some(folder.path().into()) };
    let mut warnings = Vec::new();
    (Checkpoint::open_adapted(base.path(), None, &sources, &mut warnings), warnings)
}

fn opened(config: Value, tensors: &[(String, Tensor)]) -> Checkpoint {
    let (opened, warnings) = open(&adapter(config, tensors));
    assert!(warnings.is_empty(), "{warnings:?}");
    opened.unwrap_or_else(|faults| panic!("{faults}"))
}

/// What is wrong, the folder left out.
fn faults(config: Value, tensors: &[(String, Tensor)]) -> String {
    let folder = adapter(config, tensors);
    let text = open(&folder).0.expect_err("it is wrong").to_string();
    text.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn prompts_are_recipes_beside_the_graph() {
    for kind in ["PROMPT_TUNING", "P_TUNING"] {
        let checkpoint = opened(prompt(json!({"peft_type": kind})), &[embeddings(&[3, 8])]);
        let prompt = checkpoint.prompt.expect("a prompt");
        assert_eq!((prompt.kind, prompt.tokens, prompt.weights.len()), (PromptKind::Embeddings, 3, 1));
        assert_eq!(prompt.weights[0].to_string(), "convert(@prompt_embeddings, dtype=f32)");
        assert!(checkpoint.tensors.contains_key("prompt_embeddings"));
    }
    // Sizes that are not given are those of the base; what a projection made is saved.
    let sizes = json!({"token_dim": null, "num_layers": null, "num_attention_heads": null,
        "num_transformer_submodules": null, "prefix_projection": true, "encoder_hidden_size": 6});
    let checkpoint = opened(prefix(sizes), &[embeddings(&[3, 16])]);
    let all = checkpoint.prompt.clone().expect("a prompt");
    assert_eq!((all.kind, all.tokens), (PromptKind::Prefix, 3));
    assert_snapshot!(all.weights[1], @"convert(transpose(slice(transpose(@prompt_embeddings), start=8, rows=8)), dtype=f32)");
    let second = checkpoint.with_layers(1..2).expect("there is one").prompt.expect("it stays");
    assert_eq!(second.weights, all.weights[1..]);
}

#[test]
fn a_prompt_brings_a_head() {
    let score = ("base_model.score.weight".to_owned(), tensor(&[3, 8], 0));
    let checkpoint = opened(prompt(json!({"task_type": "SEQ_CLS"})), &[embeddings(&[3, 8]), score]);
    assert_eq!(checkpoint.head, Head::SequenceClassification);
    assert_eq!(checkpoint.config.labels.len(), 3);
    assert!(checkpoint.prompt.is_some());
}

#[test]
fn prompts_for_other_models_are_refused() {
    let other = json!({"token_dim": 16, "num_layers": 4, "num_virtual_tokens": 64});
    assert_snapshot!(faults(prompt(other), &[embeddings(&[64, 16])]), @"
    error[E0802]: the adapter does not fit the model
      --> adapter_config.json: token_dim
       expected 8  (hidden_size of the model)
       found    16
    error[E0802]: the adapter does not fit the model
      --> adapter_config.json: num_layers
       expected 2  (num_hidden_layers of the model)
       found    4
    error[E0802]: the adapter does not fit the model
      --> adapter_config.json: num_virtual_tokens
       expected fewer than the 64 positions of the model
       found    64
    ");
    // As PEFT saved a prefix before it knew of grouped heads.
    let ungrouped = json!({"token_dim": 8, "num_attention_heads": 2});
    assert_snapshot!(faults(prefix(ungrouped), &[embeddings(&[3, 32])]), @"
    error[E0802]: the adapter does not fit the model
      --> adapter_config.json: token_dim
       expected 4  (num_key_value_heads × head_dim of the model)
       found    8
    error[E0802]: the adapter does not fit the model
      --> adapter_config.json: num_attention_heads
       expected 1  (num_key_value_heads of the model)
       found    2
       help: it has as many heads for keys as for queries, as early versions of PEFT made it; train it again
    ");
}

#[test]
fn tensors_that_disagree_are_refused() {
    assert_snapshot!(faults(prompt(json!({})), &[embeddings(&[4, 8])]), @"
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: prompt_embeddings
       expected [3, 8]  (num_virtual_tokens 3, hidden_size 8)
       found    [4, 8]
    ");
    assert_snapshot!(faults(prefix(json!({})), &[embeddings(&[3, 8])]), @"
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: prompt_embeddings
       expected [3, 16]  (num_virtual_tokens 3, a key and a value for 2 layers, num_key_value_heads 1 × head_dim 4)
       found    [3, 8]
    ");
    let mut integers = embeddings(&[3, 8]);
    integers.1.0 = Dtype::I16;
    assert_snapshot!(faults(prompt(json!({})), &[integers]), @"
    error[E0204]: tensor has a dtype that is not supported
      --> adapter_model.safetensors: prompt_embeddings
       expected F32, F16 or BF16
       found    I16
    ");
    let strangers = [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".to_owned(), tensor(&[2, 8], 0)),
        ("prompt_encoder.default.mlp_head.0.weight".to_owned(), tensor(&[8, 8], 0)),
    ];
    assert_snapshot!(faults(prompt(json!({})), &strangers), @"
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: prompt_encoder.default.mlp_head.0.weight
       no soft prompt of a LLaMA has a tensor of this name
       help: is the adapter for a model of another architecture?
    error[E0202]: a tensor is missing
      --> adapter_model.safetensors: prompt_embeddings
       this is what a soft prompt consists of
       help: save the adapter with save_pretrained() of peft
    ");
    assert_snapshot!(faults(prompt(json!({})), &strangers[..1]), @"
    error[E0802]: the adapter does not fit the model
      --> adapter_model.safetensors: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
       no soft prompt of a LLaMA has a tensor of this name
       help: is the adapter for a model of another architecture?
    error[E0202]: a tensor is missing
      --> adapter_model.safetensors: prompt_embeddings
       this is what a soft prompt consists of
       help: save the adapter with save_pretrained() of peft
    ");
}

#[test]
fn other_kinds_are_refused_by_name() {
    let kinds = ["LORA", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT"];
    let told =
        kinds.map(|kind| faults(prompt(json!({"peft_type": kind})), &[embeddings(&[3, 8])])).join("\n");
    assert_snapshot!(told, @"
    error[E0801]: this kind of adapter is not supported
      --> adapter_config.json: peft_type
       expected PROMPT_TUNING, P_TUNING, PREFIX_TUNING
       found    LORA
       help: give it as --lora
    error[E0801]: this kind of adapter is not supported
      --> adapter_config.json: peft_type
       expected PROMPT_TUNING, P_TUNING, PREFIX_TUNING
       found    MULTITASK_PROMPT_TUNING
    error[E0801]: this kind of adapter is not supported
      --> adapter_config.json: peft_type
       expected PROMPT_TUNING, P_TUNING, PREFIX_TUNING
       found    ADAPTION_PROMPT
    ");
    let twofold = json!({"num_transformer_submodules": 2, "num_virtual_tokens": 0, "token_dim": "8"});
    assert_snapshot!(faults(prompt(twofold), &[embeddings(&[6, 8])]), @r#"
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: num_virtual_tokens
       expected a whole number from 1 to 2147483648
       found    0
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: token_dim
       expected a whole number from 1 to 2147483648
       found    "8"
    error[E0102]: invalid value in the configuration
      --> adapter_config.json: num_transformer_submodules
       expected a whole number from 1 to 1
       found    2
    "#);
    let mut config = prompt(json!({}));
    config.as_object_mut().expect("an object").remove("num_virtual_tokens");
    assert_snapshot!(faults(config, &[embeddings(&[3, 8])]), @"
    error[E0103]: missing key in the configuration
      --> adapter_config.json: num_virtual_tokens
       expected the number of virtual tokens
    ");
    let folder = adapter(prompt(json!({"new_trick": 3})), &[embeddings(&[3, 8])]);
    let (opened, warnings) = open(&folder);
    opened.unwrap_or_else(|faults| panic!("{faults}"));
    assert!(
        warnings[0].ends_with("adapter_config.json: new_trick is not known and is ignored"),
        "{warnings:?}"
    );
}

#[test]
fn a_prompt_is_no_part_of_a_converted_checkpoint() {
    let merged =
        opened(prefix(json!({})), &[embeddings(&[3, 16])]).merged().expect_err("it has no place there");
    assert_eq!(merged.iter().map(|fault| fault.code).collect::<Vec<_>>(), [Code::NoPlaceForPrompt]);
}
