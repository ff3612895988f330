//! The configuration that the metadata amounts to, in Hugging Face's words.

use std::f64::consts::TAU;

use llamac_plan::diagnostic::{Code, Diagnostic};
use serde_json::{Value as Json, json};

use super::keys::{Keys, Kind};
use super::tokenizer::Tokens;

/// The divisors of rotary frequencies that a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Divisors {
    /// For sequences of any length.
    pub(super) all: Option<Vec<f32>>,
    /// For short sequences, and for long ones.
    pub(super) by_length: Option<[Vec<f32>; 2]>,
}

/// What the tensors say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Rows of the embeddings.
    pub(super) vocab: u64,
    pub(super) tied: bool,
    pub(super) attention_bias: bool,
    pub(super) mlp_bias: bool,
    /// The type of most numbers, by its name in `config.json`.
    pub(super) dtype: &'static str,
}

/// The text of `config.json`; `file` is what messages call the file.
///
/// # Errors
/// Where divisors of frequencies do not go with the rest.
pub(super) fn config(
    file: &str,
    keys: &Keys,
    divisors: &Divisors,
    seen: Seen,
    tokens: &Tokens,
) -> Result<Vec<u8>, Diagnostic> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": seen.attention_bias,
        "attention_dropout": 0.0,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
        "head_dim": keys.head_dim,
        "hidden_act": "silu",
        "hidden_size": keys.hidden,
        "initializer_range": 0.02,
        "intermediate_size": keys.intermediate,
        "max_position_embeddings": keys.context,
        "mlp_bias": seen.mlp_bias,
        "model_type": "llama",
        "num_attention_heads": keys.heads,
        "num_hidden_layers": keys.layers,
        "num_key_value_heads": keys.kv_heads,
        "pad_token_id": tokens.pad,
        "pretraining_tp": 1,
        "rms_norm_eps": keys.eps,
        "rope_scaling": rope_scaling(file, keys, divisors)?,
        "rope_theta": keys.theta,
        "tie_word_embeddings": seen.tied,
        "torch_dtype": seen.dtype,
        "use_cache": true,
        "vocab_size": seen.vocab,
    });
    Ok(text(&config))
}

/// The text of `generation_config.json`.
pub(super) fn generation(tokens: &Tokens) -> Vec<u8> {
    let mut config = json!({"bos_token_id": tokens.bos, "eos_token_id": tokens.ends});
    if let Some(pad) = tokens.pad {
        config["pad_token_id"] = pad.into();
    }
    text(&config)
}

fn text(value: &Json) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("numbers, texts and lists of them are JSON");
    text.push(b'\n');
    text
}

fn rope_scaling(file: &str, keys: &Keys, divisors: &Divisors) -> Result<Json, Diagnostic> {
    let scaling = &keys.scaling;
    let original = scaling.original.unwrap_or(keys.context);
    if let Some(divisors) = &divisors.all {
        if scaling.kind != Kind::None {
            return Err(Diagnostic::new(Code::UnsupportedConfig)
                .at(format!("{file}: {}", super::names::FREQUENCIES))
                .message("frequencies are scaled by divisors and by a rule, too")
                .expected("llama.rope.scaling.type \"none\", or no such tensor"));
        }
        return Ok(by_divisors(keys, divisors));
    }
    Ok(match scaling.kind {
        Kind::None => Json::Null,
        Kind::Linear => json!({"factor": scaling.factor, "rope_type": "linear"}),
        Kind::Yarn => {
            // llama.cpp multiplies its own factor by the attention factor of the rule.
            let rule = 0.1 * scaling.factor.max(1.0).ln() + 1.0;
            json!({
                "attention_factor": scaling.attention * rule, "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow, "factor": scaling.factor,
                "original_max_position_embeddings": original, "rope_type": "yarn",
            })
        }
        Kind::LongRope => {
            let [short, long] = divisors.by_length.as_ref().ok_or_else(|| {
                let [short, long] = super::names::FACTORS;
                Diagnostic::new(Code::MissingTensor)
                    .at(format!("{file}: {short}"))
                    .message(format!("llama.rope.scaling.type longrope takes {short} and {long}"))
            })?;
            longrope([short, long], original, scaling.attention)
        }
    })
}

fn longrope([short, long]: [&[f32]; 2], original: u64, attention: f64) -> Json {
    json!({
        "attention_factor": attention, "long_factor": long, "original_max_position_embeddings": original,
        "rope_type": "longrope", "short_factor": short,
    })
}

/// Scaling by given divisors: by the rule of Llama 3.1 where it gives these, and else as a LongRoPE with one list for all
/// lengths.
fn by_divisors(keys: &Keys, divisors: &[f32]) -> Json {
    // What converters write the divisors of; only the factor differs among released models.
    let (low, high, original) = (1.0, 4.0, keys.scaling.original.unwrap_or(8192));
    let factor = divisors.iter().fold(1f32, |most, x| most.max(*x));
    let rule = llama3(keys, f64::from(factor), low, high, original as f64);
    let fits = rule.zip(divisors).all(|(rule, found)| (rule - f64::from(*found)).abs() <= 2e-6 * rule);
    match fits {
        true => json!({
            "factor": factor, "high_freq_factor": high, "low_freq_factor": low,
            "original_max_position_embeddings": original, "rope_type": "llama3",
        }),
        false => longrope([divisors, divisors], keys.context, 1.0),
    }
}

/// The divisors of the rule of Llama 3.1.
fn llama3(keys: &Keys, factor: f64, low: f64, high: f64, original: f64) -> impl Iterator<Item = f64> {
    let (theta, head_dim) = (keys.theta, keys.head_dim);
    (0..head_dim / 2).map(move |i| {
        let wavelength = TAU * theta.powf((2 * i) as f64 / head_dim as f64);
        let smooth = (original / wavelength - low) / (high - low);
        match () {
            () if wavelength < original / high => 1.0,
            () if wavelength > original / low => factor,
            () => 1.0 / ((1.0 - smooth) / factor + smooth),
        }
    })
}
