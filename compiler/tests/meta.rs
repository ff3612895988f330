//! The same weights in every container and layout are the same bits.

use std::fs;
use std::path::{Path, PathBuf};

use llamac_compiler::source::{Checkpoint, Tie};
use llamac_compiler::weights::{Block, WeightReader};

/// Models, and the layouts that hold their weights beside `model.safetensors`.
const LAYOUTS: [(&str, &[&str]); 4] = [
    ("llama1-f16", &["mp1", "mp2", "mp8", "mp2-legacy"]),
    ("llama2-bf16", &["mp4", "mp2-views", "bin", "bin-sharded", "bin-legacy", "bin-views"]),
    ("llama3-bf16", &["mp1", "mp2", "mp4", "mp8-copies"]),
    ("tied-f32", &["mp2", "mp1-legacy"]),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/meta")
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(folder().join(name), None).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The bytes of each weight, by name.
fn bits(checkpoint: &Checkpoint) -> Vec<(String, String, Vec<u8>)> {
    let reader = WeightReader::new(checkpoint);
    let read = |(name, weight): (&String, &llamac_ir::Weight)| {
        let mut bytes = vec![0; weight.elements() * weight.dtype().size()];
        reader.read(weight, &Block::whole(weight), weight.dtype(), &mut bytes).unwrap();
        (name.clone(), weight.ty().to_string(), bytes)
    };
    checkpoint.weights.iter().map(read).collect()
}

#[test]
fn every_layout_gives_the_original_bits() {
    let mut folders: Vec<String> = Vec::new();
    for (model, layouts) in LAYOUTS {
        let original = open(model);
        assert_eq!(original.files().len(), 1);
        folders.push(model.to_owned());
        for layout in layouts {
            let name = format!("{model}-{layout}");
            let checkpoint = open(&name);
            // Meta's files hold a tied matrix twice.
            let twice: &[&str] = if checkpoint.tie == Tie::Tied { &["output.weight"] } else { &[] };
            assert_eq!(checkpoint.ignored, twice, "{name}");
            assert!(checkpoint.warnings.is_empty(), "{name}: {:?}", checkpoint.warnings);
            for (found, expected) in bits(&checkpoint).into_iter().zip(bits(&original)) {
                assert!(
                    found == expected,
                    "{name}: {} {} and {} {}",
                    found.0,
                    found.1,
                    expected.0,
                    expected.1
                );
            }
            assert_eq!(checkpoint.weights.len(), original.weights.len(), "{name}");
            folders.push(name);
        }
    }
    folders.sort();
    let mut there: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(folders, there, "no layout is left out");
}

#[test]
fn parameters_become_the_configuration_of_the_original() {
    for (model, layouts) in LAYOUTS {
        let original = open(model);
        for layout in layouts.iter().filter(|layout| layout.starts_with("mp")) {
            let found = open(&format!("{model}-{layout}"));
            let (found, expected) = (found.config, &original.config);
            let sizes = |c: &llamac_compiler::source::Config| {
                [
                    c.vocab_size,
                    c.hidden_size,
                    c.intermediate_size,
                    c.num_hidden_layers,
                    c.num_attention_heads,
                    c.num_key_value_heads,
                    c.head_dim,
                ]
            };
            assert_eq!(sizes(&found), sizes(expected), "{model}-{layout}");
            assert_eq!((found.rms_norm_eps, &found.rope), (expected.rms_norm_eps, &expected.rope));
            assert_eq!((found.bos_token_id, &found.eos_token_ids), (Some(1), &vec![2]));
            assert_eq!(found.tie_word_embeddings, expected.tie_word_embeddings);
        }
    }
    assert_eq!(open("tied-f32-mp2").tie, Tie::Tied);
    assert_eq!(open("llama1-f16-mp1").config.max_position_embeddings, 2048);
    assert_eq!(open("llama2-bf16-mp4").config.max_position_embeddings, 4096);
}

#[test]
fn recipes_read_as_what_they_are() {
    let checkpoint = open("llama1-f16-mp2");
    let recipe = |name: &str| checkpoint.weights[name].to_string();
    assert_eq!(
        recipe("model.layers.1.self_attn.k_proj.weight"),
        "interleaved_to_half(concat(@model.layers.1.self_attn.k_proj.weight.00, \
         @model.layers.1.self_attn.k_proj.weight.01), heads=8, head_dim=4)"
    );
    assert_eq!(
        recipe("model.embed_tokens.weight"),
        "concat_columns(@model.embed_tokens.weight.00, @model.embed_tokens.weight.01)"
    );
    assert_eq!(recipe("model.norm.weight"), "@model.norm.weight");
    let tensor = checkpoint.tensor("model.layers.1.self_attn.k_proj.weight.01").unwrap();
    assert_eq!(
        (&*tensor.file, tensor.stored_name.as_str()),
        ("consolidated.01.pth", "layers.1.attention.wk.weight")
    );
    assert_eq!(
        open("llama3-bf16-mp8-copies").weights["model.layers.0.self_attn.v_proj.weight"].to_string(),
        "concat(@model.layers.0.self_attn.v_proj.weight.00, @model.layers.0.self_attn.v_proj.weight.02, \
         @model.layers.0.self_attn.v_proj.weight.04, @model.layers.0.self_attn.v_proj.weight.06)"
    );
}
