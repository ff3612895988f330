//! `params.json`: the sizes of a model in Meta's words, and the configuration that they amount to in Hugging Face's.
//!
//! The file never says everything. What it leaves out is taken from the tensors where they show it, and else from what
//! Meta released: context lengths, token ids and the factor of the scaled rotation are those of the generation that a
//! file can only be of.

use llamac_plan::diagnostic::{Code, Diagnostics};
use serde_json::{Map, Value, json};

use super::parts::Parts;
use crate::source::bounds;
use crate::source::json::{self, Fields, Given};

/// Rows of the vocabulary of Llama 3, which tells it from the generations before.
const LLAMA3_VOCAB: usize = 128_256;

/// Members of models that are more than a LLaMA, or have other weights, with what they mean.
const NOT_READ: [(&str, &str); 5] = [
    ("quantization_args", "quantized weights"),
    ("lora_args", "an adapter that is not merged into the weights"),
    ("vision_chunk_size", "a model that sees images"),
    ("vision_num_cross_attention_layers", "a model that sees images"),
    ("moe_args", "a mixture of experts"),
];

/// The members that matter, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Params {
    pub(super) dim: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Where the file says it.
    vocab: Option<usize>,
    /// Width of the feed-forward block by the file's rule; the tensors are right where they differ.
    ffn: u64,
    eps: f64,
    theta: f64,
    pub(super) scaled_rope: bool,
}

impl Params {
    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// All that is wrong in it: values out of range, against each other, and what llamac does not support.
    pub(super) fn parse(file: &str, bytes: &[u8], warnings: &mut Vec<String>) -> Result<Self, Diagnostics> {
        let mut map = json::object(file, bytes)?;
        if let Some(Value::Object(_)) = map.get("model")
            && let Some(Value::Object(inner)) = map.remove("model")
        {
            map = inner;
        }
        // Written for "ask the tokenizer".
        map.retain(|key, value| key != "vocab_size" || value.as_i64() != Some(-1));
        let mut fields = Fields::new(file, &map);
        refuse(&mut fields, &map);
        let f = &mut fields;
        let dim = f.integer("dim", bounds::WIDTH, 4096);
        let layers = f.integer("n_layers", bounds::LAYERS, 32);
        let heads = f.integer("n_heads", bounds::HEADS, 32);
        let kv_heads = f.maybe_integer("n_kv_heads", bounds::HEADS).map(Given::value);
        let kv_heads = kv_heads.and_then(|given| given.or(heads));
        let vocab = f.maybe_integer("vocab_size", bounds::VOCAB).map(Given::value);
        let multiple = f.integer("multiple_of", 1..=1 << 20, 256);
        let multiplier =
            f.maybe_number("ffn_dim_multiplier", "a number from 0 to 100", |x| x > 0.0 && x <= 100.0);
        let eps = f.number("norm_eps", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x), 1e-5);
        let theta = f.number("rope_theta", "a number above 0", |x| x > 0.0, 10000.0);
        let scaled_rope = f.boolean("use_scaled_rope", false);
        if let (Some(dim), Some(heads)) = (dim, heads)
            && (dim % heads != 0 || !(dim / heads).is_multiple_of(2))
        {
            f.fault(Code::InconsistentConfig, "n_heads", |d| {
                d.expected(format!("a divisor of dim {dim} into heads of an even width"))
                    .found(heads.to_string())
            });
        }
        if let (Some(heads), Some(kv_heads)) = (heads, kv_heads)
            && heads % kv_heads != 0
        {
            f.fault(Code::InconsistentConfig, "n_kv_heads", |d| {
                d.expected(format!("a divisor of n_heads {heads}")).found(kv_heads.to_string())
            });
        }
        f.warn_of_misspellings(warnings);
        let faults = fields.faults;
        let params = (|| {
            Some(Self {
                dim: dim? as usize,
                layers: layers? as usize,
                heads: heads? as usize,
                kv_heads: kv_heads? as usize,
                vocab: vocab?.map(|n| n as usize),
                ffn: ffn(dim?, multiplier?.value(), multiple?),
                eps: eps?,
                theta: theta?,
                scaled_rope: scaled_rope?,
            })
        })();
        match params {
            Some(params) if faults.is_empty() => Ok(params),
            _ => Err(faults),
        }
    }

    /// Width of a head.
    pub(super) fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

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

/// Refuses models that are more than a LLaMA.
fn refuse(fields: &mut Fields<'_>, map: &Map<String, Value>) {
    for (key, what) in NOT_READ {
        if map.get(key).is_some_and(|value| !value.is_null()) {
            fields.fault(Code::UnsupportedConfig, key, |d| {
                d.message(format!("{what} cannot be read"))
                    .help("use a model of plain weights, in bf16 or f16")
            });
        }
    }
}

/// Width of the feed-forward block: two thirds of four times `dim`, times a factor, up to the next multiple.
fn ffn(dim: u64, multiplier: Option<f64>, multiple: u64) -> u64 {
    let width = 8 * dim / 3;
    let width = multiplier.map_or(width, |multiplier| (multiplier * width as f64) as u64);
    width.next_multiple_of(multiple)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_of_the_published_models() {
        for (dim, multiplier, multiple, width) in [
            (4096, None, 256, 11008),
            (5120, None, 256, 13824),
            (6656, None, 256, 17920),
            (8192, None, 256, 22016),
            (8192, Some(1.3), 4096, 28672),
            (4096, Some(1.3), 1024, 14336),
            (16384, Some(1.2), 4096, 53248),
            (2048, Some(1.5), 256, 8192),
            (3072, Some(1.0), 256, 8192),
        ] {
            assert_eq!(ffn(dim, multiplier, multiple), width, "{dim}");
        }
    }

    fn parse(text: &str) -> Result<Params, Diagnostics> {
        Params::parse("params.json", text.as_bytes(), &mut Vec::new())
    }

    #[test]
    fn files_of_every_generation_are_read() {
        let first = parse(
            r#"{"dim": 8192, "multiple_of": 256, "n_heads": 64, "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1}"#,
        )
        .unwrap();
        assert_eq!((first.kv_heads, first.vocab, first.ffn, first.theta), (64, None, 22016, 10000.0));
        let third = parse(
            r#"{"model": {"dim": 2048, "ffn_dim_multiplier": 1.5, "multiple_of": 256, "n_heads": 32,
                "n_kv_heads": 8, "n_layers": 16, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": true,
                "vocab_size": 128256}}"#,
        )
        .unwrap();
        assert_eq!(
            (third.kv_heads, third.vocab, third.ffn, third.scaled_rope),
            (8, Some(128256), 8192, true)
        );
        assert_eq!(parse(r#"{"n_kv_heads": null}"#).unwrap().kv_heads, 32);
    }

    #[test]
    fn faults_come_together() {
        let faults =
            parse(r#"{"dim": 100, "n_heads": 8, "n_kv_heads": 3, "norm_eps": "x", "quantization_args": {}}"#);
        let codes: Vec<Code> = faults.unwrap_err().iter().map(|fault| fault.code).collect();
        use Code::*;
        assert_eq!(codes, [UnsupportedConfig, BadConfigValue, InconsistentConfig, InconsistentConfig]);
    }
}
