//! Names of tensors: what training code wrapped around them is taken off, and what is left is one name a tensor.
//!
//! The canonical names are those of `LlamaForCausalLM` and its siblings, with the prefix `model.` for the trunk.

/// The input embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The final norm.
pub const NORM: &str = "model.norm.weight";
/// The output embedding of a causal language model.
pub const LM_HEAD: &str = "lm_head.weight";
/// The rows of a classifier's classes.
pub const SCORE: &str = "score.weight";
/// What a token classifier adds to its scores.
pub const SCORE_BIAS: &str = "score.bias";
/// The two rows of an answer's start and end.
pub const QA_OUTPUTS: &str = "qa_outputs.weight";
/// What is added to the scores of an answer's start and end.
pub const QA_OUTPUTS_BIAS: &str = "qa_outputs.bias";

/// What a tensor's name says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A tensor of a LLaMA model, by its canonical name.
    Model(String),
    /// Something that is computed and not learned, stored by old converters.
    Buffer,
    /// A part of a LoRA adapter, which changes the model's weights and is not merged into them.
    Adapter,
    /// Nothing that a LLaMA model has.
    Unknown,
}

/// Module names that wrappers insert: DDP, `torch.compile`, FSDP, activation checkpointing, PEFT.
const WRAPPERS: [&str; 5] =
    ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"];

/// Tensors within a layer, all with a `weight`, and these also with a `bias`.
const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Tensors of heads.
const HEADS: [&str; 5] = [LM_HEAD, SCORE, SCORE_BIAS, QA_OUTPUTS, QA_OUTPUTS_BIAS];

/// Ends of names of buffers.
const BUFFERS: [&str; 6] = [
    "rotary_emb.inv_freq",
    "rotary_emb.original_inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    "attn.masked_bias",
    "attn.bias",
];

/// Reads the name of a stored tensor.
pub(super) fn meaning(stored: &str) -> Meaning {
    let name = stored.strip_prefix("base_model.model.").unwrap_or(stored);
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    if parts.iter().any(|part| part.starts_with("lora_")) {
        return Meaning::Adapter;
    }
    let name = parts.join(".");
    if BUFFERS.iter().any(|buffer| {
        name.strip_suffix(buffer).is_some_and(|rest| rest.ends_with(['.', '_']) || rest.is_empty())
    }) {
        return Meaning::Buffer;
    }
    if HEADS.contains(&name.as_str()) {
        return Meaning::Model(name);
    }
    // `transformer.` is the trunk's name in LlamaForQuestionAnswering; a bare LlamaModel has no prefix.
    let trunk =
        ["model.", "transformer."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
    if is_trunk(trunk) { Meaning::Model(format!("model.{trunk}")) } else { Meaning::Unknown }
}

fn is_trunk(name: &str) -> bool {
    if matches!(name, "embed_tokens.weight" | "norm.weight") {
        return true;
    }
    let Some((layer, rest)) = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    // Only the spelling that a number prints as: `01` and `+1` would be second names of layer 1.
    if !layer.parse::<u32>().is_ok_and(|n| n.to_string() == layer) {
        return false;
    }
    match rest.rsplit_once('.') {
        Some(("input_layernorm" | "post_attention_layernorm", "weight")) => true,
        Some((projection, "weight" | "bias")) => PROJECTIONS.contains(&projection),
        _ => false,
    }
}

/// The layer of a canonical name, if it is in one, and the rest of the name.
pub(super) fn layer(canonical: &str) -> Option<(usize, &str)> {
    let (layer, rest) = canonical.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_and_prefixes_come_off() {
        let q = "model.layers.3.self_attn.q_proj.weight";
        for name in [
            q,
            "layers.3.self_attn.q_proj.weight",
            "transformer.layers.3.self_attn.q_proj.weight",
            "module.model.layers.3.self_attn.q_proj.weight",
            "module.module.model.layers.3.self_attn.q_proj.weight",
            "_orig_mod.model.layers.3.self_attn.q_proj.weight",
            "model._orig_mod.layers.3.self_attn.q_proj.weight",
            "_orig_mod.module.model.layers.3.self_attn.q_proj.weight",
            "_fsdp_wrapped_module.model.layers.3._fsdp_wrapped_module.self_attn.q_proj.weight",
            "model.layers.3._checkpoint_wrapped_module.self_attn.q_proj.weight",
            "base_model.model.model.layers.3.self_attn.q_proj.base_layer.weight",
            "base_model.model.layers.3.self_attn.q_proj.weight",
        ] {
            assert_eq!(meaning(name), Meaning::Model(q.to_owned()), "{name}");
        }
    }

    #[test]
    fn every_tensor_has_a_canonical_name() {
        for (name, canonical) in [
            ("embed_tokens.weight", "model.embed_tokens.weight"),
            ("transformer.norm.weight", "model.norm.weight"),
            ("lm_head.weight", "lm_head.weight"),
            ("module.score.weight", "score.weight"),
            ("qa_outputs.bias", "qa_outputs.bias"),
            ("model.layers.0.mlp.down_proj.bias", "model.layers.0.mlp.down_proj.bias"),
            ("layers.12.post_attention_layernorm.weight", "model.layers.12.post_attention_layernorm.weight"),
        ] {
            assert_eq!(meaning(name), Meaning::Model(canonical.to_owned()), "{name}");
        }
    }

    #[test]
    fn buffers_adapters_and_strangers_are_told_apart() {
        for name in [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.rotary_emb.inv_freq",
            "model.layers.1.self_attn.rotary_emb.cos_cached",
            "model.layers.1.self_attn.masked_bias",
        ] {
            assert_eq!(meaning(name), Meaning::Buffer, "{name}");
        }
        assert_eq!(
            meaning("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"),
            Meaning::Adapter
        );
        for name in [
            "",
            ".",
            "model",
            "v_head.weight",
            "model.layers.01.input_layernorm.weight",
            "model.layers.+1.input_layernorm.weight",
            "model.layers.-1.input_layernorm.weight",
            "model.layers.99999999999.input_layernorm.weight",
            "model.layers.0.input_layernorm.bias",
            "model.layers.0.self_attn.q_norm.weight",
            "model.lm_head.bias",
        ] {
            assert_eq!(meaning(name), Meaning::Unknown, "{name}");
        }
    }

    #[test]
    fn layers_are_read_back() {
        assert_eq!(layer("model.layers.12.mlp.up_proj.bias"), Some((12, "mlp.up_proj.bias")));
        assert_eq!(layer("model.norm.weight"), None);
    }
}
