//! `params.json`: the sizes of a model in Meta's words.

use llamac_plan::diagnostic::{Code, Diagnostics};
use serde_json::{Map, Value};

use crate::source::bounds;
use crate::source::json::{self, Fields, Given};

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
    pub(super) vocab: Option<usize>,
    /// Width of the feed-forward block by the file's rule; the tensors are right where they differ.
    pub(super) ffn: u64,
    pub(super) eps: f64,
    pub(super) theta: f64,
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
