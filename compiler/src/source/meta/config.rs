//! The configuration that sizes in Meta's words amount to in Hugging Face's.
//!
//! `params.json` never says everything. What it leaves out is taken from the tensors where they show it, and else from
//! what Meta released: context lengths, token ids and the factor of the scaled rotation are those of the generation that
//! a file can only be of.

use serde_json::{Value, json};

use super::params::Params;
use super::parts::Parts;

/// Rows of the vocabulary of Llama 3, which tells it from the generations before.
const LLAMA3_VOCAB: usize = 128_256;

impl Params {
    /// The `config.json` of the model whose weights are `parts`.
    pub(super) fn config(&self, parts: &Parts, tied: bool, warnings: &mut Vec<String>) -> Vec<u8> {
        let vocab = self.vocab.or(parts.vocab());
        let (bos, eos) = if self.is_llama3(parts) { (128_000, 128_001) } else { (1, 2) };
        let scaling = self.scaled_rope.then(|| {
            // Llama 3.2 came in these two widths, and no other model of theirs scales its rotation.
            let factor = if [2048, 3072].contains(&self.dim) { 32.0 } else { 8.0 };
            warnings.push(format!(
                "params.json does not say by which factor its rotation is scaled: {factor} is taken, as in Llama {}",
                if factor == 32.0 { "3.2" } else { "3.1 and 3.3" }
            ));
            json!({
                "factor": factor, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            })
        });
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "head_dim": self.head_dim(),
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "initializer_range": 0.02,
            "intermediate_size": parts.intermediate().map_or(self.ffn, |n| n as u64),
            "max_position_embeddings": self.context(parts),
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": self.eps,
            "rope_scaling": scaling,
            "rope_theta": self.theta,
            "tie_word_embeddings": tied,
            "torch_dtype": match parts.dtype() { "F16" => "float16", "F32" => "float32", _ => "bfloat16" },
            "use_cache": true,
            "vocab_size": vocab.unwrap_or(32_000),
        });
        text(&config)
    }

    /// The `generation_config.json` of the model. Of the tokens that end a turn of Llama 3's instructed models, its
    /// base models produce none, so that the list serves both.
    pub(super) fn generation(&self, parts: &Parts) -> Vec<u8> {
        text(&match self.is_llama3(parts) {
            true => json!({"bos_token_id": 128_000, "eos_token_id": [128_001, 128_008, 128_009]}),
            false => json!({"bos_token_id": 1, "eos_token_id": 2}),
        })
    }

    fn is_llama3(&self, parts: &Parts) -> bool {
        self.vocab.or(parts.vocab()).is_some_and(|vocab| vocab >= LLAMA3_VOCAB)
    }

    /// The context that a model of this kind was trained for.
    fn context(&self, parts: &Parts) -> u64 {
        match () {
            () if self.scaled_rope => 131_072,
            () if self.is_llama3(parts) => 8192,
            // Code Llama.
            () if self.theta > 10000.0 => 16_384,
            // Only the first generation was published in f16.
            () if parts.dtype() == "F16" => 2048,
            () => 4096,
        }
    }
}

fn text(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("numbers, texts and lists of them are JSON");
    text.push(b'\n');
    text
}
