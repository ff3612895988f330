//! Configurations made by hand that are no good, one fault each: with what code, and at which key, it is told.

use std::fs;

use llamac_compiler::driver::{self, ExportOptions};
use llamac_compiler::model::{Inputs, Logits};
use llamac_compiler::passes;
use llamac_compiler::source::Checkpoint;
use llamac_compiler::target::onnx::{OnnxOptions, Profile};
use llamac_runtime::diagnostic::{Code, Diagnostics};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::checkpoint::copy;
use super::limits::within;
use Code::*;

/// The faults of a sound checkpoint whose configuration has these members, in place of its own where they are there
/// already, or is this whole text if it starts with a bracket.
fn faults(members: &str) -> Diagnostics {
    let directory = copy("tiny/gqa-f32");
    let path = directory.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    let sound = config.trim_end().strip_suffix('}').unwrap();
    let text = match members.chars().next() {
        Some('"') => format!("{sound}, {members}}}"),
        _ => members.to_owned(),
    };
    fs::write(&path, text).unwrap();
    match Checkpoint::open(directory.path(), None) {
        Ok(_) => panic!("{members} is accepted"),
        Err(faults) => faults,
    }
}

/// Each is the only fault, at `config.json: KEY`; the sound configuration has hidden_size 32, 4 heads, 2 of them for
/// keys, so that head_dim is 8.
const VALUES: &[(&str, Code, &str)] = &[
    // Another kind of model.
    (r#""model_type": "gpt2""#, UnsupportedModel, "model_type"),
    (r#""model_type": "LLAMA""#, UnsupportedModel, "model_type"),
    (r#""model_type": 3"#, BadConfigValue, "model_type"),
    (r#""model_type": null, "architectures": null"#, MissingConfigKey, "model_type"),
    (r#""architectures": "LlamaModel""#, BadConfigValue, "architectures"),
    (r#""architectures": [1]"#, BadConfigValue, "architectures"),
    (
        r#""quantization_config": {"quant_method": "hqq", "bits": 4}"#,
        UnsupportedConfig,
        "quantization_config.quant_method",
    ),
    (r#""quantization_config": "int8""#, BadConfigValue, "quantization_config"),
    (r#""is_causal": false"#, UnsupportedConfig, "is_causal"),
    (r#""partial_rotary_factor": 0.5"#, UnsupportedConfig, "partial_rotary_factor"),
    // Sizes: none, below zero, absurd, of another type.
    (r#""vocab_size": 0"#, BadConfigValue, "vocab_size"),
    (r#""vocab_size": 1099511627776"#, BadConfigValue, "vocab_size"),
    (r#""hidden_size": -32"#, BadConfigValue, "hidden_size"),
    (r#""hidden_size": 32.0"#, BadConfigValue, "hidden_size"),
    (r#""hidden_size": 3.2e1"#, BadConfigValue, "hidden_size"),
    (r#""hidden_size": "32""#, BadConfigValue, "hidden_size"),
    (r#""hidden_size": null"#, BadConfigValue, "hidden_size"),
    (r#""hidden_size": true"#, BadConfigValue, "hidden_size"),
    (r#""hidden_size": [32]"#, BadConfigValue, "hidden_size"),
    (r#""hidden_size": 18446744073709551615"#, BadConfigValue, "hidden_size"),
    (r#""hidden_size": 340282366920938463463374607431768211456"#, BadConfigValue, "hidden_size"),
    (r#""intermediate_size": []"#, BadConfigValue, "intermediate_size"),
    (r#""intermediate_size": 0"#, BadConfigValue, "intermediate_size"),
    (r#""num_hidden_layers": 0"#, BadConfigValue, "num_hidden_layers"),
    (r#""num_hidden_layers": -2"#, BadConfigValue, "num_hidden_layers"),
    (r#""num_hidden_layers": 513"#, BadConfigValue, "num_hidden_layers"),
    (r#""num_hidden_layers": 1000000000"#, BadConfigValue, "num_hidden_layers"),
    (r#""num_hidden_layers": 1152921504606846976"#, BadConfigValue, "num_hidden_layers"),
    (r#""num_attention_heads": 0"#, BadConfigValue, "num_attention_heads"),
    (r#""num_attention_heads": {}"#, BadConfigValue, "num_attention_heads"),
    (r#""num_key_value_heads": 0"#, BadConfigValue, "num_key_value_heads"),
    (r#""head_dim": 0"#, BadConfigValue, "head_dim"),
    (r#""max_position_embeddings": 0"#, BadConfigValue, "max_position_embeddings"),
    (r#""max_position_embeddings": "2k""#, BadConfigValue, "max_position_embeddings"),
    // Sizes that contradict each other.
    (r#""hidden_size": 34"#, InconsistentConfig, "num_attention_heads"),
    (r#""hidden_size": 36"#, InconsistentConfig, "head_dim"),
    (r#""head_dim": 15"#, InconsistentConfig, "head_dim"),
    (r#""num_key_value_heads": 3"#, InconsistentConfig, "num_key_value_heads"),
    (r#""num_key_value_heads": 8"#, InconsistentConfig, "num_key_value_heads"),
    // Numbers, switches, names and ids.
    (r#""rms_norm_eps": -1e-5"#, BadConfigValue, "rms_norm_eps"),
    (r#""rms_norm_eps": "1e-5""#, BadConfigValue, "rms_norm_eps"),
    (r#""rms_norm_eps": 1e10"#, BadConfigValue, "rms_norm_eps"),
    (r#""rms_norm_eps": null"#, BadConfigValue, "rms_norm_eps"),
    (r#""hidden_act": "gelu_fast""#, UnsupportedConfig, "hidden_act"),
    (r#""hidden_act": null"#, BadConfigValue, "hidden_act"),
    (r#""hidden_act": 1"#, BadConfigValue, "hidden_act"),
    (r#""attention_bias": "false""#, BadConfigValue, "attention_bias"),
    (r#""mlp_bias": null"#, BadConfigValue, "mlp_bias"),
    (r#""tie_word_embeddings": 0"#, BadConfigValue, "tie_word_embeddings"),
    (r#""pad_token_id": 1.5"#, BadConfigValue, "pad_token_id"),
    (r#""bos_token_id": "<s>""#, BadConfigValue, "bos_token_id"),
    (r#""eos_token_id": [1, "2"]"#, BadConfigValue, "eos_token_id"),
    (r#""eos_token_id": 8589934592"#, BadConfigValue, "eos_token_id"),
    (r#""num_labels": 10000000"#, BadConfigValue, "num_labels"),
    (r#""id2label": {"0": "a", "2": "b"}"#, BadConfigValue, "id2label"),
    (r#""id2label": {"zero": "a"}"#, BadConfigValue, "id2label.zero"),
    (r#""problem_type": "ranking""#, BadConfigValue, "problem_type"),
    (r#""torch_dtype": 16"#, BadConfigValue, "torch_dtype"),
    // Rotary embeddings.
    (r#""rope_theta": 0"#, BadConfigValue, "rope_theta"),
    (r#""rope_theta": -1.0"#, BadConfigValue, "rope_theta"),
    (r#""rope_theta": 1e300"#, BadConfigValue, "rope_theta"),
    (r#""rope_theta": "1e4""#, BadConfigValue, "rope_theta"),
    (r#""rope_scaling": "linear""#, BadConfigValue, "rope_scaling"),
    (r#""rope_scaling": [4.0]"#, BadConfigValue, "rope_scaling"),
    (r#""rope_scaling": {"type": "linear"}"#, MissingConfigKey, "rope_scaling.factor"),
    (r#""rope_scaling": {"type": "linear", "factor": 0}"#, BadConfigValue, "rope_scaling.factor"),
    (r#""rope_scaling": {"type": "dynamic", "factor": -2.0}"#, BadConfigValue, "rope_scaling.factor"),
    (r#""rope_scaling": {"type": "proportional"}"#, UnsupportedConfig, "rope_scaling.type"),
    (r#""rope_parameters": {"rope_type": "lama3"}"#, UnsupportedConfig, "rope_parameters.rope_type"),
    (r#""rope_parameters": {"rope_type": 5}"#, BadConfigValue, "rope_parameters.rope_type"),
    (
        r#""rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}"#,
        UnsupportedConfig,
        "rope_parameters.partial_rotary_factor",
    ),
    (r#""rope_parameters": {"rope_type": "yarn"}"#, MissingConfigKey, "rope_parameters.factor"),
    (
        r#""rope_parameters": {"rope_type": "yarn", "factor": 2, "rope_theta": 1}"#,
        InconsistentConfig,
        "rope_parameters.rope_theta",
    ),
    (
        r#""rope_parameters": {"rope_type": "yarn", "factor": 2, "truncate": 1}"#,
        BadConfigValue,
        "rope_parameters.truncate",
    ),
    (
        r#""rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}"#,
        MissingConfigKey,
        "rope_scaling.high_freq_factor",
    ),
    (
        r#""rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}"#,
        InconsistentConfig,
        "rope_scaling.high_freq_factor",
    ),
    (
        r#""rope_scaling": {"rope_type": "dynamic", "factor": 8}, "head_dim": 2"#,
        InconsistentConfig,
        "rope_scaling.rope_type",
    ),
    (
        r#""rope_scaling": {"type": "longrope", "short_factor": [1, 2], "long_factor": [1, 1, 1, 1]}"#,
        InconsistentConfig,
        "rope_scaling.short_factor",
    ),
    (
        r#""rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": "long"}"#,
        BadConfigValue,
        "rope_scaling.long_factor",
    ),
    (
        r#""rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [1, 1, 1, 0]}"#,
        BadConfigValue,
        "rope_scaling.long_factor",
    ),
    (
        r#""rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": null}"#,
        MissingConfigKey,
        "rope_scaling.long_factor",
    ),
];

/// Texts that are no configuration at all. The place is the file; the words say where in it, or what it is.
const TEXTS: &[(&str, Code, &str)] = &[
    ("", BadJson, "the file is empty"),
    ("\u{FEFF}{}", BadJson, "byte order mark"),
    ("[]", BadJson, "an object"),
    ("null", BadJson, "an object"),
    ("{", BadJson, "line 1 column 1"),
    ("{} {}", BadJson, "line 1 column 4"),
    (r#"{"model_type": "llama",}"#, BadJson, "line 1 column 24"),
    (r#"{'model_type': 'llama'}"#, BadJson, "line 1 column 2"),
    (r#""rms_norm_eps": NaN"#, BadJson, "\"rms_norm_eps\": NaN"),
    (r#""rope_theta": Infinity"#, BadJson, "\"rope_theta\": Infinity"),
    (r#""rope_theta": -Infinity"#, BadJson, "\"rope_theta\": -Infinity"),
    (r#""hidden_size": 1e999"#, BadJson, "\"hidden_size\": 1e999"),
    (r#""hidden_size": 0x20"#, BadJson, "\"hidden_size\": 0x20"),
    ("{}", MissingConfigKey, "model_type"),
];

/// What the tensors contradict: every fault is of this kind, and names the key.
const AGAINST_TENSORS: &[(&str, Code, &str)] = &[
    (r#""vocab_size": 68"#, WrongShape, "vocab_size = 68"),
    (r#""hidden_size": 64, "head_dim": 8"#, WrongShape, "hidden_size 64"),
    (r#""intermediate_size": 63"#, WrongShape, "intermediate_size = 63"),
    (r#""num_attention_heads": 8, "head_dim": 8"#, WrongShape, "num_attention_heads"),
    (r#""num_key_value_heads": 4"#, WrongShape, "num_key_value_heads = 4"),
    (r#""num_key_value_heads": null"#, WrongShape, "no num_key_value_heads, which is then 4"),
    (r#""head_dim": 16"#, WrongShape, "head_dim 16"),
    (r#""num_hidden_layers": 3"#, MissingTensor, "num_hidden_layers = 3"),
    (r#""num_hidden_layers": 512"#, MissingTensor, "num_hidden_layers = 512"),
    (r#""attention_bias": true"#, MissingTensor, "attention_bias"),
    (r#""mlp_bias": true"#, MissingTensor, "mlp_bias"),
];

#[test]
fn a_wrong_value_is_one_fault_at_its_key() {
    assert!(VALUES.len() + TEXTS.len() + AGAINST_TENSORS.len() >= 60);
    for &(members, code, key) in VALUES {
        let faults = faults(members);
        assert_eq!(faults.iter().count(), 1, "{members}: {faults}");
        let fault = faults.iter().next().unwrap();
        assert_eq!(fault.code, code, "{members}: {fault}");
        assert_eq!(fault.at.as_deref(), Some(format!("config.json: {key}").as_str()), "{members}: {fault}");
        assert!(fault.expected.is_some() || fault.message.is_some(), "{members}: {fault}");
    }
}

#[test]
fn what_is_no_configuration_is_told_with_its_place() {
    for &(text, code, words) in TEXTS {
        let faults = faults(text);
        let fault = faults.iter().next().unwrap();
        assert_eq!(fault.code, code, "{text}: {fault}");
        assert!(fault.at.as_ref().is_some_and(|at| at.starts_with("config.json")), "{text}: {fault}");
        assert!(fault.to_string().contains(words), "{text}: {fault}");
    }
}

/// As many layers as a checkpoint may have, all of them there.
#[test]
fn the_most_layers_take_time_in_proportion() {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 512,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": true,
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![8, 8]), ("model.norm".to_owned(), vec![8])];
    for layer in 0..512 {
        let matrices = ["self_attn.q", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"];
        let matrices = matrices.map(|name| (format!("{name}_proj"), vec![8, 8]));
        let narrow = ["self_attn.k", "self_attn.v"].map(|name| (format!("{name}_proj"), vec![4, 8]));
        let norms = ["input", "post_attention"].map(|name| (format!("{name}_layernorm"), vec![8]));
        let all = matrices.into_iter().chain(narrow).chain(norms);
        shapes.extend(all.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
    }
    let zeros = [0; 4 * 64];
    let view = |shape: &Vec<usize>| {
        TensorView::new(Dtype::F32, shape.clone(), &zeros[..4 * shape.iter().product::<usize>()]).unwrap()
    };
    let tensors = shapes.iter().map(|(name, shape)| (format!("{name}.weight"), view(shape)));
    safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(folder.path(), None).unwrap();
    within(256 << 20, || driver::lower(&checkpoint, &passes::Options::default())).unwrap();
    let options = ExportOptions {
        profile: Profile::Portable,
        inputs: Inputs::Ids,
        logits: Logits::All,
        cache: true,
        files: OnnxOptions::default(),
        threads: 1,
        verify: false,
        passes: passes::Options::default(),
    };
    within(256 << 20, || driver::lower_for_export(&checkpoint, &options)).unwrap();
}

#[test]
fn what_the_tensors_contradict_is_named() {
    for &(members, code, key) in AGAINST_TENSORS {
        for fault in faults(members).iter() {
            assert_eq!(fault.code, code, "{members}: {fault}");
            assert!(fault.to_string().contains(key), "{members}: {fault}");
        }
    }
}
