use llamac_ir::RopeScaling;
use llamac_plan::diagnostic::Diagnostic;
use serde_json::json;

use super::*;

fn parse(extra: Value) -> Result<(Config, Vec<String>), Diagnostics> {
    let mut base = json!({
        "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    });
    for (key, value) in extra.as_object().unwrap() {
        base[key] = value.clone();
    }
    let mut warnings = Vec::new();
    Config::parse("config.json", base.to_string().as_bytes(), &mut warnings).map(|config| (config, warnings))
}

fn config(extra: Value) -> Config {
    parse(extra).unwrap().0
}

/// The only fault of a configuration.
fn fault(extra: Value) -> Diagnostic {
    let faults = parse(extra.clone()).expect_err(&extra.to_string());
    assert_eq!(faults.iter().count(), 1, "{extra}: {faults}");
    faults.iter().next().unwrap().clone()
}

#[test]
fn a_bare_file_has_the_defaults_of_transformers() {
    let bytes = br#"{"model_type": "llama"}"#;
    let config = Config::parse("config.json", bytes, &mut Vec::new()).unwrap();
    assert_eq!((config.vocab_size, config.hidden_size, config.intermediate_size), (32000, 4096, 11008));
    assert_eq!(
        (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads),
        (32, 32, 32)
    );
    assert_eq!((config.head_dim, config.max_position_embeddings), (128, 2048));
    assert_eq!((config.activation, config.rms_norm_eps.get()), (Activation::Silu, 1e-6));
    assert_eq!(config.rope, Rope { theta: 10000.0.into(), scaling: RopeScaling::Default });
    assert_eq!((config.pad_token_id, config.bos_token_id, config.eos_token_ids), (None, Some(1), vec![2]));
    assert!(!config.attention_bias && !config.mlp_bias && !config.tie_word_embeddings);
    assert_eq!(config.labels, ["LABEL_0", "LABEL_1"]);
    assert!(config.architectures.is_empty() && config.dtype.is_none() && config.problem_type.is_none());
}

#[test]
fn sizes_and_flags_are_read() {
    let c = config(json!({
        "head_dim": 24, "num_key_value_heads": null, "attention_bias": true, "mlp_bias": true,
        "tie_word_embeddings": true, "rms_norm_eps": 1e-5, "architectures": ["LLaMAForCausalLM"],
        "pretraining_tp": 8, "rope_scaling": null, "anything": {"else": []}, "is_causal": true,
        "partial_rotary_factor": 1.0, "quantization_config": null,
    }));
    assert_eq!((c.head_dim, c.num_key_value_heads, c.query_width(), c.key_value_width()), (24, 4, 96, 96));
    assert!(c.attention_bias && c.mlp_bias && c.tie_word_embeddings);
    assert_eq!(c.rms_norm_eps.get(), 1e-5);
    assert_eq!(c.architectures, ["LLaMAForCausalLM"]);
}

#[test]
fn a_model_type_may_be_missing_where_the_class_says_it() {
    let c = config(json!({"model_type": null, "architectures": ["LlamaForCausalLM"]}));
    assert_eq!(c.hidden_size, 64);
    assert_eq!(fault(json!({"model_type": null})).code, Code::MissingConfigKey);
}

#[test]
fn activations_have_several_names() {
    for (name, activation) in ACTIVATIONS {
        assert_eq!(config(json!({"hidden_act": name})).activation, activation);
    }
    let fault = fault(json!({"hidden_act": "siluu"}));
    assert_eq!(fault.code, Code::UnsupportedConfig);
    assert!(fault.to_string().contains("did you mean silu?"), "{fault}");
}

#[test]
fn a_misspelled_key_is_told() {
    let (_, warnings) =
        parse(json!({"rms_norm_esp": 1e-5, "Head_Dim": 16, "tie_word_embedding": true})).unwrap();
    assert_eq!(
        warnings,
        [
            "config.json: Head_Dim means nothing; did you mean head_dim?",
            "config.json: rms_norm_esp means nothing; did you mean rms_norm_eps?",
            "config.json: tie_word_embedding means nothing; did you mean tie_word_embeddings?",
        ]
    );
    // The right key is there as well.
    let (_, warnings) = parse(json!({"rms_norm_esp": 1e-5, "rms_norm_eps": 1e-5})).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let fault = fault(json!({"model_type": null, "modeltype": "llama"}));
    assert_eq!(fault.help.as_deref(), Some("should modeltype be model_type?"));
    let rope = |scaling: Value| self::fault(json!({"rope_scaling": scaling})).help.clone();
    assert_eq!(rope(json!({"type": "linear", "facotr": 2.0})).as_deref(), Some("should facotr be factor?"));
    assert_eq!(rope(json!({"type": "llama3", "factor": 2.0, "high_freq_factor": 4.0})), None);
    let yarn = json!({"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fats": 3.0}});
    assert_eq!(
        parse(yarn).unwrap().1,
        ["config.json: rope_scaling.beta_fats means nothing for rope_type \"yarn\"; did you mean beta_fast?"]
    );
    let problem = self::fault(json!({"problem_type": "single_label_clasification"}));
    assert_eq!(problem.help.as_deref(), Some("did you mean single_label_classification?"));
}

/// Files are full of keys that other models and other code use.
#[test]
fn keys_of_others_are_no_misspellings() {
    let others = "_name_or_path add_cross_attention attention_dropout auto_map bad_words_ids begin_suppress_tokens \
        chunk_size_feed_forward cls_token_id cross_attention_hidden_size decoder_start_token_id diversity_penalty \
        early_stopping embd_pdrop encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task \
        forced_bos_token_id forced_eos_token_id head_size hidden_activation hidden_dropout initializer_range \
        is_decoder is_encoder_decoder is_llama_config label2id layer_types length_penalty mask_token_id max_length \
        max_sequence_length max_window_layers min_length name_or_path no_repeat_ngram_size num_beam_groups num_beams \
        num_heads num_layers num_return_sequences output_attentions output_hidden_states output_scores prefix \
        pretraining_tp pruned_heads qkv_bias remove_invalid_values repetition_penalty resid_pdrop return_dict \
        return_dict_in_generate rope_interleaved rope_local_base_freq sep_token_id sliding_window suppress_tokens \
        task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torchscript \
        transformers_version typical_p unk_token_id unsloth_version use_bfloat16 use_cache use_sliding_window";
    let mut file = json!({"model_type": "llama"});
    for key in others.split_whitespace() {
        file[key] = Value::Null;
    }
    let mut warnings = Vec::new();
    Config::parse("config.json", file.to_string().as_bytes(), &mut warnings).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let config = config(json!({}));
    let read =
        super::super::generation::parse("f", Some(file.to_string().as_bytes()), Some(&config), &mut warnings);
    read.unwrap();
    // It names no token that ends a text.
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn dtype_wins_over_its_old_name() {
    let dtype = |extra| config(extra).dtype;
    assert_eq!(dtype(json!({"torch_dtype": "float16"})).as_deref(), Some("float16"));
    assert_eq!(dtype(json!({"torch_dtype": "float16", "dtype": "bfloat16"})).as_deref(), Some("bfloat16"));
    assert_eq!(dtype(json!({"torch_dtype": null})), None);
}

#[test]
fn token_ids_take_every_spelling() {
    let c = config(json!({"pad_token_id": -1, "bos_token_id": null, "eos_token_id": [5, 6]}));
    assert_eq!((c.pad_token_id, c.bos_token_id, c.eos_token_ids), (None, None, vec![5, 6]));
    assert!(config(json!({"eos_token_id": null})).eos_token_ids.is_empty());
    let (_, warnings) = parse(json!({"pad_token_id": 96, "eos_token_id": [2, 4000]})).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn labels_follow_their_numbers() {
    let c = config(
        json!({"id2label": {"10": "k", "2": "c", "0": "a", "1": "b", "3": "d", "4": "e", "5": "f", "6": "g",
        "7": "h", "8": "i", "9": "j"}, "problem_type": "multi_label_classification"}),
    );
    assert_eq!(c.labels.concat(), "abcdefghijk");
    assert_eq!(c.problem_type.as_deref(), Some("multi_label_classification"));
    assert_eq!(config(json!({"num_labels": 3})).labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
    let (c, warnings) = parse(json!({"id2label": {"0": "x"}, "num_labels": 5})).unwrap();
    assert_eq!((c.labels.len(), warnings.len()), (1, 1));
    for (labels, code) in [
        (json!({"0": "a", "2": "b"}), Code::BadConfigValue),
        (json!({"a": "b"}), Code::BadConfigValue),
        (json!({"0": 1}), Code::BadConfigValue),
        (json!({"0": "a", "00": "b"}), Code::BadConfigValue),
        (json!({}), Code::BadConfigValue),
        (json!([]), Code::BadConfigValue),
    ] {
        assert_eq!(fault(json!({"id2label": labels})).code, code);
    }
    let one = json!({"num_labels": 1, "problem_type": "single_label_classification"});
    assert_eq!(fault(one).code, Code::InconsistentConfig);
    assert_eq!(fault(json!({"problem_type": "ranking"})).code, Code::BadConfigValue);
}

fn rope(extra: Value) -> Rope {
    config(extra).rope
}

#[test]
fn rope_is_read_in_three_spellings() {
    let linear = |theta: f64, factor: f64| Rope {
        theta: theta.into(),
        scaling: RopeScaling::Linear { factor: factor.into() },
    };
    for (expected, extra) in [
        (linear(10000.0, 4.0), json!({"rope_scaling": {"type": "linear", "factor": 4.0}})),
        (linear(500.0, 4.0), json!({"rope_scaling": {"type": "linear", "factor": 4}, "rope_theta": 500})),
        (
            linear(500.0, 4.0),
            json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 5e2}),
        ),
        (
            linear(7.0, 2.0),
            json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7.0}}),
        ),
        // rope_type wins over type.
        (
            linear(10000.0, 2.0),
            json!({"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}}),
        ),
        // rope_scaling wins over rope_parameters, whose theta is lost.
        (
            linear(10000.0, 2.0),
            json!({"rope_scaling": {"type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}),
        ),
        // An empty rope_scaling does not count.
        (
            linear(777.0, 2.0),
            json!({"rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 777.0}}),
        ),
        // A theta inside the dictionary wins over the one at the top level.
        (
            linear(3.0, 2.0),
            json!({"rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 3}, "rope_theta": 4}),
        ),
    ] {
        assert_eq!(rope(extra.clone()), expected, "{extra}");
    }
}

#[test]
fn a_scaling_without_a_type_is_the_default_one() {
    let (config, warnings) = parse(json!({"rope_scaling": {"factor": 2.0}})).unwrap();
    assert_eq!(config.rope.scaling, RopeScaling::Default);
    assert!(warnings[0].contains("rope_scaling.factor"), "{warnings:?}");
    assert_eq!(rope(json!({"rope_parameters": null})).scaling, RopeScaling::Default);
}

#[test]
fn every_scaling_is_read() {
    let scaling =
        |extra: Value| rope(json!({"rope_scaling": extra, "max_position_embeddings": 8192})).scaling;
    assert_eq!(
        scaling(json!({"type": "dynamic", "factor": 2.0})),
        RopeScaling::Dynamic { factor: 2.0.into(), max_position: 8192 }
    );
    let llama3 = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048});
    assert_eq!(
        scaling(llama3),
        RopeScaling::Llama3 {
            factor: 32.0.into(),
            low: 1.0.into(),
            high: 4.0.into(),
            original_max_position: 2048
        }
    );
    let divisors = |start: f64, step: f64| (0..8).map(|i| start + step * f64::from(i)).collect::<Vec<_>>();
    let (short, long) = (divisors(1.0, 0.1), divisors(2.0, 0.5));
    for name in ["longrope", "su"] {
        let long_rope = json!({"type": name, "short_factor": short, "long_factor": long,
            "original_max_position_embeddings": 16});
        let parsed = rope(json!({"rope_scaling": long_rope, "max_position_embeddings": 64})).scaling;
        assert_eq!(
            parsed,
            RopeScaling::LongRope {
                short: short.iter().map(|x| Real::new(*x)).collect(),
                long: long.iter().map(|x| Real::new(*x)).collect(),
                original_max_position: 16,
                attention_factor: 1.224744871391589.into(),
            }
        );
    }
}

/// Values of transformers 5.23.
#[test]
fn the_attention_factor_of_yarn_is_resolved() {
    let yarn = |extra: Value| {
        let mut scaling =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048});
        for (key, value) in extra.as_object().unwrap() {
            scaling[key] = value.clone();
        }
        rope(json!({"rope_scaling": scaling, "max_position_embeddings": 8192})).scaling
    };
    let expected = |attention_factor: f64| RopeScaling::Yarn {
        factor: 4.0.into(),
        original_max_position: 2048,
        beta_fast: 32.0.into(),
        beta_slow: 1.0.into(),
        attention_factor: attention_factor.into(),
        truncate: true,
    };
    assert_eq!(yarn(json!({})), expected(1.138629436111989));
    assert_eq!(yarn(json!({"factor": null})), expected(1.138629436111989));
    assert_eq!(yarn(json!({"attention_factor": 1.5, "beta_fast": null, "beta_slow": 0})), expected(1.5));
    assert_eq!(yarn(json!({"mscale": 1.0})), expected(1.138629436111989));
    let all =
        json!({"mscale": 1.0, "mscale_all_dim": 0.5, "truncate": false, "beta_fast": 16.0, "beta_slow": 2});
    assert_eq!(
        yarn(all),
        RopeScaling::Yarn {
            factor: 4.0.into(),
            original_max_position: 2048,
            beta_fast: 16.0.into(),
            beta_slow: 2.0.into(),
            attention_factor: 1.0648216253695715.into(),
            truncate: false,
        }
    );
}

#[test]
fn the_original_length_falls_back() {
    let original = |extra: Value| match rope(extra).scaling {
        RopeScaling::Yarn { original_max_position, .. } => original_max_position,
        other => panic!("{other:?}"),
    };
    let yarn = json!({"rope_type": "yarn", "factor": 2.0});
    assert_eq!(original(json!({"rope_scaling": yarn})), 64);
    let mut own = yarn.clone();
    own["original_max_position_embeddings"] = json!(32);
    assert_eq!(original(json!({"rope_scaling": own})), 32);
    assert_eq!(original(json!({"rope_scaling": own, "original_max_position_embeddings": 16})), 16);
}

#[test]
fn all_faults_come_together() {
    let faults = parse(json!({
        "hidden_size": 0, "num_key_value_heads": 3, "hidden_act": "x", "rms_norm_eps": "y",
        "rope_scaling": {"rope_type": "llama3"}, "id2label": 1,
    }))
    .unwrap_err();
    let at: Vec<&str> =
        faults.iter().filter_map(|fault| fault.at.as_deref()?.strip_prefix("config.json: ")).collect();
    assert_eq!(
        at,
        [
            "hidden_size",
            "num_key_value_heads",
            "hidden_act",
            "rms_norm_eps",
            "rope_scaling.factor",
            "rope_scaling.low_freq_factor",
            "rope_scaling.high_freq_factor",
            "id2label",
        ]
    );
}
