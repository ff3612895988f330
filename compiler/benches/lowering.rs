//! The time from a checkpoint to a legal graph: `cargo bench -p llamac-compiler`.
//!
//! The model is as deep as the largest LLaMA and has tiny weights, so that only the graph's work counts. Passes verify
//! the whole graph after each sweep over it; `verify` is one such verification of the graph that they begin with.

use std::fs;

use divan::Bencher;
use llamac_compiler::driver;
use llamac_compiler::model::{self, ModelOptions};
use llamac_compiler::passes;
use llamac_compiler::source::Checkpoint;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const LAYERS: usize = 126;

fn main() {
    divan::main();
}

/// A checkpoint of [`LAYERS`] layers of width 4.
fn checkpoint() -> Checkpoint {
    let folder = tempfile::tempdir().expect("there is room");
    let config = format!(
        r#"{{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 4, "hidden_size": 4,
        "intermediate_size": 4, "num_attention_heads": 2, "num_hidden_layers": {LAYERS}}}"#
    );
    fs::write(folder.path().join("config.json"), config).expect("there is room");
    let mut names = vec![
        ("model.embed_tokens".to_owned(), vec![4, 4]),
        ("model.norm".to_owned(), vec![4]),
        ("lm_head".to_owned(), vec![4, 4]),
    ];
    for n in 0..LAYERS {
        let norms = ["input_layernorm", "post_attention_layernorm"].map(|name| (name, vec![4]));
        let attention = ["q", "k", "v", "o"].map(|name| format!("self_attn.{name}_proj"));
        let mlp = ["gate", "up", "down"].map(|name| format!("mlp.{name}_proj"));
        let matrices = attention.iter().chain(&mlp).map(|name| (name.as_str(), vec![4, 4]));
        names.extend(
            norms
                .into_iter()
                .chain(matrices)
                .map(|(name, shape)| (format!("model.layers.{n}.{name}"), shape)),
        );
    }
    let data = [0; 64];
    let views = names.into_iter().map(|(name, shape)| {
        let bytes = &data[..4 * shape.iter().product::<usize>()];
        (format!("{name}.weight"), TensorView::new(Dtype::F32, shape, bytes).expect("the bytes fit"))
    });
    let bytes = safetensors::serialize(views, None).expect("the tensors are sound");
    fs::write(folder.path().join("model.safetensors"), bytes).expect("there is room");
    Checkpoint::open(folder.path(), None).expect("the checkpoint is sound")
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn build(bencher: Bencher<'_, '_>) {
    let checkpoint = checkpoint();
    let options = ModelOptions { hidden_states: true, ..ModelOptions::default() };
    bencher.bench_local(|| model::build(&checkpoint, &options).expect("it builds"));
}

#[divan::bench(sample_count = 10, sample_size = 10)]
fn verify(bencher: Bencher<'_, '_>) {
    let options = ModelOptions { hidden_states: true, ..ModelOptions::default() };
    let graph = model::build(&checkpoint(), &options).expect("it builds");
    bencher.bench_local(|| graph.verify().expect("it is valid"));
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn lower(bencher: Bencher<'_, '_>) {
    let checkpoint = checkpoint();
    bencher.bench_local(|| driver::lower(&checkpoint, &passes::Options::default()).expect("it lowers"));
}
