//! Checkpoints for tests: small directories that a test writes, spoils and opens.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor to write: its dtype, its shape and its bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// A bf16 tensor whose bytes count from `seed`.
pub fn tensor(shape: &[usize], seed: u8) -> Tensor {
    let length = shape.iter().product::<usize>() * 2;
    let bytes = (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
    (Dtype::BF16, shape.to_vec(), bytes)
}

/// A configuration of two layers: hidden size 8, two heads of 4, one key and value head, vocabulary 10.
pub fn config() -> Value {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 10, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 64, "tie_word_embeddings": false, "eos_token_id": 2,
    })
}

/// The tensors that [`config`] calls for.
pub fn tensors() -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    let mut seed = 0;
    let mut add = |name: String, shape: &[usize]| {
        seed += 1;
        all.insert(name, tensor(shape, seed));
    };
    add("model.embed_tokens.weight".to_owned(), &[10, 8]);
    for n in 0..2 {
        for (name, shape) in [
            ("input_layernorm", &[8][..]),
            ("self_attn.q_proj", &[8, 8]),
            ("self_attn.k_proj", &[4, 8]),
            ("self_attn.v_proj", &[4, 8]),
            ("self_attn.o_proj", &[8, 8]),
            ("post_attention_layernorm", &[8]),
            ("mlp.gate_proj", &[12, 8]),
            ("mlp.up_proj", &[12, 8]),
            ("mlp.down_proj", &[8, 12]),
        ] {
            add(format!("model.layers.{n}.{name}.weight"), shape);
        }
    }
    add("model.norm.weight".to_owned(), &[8]);
    add("lm_head.weight".to_owned(), &[10, 8]);
    all
}

/// Writes one safetensors file.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("the bytes fit the shape"))
    });
    let bytes = safetensors::serialize(views, None).expect("the tensors are sound");
    fs::write(path, bytes).expect("the directory can be written");
}

/// Writes a checkpoint of one file.
pub fn checkpoint(config: &Value, tensors: &BTreeMap<String, Tensor>) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("config.json"), config.to_string())
        .expect("the directory can be written");
    write_tensors(&directory.path().join("model.safetensors"), tensors);
    directory
}

/// Writes a checkpoint of two files and an index: the second holds the last layer, the norm and the head.
pub fn sharded(config: &Value, tensors: &BTreeMap<String, Tensor>) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    fs::write(path.join("config.json"), config.to_string()).expect("the directory can be written");
    let in_first = |name: &str| name.contains("embed_tokens") || name.contains("layers.0");
    let (first, second): (BTreeMap<_, _>, BTreeMap<_, _>) =
        tensors.clone().into_iter().partition(|(name, _)| in_first(name));
    let mut map = serde_json::Map::new();
    for (file, tensors) in
        [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)]
    {
        write_tensors(&path.join(file), &tensors);
        map.extend(tensors.keys().map(|name| (name.clone(), json!(file))));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(path.join("model.safetensors.index.json"), index.to_string())
        .expect("the directory can be written");
    directory
}
