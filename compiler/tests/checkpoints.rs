//! Every committed checkpoint opens, and its configuration is the one that transformers 5.23 reads.

use std::fs;
use std::path::{Path, PathBuf};

use llamac_compiler::source::{Checkpoint, EMBEDDING, Head, LM_HEAD, Tie};
use llamac_ir::{DType, RopeScaling};

use Head::{Base, CausalLm, QuestionAnswering, SequenceClassification, TokenClassification};

/// Name, head, [vocab, hidden, intermediate, layers, heads, key and value heads, head_dim], eps, theta, rope_type and
/// number of labels; printed from transformers' `LlamaConfig`.
type Expected = (&'static str, Head, [usize; 7], f64, f64, &'static str, usize);

#[rustfmt::skip]
const EXPECTED: [Expected; 53] = [
    ("act-gelu-new", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("act-gelu-tanh", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("act-quick-gelu", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("act-relu", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("all-bias-f16", CausalLm, [67, 32, 64, 2, 4, 4, 8], 1e-05, 10000.0, "default", 2),
    ("attention-bias", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("base-bare", Base, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("base-dynamic", Base, [67, 32, 64, 2, 2, 1, 16], 1e-05, 10000.0, "dynamic", 2),
    ("base-from-causal-lm", Base, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("base-prefixed", Base, [67, 32, 64, 3, 4, 4, 8], 1e-05, 10000.0, "default", 2),
    ("eos-list", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("gqa-f32", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("gqa3-bf16", CausalLm, [71, 48, 96, 2, 6, 2, 8], 1e-05, 100000.0, "default", 2),
    ("gqa4-theta-int", CausalLm, [131, 64, 112, 2, 8, 2, 8], 1e-05, 500000.0, "default", 2),
    ("head-dim-narrow", CausalLm, [67, 48, 64, 2, 4, 4, 6], 1e-05, 10000.0, "default", 2),
    ("head-dim-wide", CausalLm, [67, 32, 64, 2, 4, 2, 12], 1e-05, 10000.0, "default", 2),
    ("legacy-llama1", CausalLm, [67, 32, 64, 2, 4, 4, 8], 1e-06, 10000.0, "default", 2),
    ("mha-f16", CausalLm, [67, 32, 88, 2, 2, 2, 16], 1e-06, 10000.0, "default", 2),
    ("mha-f32", CausalLm, [67, 32, 64, 2, 4, 4, 8], 1e-06, 10000.0, "default", 2),
    ("mlp-bias", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("mqa-f32", CausalLm, [67, 32, 64, 3, 4, 1, 8], 1e-05, 10000.0, "default", 2),
    ("odd-sizes", CausalLm, [515, 60, 100, 2, 6, 2, 14], 1e-05, 10000.0, "default", 2),
    ("prefix-compile", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("prefix-ddp", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("qa-model-f16", QuestionAnswering, [67, 32, 64, 3, 4, 4, 8], 1e-05, 10000.0, "default", 2),
    ("qa-transformer", QuestionAnswering, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("rope-both-spellings", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "linear", 2),
    ("rope-dynamic-new", CausalLm, [67, 32, 64, 2, 2, 1, 16], 1e-05, 10000.0, "dynamic", 2),
    ("rope-dynamic-old", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-06, 10000.0, "dynamic", 2),
    ("rope-linear-new", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 20000.0, "linear", 2),
    ("rope-linear-old", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-06, 10000.0, "linear", 2),
    ("rope-llama3-mid", CausalLm, [67, 64, 64, 2, 2, 2, 32], 1e-05, 500000.0, "llama3", 2),
    ("rope-llama3-new", CausalLm, [67, 64, 64, 2, 2, 1, 32], 1e-05, 500000.0, "llama3", 2),
    ("rope-longrope-mid", CausalLm, [67, 32, 64, 2, 2, 1, 16], 1e-05, 10000.0, "longrope", 2),
    ("rope-longrope-new", CausalLm, [67, 32, 64, 2, 2, 2, 16], 1e-05, 10000.0, "longrope", 2),
    ("rope-yarn-mid", CausalLm, [67, 32, 64, 2, 2, 2, 16], 1e-05, 10000.0, "yarn", 2),
    ("rope-yarn-new-mscale", CausalLm, [67, 64, 64, 2, 2, 1, 32], 1e-05, 10000.0, "yarn", 2),
    ("rope-yarn-old", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-06, 10000.0, "yarn", 2),
    ("seqcls-negative-pad", SequenceClassification, [67, 32, 64, 2, 4, 2, 8], 1e-06, 10000.0, "default", 3),
    ("seqcls-no-pad", SequenceClassification, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 3),
    ("seqcls-one-label", SequenceClassification, [67, 32, 64, 2, 4, 1, 8], 1e-05, 10000.0, "default", 1),
    ("seqcls-pad", SequenceClassification, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 3),
    ("seqcls-pad-eos", SequenceClassification, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 5),
    ("seqcls-two-default", SequenceClassification, [71, 48, 96, 2, 6, 2, 8], 1e-05, 10000.0, "default", 2),
    ("sharded-bf16", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("sharded-f32", CausalLm, [67, 32, 64, 3, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("tied-both-different", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("tied-both-equal", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("tied-embed-only", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("tied-head-only", CausalLm, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 2),
    ("tokcls-bias", TokenClassification, [67, 32, 64, 2, 4, 2, 8], 1e-05, 10000.0, "default", 3),
    ("tokcls-dynamic", TokenClassification, [67, 32, 64, 2, 2, 1, 16], 1e-05, 10000.0, "dynamic", 5),
    ("tokcls-no-bias", TokenClassification, [71, 48, 96, 2, 6, 2, 8], 1e-05, 10000.0, "default", 5),
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn open(name: &str, head: Option<Head>) -> Checkpoint {
    Checkpoint::open(fixtures().join("tiny").join(name), head)
        .unwrap_or_else(|faults| panic!("{name}: {faults}"))
}

fn rope_type(scaling: &RopeScaling) -> &'static str {
    match scaling {
        RopeScaling::Default => "default",
        RopeScaling::Linear { .. } => "linear",
        RopeScaling::Dynamic { .. } => "dynamic",
        RopeScaling::Yarn { .. } => "yarn",
        RopeScaling::Llama3 { .. } => "llama3",
        RopeScaling::LongRope { .. } => "longrope",
    }
}

#[test]
fn configurations_are_those_of_transformers() {
    for (name, head, sizes, eps, theta, rope, labels) in EXPECTED {
        let checkpoint = open(name, Some(head));
        let c = &checkpoint.config;
        let found = [
            c.vocab_size,
            c.hidden_size,
            c.intermediate_size,
            c.num_hidden_layers,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
        ];
        assert_eq!(found, sizes, "{name}");
        assert_eq!((c.rms_norm_eps.get(), c.rope.theta.get()), (eps, theta), "{name}");
        assert_eq!((rope_type(&c.rope.scaling), c.labels.len()), (rope, labels), "{name}");
    }
}

#[test]
fn every_checkpoint_is_in_the_table() {
    let mut found: Vec<String> = fs::read_dir(fixtures().join("tiny"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, EXPECTED.map(|row| row.0));
}

#[test]
fn heads_are_detected() {
    for (name, head, ..) in EXPECTED {
        // This one holds a causal language model, of which the trunk alone is compared.
        let detected = if name == "base-from-causal-lm" { CausalLm } else { head };
        assert_eq!(open(name, None).head, detected, "{name}");
    }
}

#[test]
fn every_tensor_has_its_bytes() {
    for (name, head, ..) in EXPECTED {
        let checkpoint = open(name, Some(head));
        let c = &checkpoint.config;
        let biases = 4 * usize::from(c.attention_bias) + 3 * usize::from(c.mlp_bias);
        let own_head = match head {
            Base => 0,
            CausalLm => usize::from(checkpoint.tie != Tie::Tied),
            SequenceClassification => 1,
            TokenClassification => 1 + usize::from(c.token_classification_bias),
            QuestionAnswering => 2,
        };
        assert_eq!(checkpoint.tensors.len(), c.num_hidden_layers * (9 + biases) + 2 + own_head, "{name}");
        for (tensor, info) in &checkpoint.tensors {
            let bytes = checkpoint.bytes(tensor).unwrap();
            assert_eq!(
                bytes.len(),
                info.shape.iter().product::<usize>() * info.dtype.size(),
                "{name}: {tensor}"
            );
        }
    }
}

#[test]
fn ties_are_decided_by_the_tensors() {
    for (name, tie) in [
        ("tied-both-different", Tie::Different),
        ("tied-both-equal", Tie::Tied),
        ("tied-embed-only", Tie::Tied),
        ("tied-head-only", Tie::Tied),
        ("gqa-f32", Tie::Untied),
    ] {
        let checkpoint = open(name, None);
        assert_eq!(checkpoint.tie, tie, "{name}");
        let (embedding, head) = (checkpoint.bytes(EMBEDDING).unwrap(), checkpoint.bytes(LM_HEAD).unwrap());
        assert_eq!(embedding == head, tie == Tie::Tied, "{name}");
    }
}

#[test]
fn what_else_the_names_promise() {
    for (name, pad) in [
        ("seqcls-negative-pad", None),
        ("seqcls-no-pad", None),
        ("seqcls-pad", Some(0)),
        ("seqcls-pad-eos", Some(2)),
    ] {
        assert_eq!(open(name, None).config.pad_token_id, pad, "{name}");
    }
    for (name, dtype) in [("mha-f16", DType::F16), ("gqa3-bf16", DType::BF16), ("mha-f32", DType::F32)] {
        assert_eq!(open(name, None).tensor(EMBEDDING).unwrap().dtype, dtype, "{name}");
    }
    assert_eq!(open("eos-list", None).generation.eos_token_ids, [5, 19, 33, 48]);
    assert_eq!(open("sharded-f32", None).files().len(), 3);
    assert_eq!(open("sharded-bf16", None).files().len(), 2);
    let legacy = open("legacy-llama1", None);
    assert!(legacy.ignored.is_empty() && legacy.warnings.is_empty(), "{:?}", legacy.warnings);
}
