//! Names of tensors in GGUF files, and the canonical ones.

use crate::source::names::{self, EMBEDDING, LM_HEAD, NORM};

/// Divisors of the rotary frequencies.
pub(super) const FREQUENCIES: &str = "rope_freqs.weight";
/// Divisors for short sequences, and for long ones.
pub(super) const FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// What a tensor's name says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A tensor of the model, by its canonical name.
    Model(String),
    /// Divisors, which are a part of the configuration.
    Divisors,
    /// A part of a mixture of experts.
    Expert,
    /// Nothing that a LLaMA model has.
    Unknown,
}

/// Tensors outside of layers.
const MODEL: [(&str, &str); 3] =
    [("token_embd.weight", EMBEDDING), ("output_norm.weight", NORM), ("output.weight", LM_HEAD)];

/// Modules within a layer.
const LAYER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Reads the name of a stored tensor.
pub(super) fn meaning(stored: &str) -> Meaning {
    if let Some((_, name)) = MODEL.iter().find(|(gguf, _)| *gguf == stored) {
        return Meaning::Model((*name).to_owned());
    }
    if stored == FREQUENCIES || FACTORS.contains(&stored) {
        return Meaning::Divisors;
    }
    in_layer(stored).unwrap_or(Meaning::Unknown)
}

fn in_layer(stored: &str) -> Option<Meaning> {
    let (layer, rest) = stored.strip_prefix("blk.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    // `01` and `+1` would be second names of layer 1.
    let number = layer.parse::<u32>().ok().filter(|n| n.to_string() == layer)?;
    if module == "ffn_gate_inp" || module.ends_with("_exps") || module.ends_with("_shexp") {
        return Some(Meaning::Expert);
    }
    let (_, canonical) = LAYER.iter().find(|(gguf, _)| *gguf == module)?;
    let known = kind == "weight" || kind == "bias" && !canonical.ends_with("layernorm");
    known.then(|| Meaning::Model(format!("model.layers.{number}.{canonical}.{kind}")))
}

/// The name in GGUF files of the tensor that `canonical` names.
pub(super) fn to_gguf(canonical: &str) -> Option<String> {
    if let Some((gguf, _)) = MODEL.iter().find(|(_, name)| *name == canonical) {
        return Some((*gguf).to_owned());
    }
    let (layer, rest) = names::layer(canonical)?;
    let (module, kind) = rest.rsplit_once('.')?;
    let (gguf, _) = LAYER.iter().find(|(_, name)| *name == module)?;
    Some(format!("blk.{layer}.{gguf}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for name in [
            "model.layers.12.mlp.up_proj.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "model.layers.3.post_attention_layernorm.weight",
            EMBEDDING,
            LM_HEAD,
            NORM,
        ] {
            assert_eq!(meaning(&to_gguf(name).unwrap()), Meaning::Model(name.to_owned()));
        }
        assert_eq!(to_gguf("model.layers.12.mlp.up_proj.weight").unwrap(), "blk.12.ffn_up.weight");
    }

    #[test]
    fn what_is_no_weight_is_told_apart() {
        assert_eq!(meaning("rope_freqs.weight"), Meaning::Divisors);
        for name in ["blk.0.ffn_gate_exps.weight", "blk.3.ffn_gate_inp.weight", "blk.1.ffn_up_shexp.weight"] {
            assert_eq!(meaning(name), Meaning::Expert, "{name}");
        }
        for name in
            ["blk.01.attn_q.weight", "blk.0.attn_norm.bias", "blk.0.attn_q", "attn_q.weight", "blk..x.y"]
        {
            assert_eq!(meaning(name), Meaning::Unknown, "{name}");
        }
    }
}
