//! Names of tensors: what training code wrapped around them is taken off, and what is left is one name a tensor.
//!
//! The canonical names are those of `LlamaForCausalLM` and its siblings, with the prefix `model.` for the trunk. Meta's
//! names for the same tensors are here, too.

use llamac_ir::Permutation;

use super::config::Config;

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
pub(super) const WRAPPERS: [&str; 5] =
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
pub(super) const HEADS: [&str; 5] = [LM_HEAD, SCORE, SCORE_BIAS, QA_OUTPUTS, QA_OUTPUTS_BIAS];

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
    if !is_number(layer) {
        return false;
    }
    match rest.rsplit_once('.') {
        Some(("input_layernorm" | "post_attention_layernorm", "weight")) => true,
        Some((projection, "weight" | "bias")) => PROJECTIONS.contains(&projection),
        _ => false,
    }
}

/// Whether `text` is a number in the spelling that it prints as: `01` and `+1` would be second names of layer 1.
fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok_and(|n| n.to_string() == text)
}

/// What a tensor's name in Meta's files says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MetaMeaning {
    /// A tensor of the model, by its canonical name, and how it is cut; of the embedding, its shape tells.
    Model {
        /// The canonical name.
        name: String,
        /// How it is cut among files.
        split: Option<Split>,
    },
    /// Something that is computed and not learned.
    Buffer,
    /// Nothing that a LLaMA model has.
    Unknown,
}

/// How a tensor is cut among the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Each file has some of its rows.
    Rows,
    /// Each file has some of its columns.
    Columns,
    /// Each file has all of it.
    Copied,
}

/// Tensors outside of layers: Meta's names, the canonical ones, and how they are cut.
const META_MODEL: [(&str, &str, Option<Split>); 3] = [
    ("tok_embeddings.weight", EMBEDDING, None),
    ("output.weight", LM_HEAD, Some(Split::Rows)),
    ("norm.weight", NORM, Some(Split::Copied)),
];

/// Tensors within a layer, likewise.
const META_LAYER: [(&str, &str, Split); 9] = [
    ("attention.wq.weight", "self_attn.q_proj.weight", Split::Rows),
    ("attention.wk.weight", "self_attn.k_proj.weight", Split::Rows),
    ("attention.wv.weight", "self_attn.v_proj.weight", Split::Rows),
    ("attention.wo.weight", "self_attn.o_proj.weight", Split::Columns),
    ("feed_forward.w1.weight", "mlp.gate_proj.weight", Split::Rows),
    ("feed_forward.w2.weight", "mlp.down_proj.weight", Split::Columns),
    ("feed_forward.w3.weight", "mlp.up_proj.weight", Split::Rows),
    ("attention_norm.weight", "input_layernorm.weight", Split::Copied),
    ("ffn_norm.weight", "post_attention_layernorm.weight", Split::Copied),
];

/// Reads the name of a tensor in Meta's files.
pub(super) fn meta(stored: &str) -> MetaMeaning {
    if stored == "rope.freqs" || stored.ends_with(".rope.freqs") {
        return MetaMeaning::Buffer;
    }
    if let Some((_, name, split)) = META_MODEL.into_iter().find(|(meta, ..)| *meta == stored) {
        return MetaMeaning::Model { name: name.to_owned(), split };
    }
    let in_layer = stored.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    let found = in_layer.and_then(|(layer, rest)| {
        let (_, name, split) = META_LAYER.into_iter().find(|(meta, ..)| *meta == rest)?;
        is_number(layer).then(|| (format!("model.layers.{layer}.{name}"), split))
    });
    match found {
        Some((name, split)) => MetaMeaning::Model { name, split: Some(split) },
        None => MetaMeaning::Unknown,
    }
}

/// Meta's name of the tensor that `canonical` names.
pub(super) fn to_meta(canonical: &str) -> Option<String> {
    if let Some((meta, ..)) = META_MODEL.into_iter().find(|(_, name, _)| *name == canonical) {
        return Some(meta.to_owned());
    }
    let (layer, rest) = layer(canonical)?;
    let (meta, ..) = META_LAYER.into_iter().find(|(_, name, _)| *name == rest)?;
    Some(format!("layers.{layer}.{meta}"))
}

/// The order of rows that turns a projection of Meta's, or its bias, into one of Hugging Face's, for those whose rows are
/// rotated.
pub(super) fn rotary_heads(canonical: &str, config: &Config) -> Option<Permutation> {
    let heads = match layer(canonical)?.1 {
        "self_attn.q_proj.weight" | "self_attn.q_proj.bias" => config.num_attention_heads,
        "self_attn.k_proj.weight" | "self_attn.k_proj.bias" => config.num_key_value_heads,
        _ => return None,
    };
    Some(Permutation::InterleavedToHalf { heads, head_dim: config.head_dim })
}

/// Whether a tensor is the projection to keys or to values.
pub(super) fn is_key_or_value(canonical: &str) -> bool {
    layer(canonical)
        .is_some_and(|(_, rest)| ["self_attn.k_proj.weight", "self_attn.v_proj.weight"].contains(&rest))
}

/// The layer of a canonical name, if it is in one, and the rest of the name.
pub(super) fn layer(canonical: &str) -> Option<(usize, &str)> {
    let (layer, rest) = canonical.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// The layer that a canonical name is in, if it is in one.
pub(crate) fn layer_of(canonical: &str) -> Option<usize> {
    Some(layer(canonical)?.0)
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
    fn names_of_meta_come_back() {
        for name in [
            "model.layers.12.mlp.up_proj.weight",
            "model.layers.0.self_attn.o_proj.weight",
            "model.layers.3.post_attention_layernorm.weight",
            EMBEDDING,
            LM_HEAD,
            NORM,
        ] {
            let stored = to_meta(name).unwrap();
            let MetaMeaning::Model { name: found, .. } = meta(&stored) else { panic!("{stored}") };
            assert_eq!(found, name);
        }
        assert_eq!(
            to_meta("model.layers.12.mlp.up_proj.weight").unwrap(),
            "layers.12.feed_forward.w3.weight"
        );
        for name in ["rope.freqs", "layers.0.attention.inner_attention.rope.freqs"] {
            assert_eq!(meta(name), MetaMeaning::Buffer);
        }
        for name in ["layers.01.ffn_norm.weight", "layers.0.ffn_norm.bias", "layers.0.attention.wq", "embed"]
        {
            assert_eq!(meta(name), MetaMeaning::Unknown, "{name}");
        }
    }

    #[test]
    fn layers_are_read_back() {
        assert_eq!(layer("model.layers.12.mlp.up_proj.bias"), Some((12, "mlp.up_proj.bias")));
        assert_eq!(layer("model.norm.weight"), None);
    }
}
