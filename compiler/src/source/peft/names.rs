//! Names of an adapter's tensors: which module they change, and how.
//!
//! PEFT puts `base_model.model.` in front and, within a module, the name of the adapter behind the part: files have been
//! saved with and without either, and with copies of what was not trained.

use super::super::names;

/// A tensor of what is added to a module, or of the rows that are replaced in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// `[rank, in]` of a projection.
    A,
    /// `[out, rank]` of a projection.
    B,
    /// `[rank, vocabulary]` of an embedding.
    EmbeddingA,
    /// `[width, rank]` of an embedding.
    EmbeddingB,
    /// What the projection to `out` adds: `[out]`.
    Bias,
    /// Lengths of rows: `[out]`.
    Magnitude,
    /// Rows of an embedding: `[rows, width]`.
    Tokens,
}

impl Part {
    /// The parts of a low-rank sum; without them there are rows only.
    pub const SUMS: [Self; 6] =
        [Self::A, Self::B, Self::EmbeddingA, Self::EmbeddingB, Self::Bias, Self::Magnitude];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "lora_A.weight",
            Self::B => "lora_B.weight",
            Self::EmbeddingA => "lora_embedding_A",
            Self::EmbeddingB => "lora_embedding_B",
            Self::Bias => "lora_B.bias",
            Self::Magnitude => "lora_magnitude_vector",
            Self::Tokens => "token_adapter.trainable_tokens_delta",
        }
    }

    /// The name in recipes, of adapter number `i`.
    pub fn recipe(self, i: usize) -> String {
        match self.name().split_once('.') {
            Some((part, end)) => format!("{part}.{i}.{end}"),
            None => format!("{}.{i}", self.name()),
        }
    }
}

/// What a tensor's name says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A part of what changes a module.
    Part {
        /// The module by its canonical name, as `model.layers.0.mlp.up_proj`.
        module: String,
        /// The module by its name in the file, which patterns speak of.
        path: String,
        /// The part.
        part: Part,
    },
    /// A tensor that replaces the one of this canonical name.
    Replacement(String),
    /// Something that was not trained, or is computed.
    Copy,
    /// Nothing that an adapter of a LLaMA has.
    Unknown,
}

/// Reads the name of a stored tensor.
pub(super) fn meaning(stored: &str) -> Meaning {
    // Around a model with a soft prompt there is one wrapper less.
    let name = ["base_model.model.", "base_model."].iter().find_map(|prefix| stored.strip_prefix(prefix));
    let name = name.unwrap_or(stored);
    let parts: Vec<&str> = name.split('.').filter(|part| !names::WRAPPERS.contains(part)).collect();
    let at = parts.iter().position(|part| MARKERS.contains(part));
    let Some(at) = at else { return replacement(&parts) };
    let (module, rest) = (&parts[..at], &parts[at + 1..]);
    let part = match (parts[at], rest) {
        ("original_module", _) => return Meaning::Copy,
        ("modules_to_save", [tensor] | [_, tensor]) => return replacement(&[module, &[tensor]].concat()),
        ("token_adapter", ["weight"]) => return replacement(&[module, &["weight"]].concat()),
        ("token_adapter", ["token_indices" | "trainable_tokens_original", ..]) => return Meaning::Copy,
        ("token_adapter", ["trainable_tokens_delta"] | ["trainable_tokens_delta", _]) => Part::Tokens,
        ("lora_B", ["bias"] | [_, "bias"]) => Part::Bias,
        ("lora_A", ["bias"]) => return Meaning::Unknown,
        ("lora_A", [] | [_] | [_, "weight"]) => Part::A,
        ("lora_B", [] | [_] | [_, "weight"]) => Part::B,
        ("lora_embedding_A", [] | [_] | [_, "weight"]) => Part::EmbeddingA,
        ("lora_embedding_B", [] | [_] | [_, "weight"]) => Part::EmbeddingB,
        ("lora_magnitude_vector", [] | [_] | [_, "weight"]) => Part::Magnitude,
        _ => return Meaning::Unknown,
    };
    let path = module.join(".");
    match names::meaning(&format!("{path}.weight")) {
        names::Meaning::Model(weight) => {
            let module = weight.strip_suffix(".weight").unwrap_or(&weight).to_owned();
            Meaning::Part { module, path, part }
        }
        _ => Meaning::Unknown,
    }
}

/// Names of what PEFT puts into modules.
const MARKERS: [&str; 8] = [
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "token_adapter",
    "modules_to_save",
    "original_module",
];

fn replacement(parts: &[&str]) -> Meaning {
    match names::meaning(&parts.join(".")) {
        names::Meaning::Model(name) => Meaning::Replacement(name),
        names::Meaning::Buffer => Meaning::Copy,
        names::Meaning::Adapter | names::Meaning::Unknown => Meaning::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(stored: &str) -> Option<(String, Part)> {
        match meaning(stored) {
            Meaning::Part { module, part, .. } => Some((module, part)),
            _ => None,
        }
    }

    #[test]
    fn parts_are_found_in_every_spelling() {
        let q = "model.layers.3.self_attn.q_proj".to_owned();
        for (stored, expected) in [
            ("base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight", Part::A),
            ("base_model.model.layers.3.self_attn.q_proj.lora_B.weight", Part::B),
            ("model.layers.3.self_attn.q_proj.lora_A.default.weight", Part::A),
            ("base_model.model.model.layers.3.self_attn.q_proj.lora_B.bias", Part::Bias),
            ("base_model.model.model.layers.3.self_attn.q_proj.lora_B.default.bias", Part::Bias),
            ("base_model.model.model.layers.3.self_attn.q_proj.lora_magnitude_vector", Part::Magnitude),
            ("layers.3.self_attn.q_proj.lora_magnitude_vector.weight", Part::Magnitude),
            ("layers.3.self_attn.q_proj.lora_magnitude_vector.default.weight", Part::Magnitude),
            ("module._orig_mod.model.layers.3.self_attn.q_proj.lora_A.weight", Part::A),
        ] {
            assert_eq!(part(stored), Some((q.clone(), expected)), "{stored}");
        }
        let embedding = "model.embed_tokens".to_owned();
        for (stored, expected) in [
            ("base_model.model.model.embed_tokens.lora_embedding_A", Part::EmbeddingA),
            ("base_model.model.model.embed_tokens.lora_embedding_B.default", Part::EmbeddingB),
            ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", Part::Tokens),
        ] {
            assert_eq!(part(stored), Some((embedding.clone(), expected)), "{stored}");
        }
        let spelled = meaning("base_model.model.layers.3.self_attn.q_proj.lora_A.weight");
        assert!(matches!(spelled, Meaning::Part { path, .. } if path == "layers.3.self_attn.q_proj"));
    }

    #[test]
    fn what_replaces_and_what_does_not_matter() {
        for (stored, name) in [
            ("base_model.model.score.weight", "score.weight"),
            ("base_model.score.weight", "score.weight"),
            ("base_model.model.score.modules_to_save.weight", "score.weight"),
            ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
            ("base_model.model.model.embed_tokens.base_layer.weight", "model.embed_tokens.weight"),
            (
                "base_model.model.model.embed_tokens.token_adapter.base_layer.weight",
                "model.embed_tokens.weight",
            ),
            (
                "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias",
                "model.layers.0.self_attn.q_proj.bias",
            ),
            (
                "base_model.model.model.layers.1.input_layernorm.weight",
                "model.layers.1.input_layernorm.weight",
            ),
        ] {
            assert_eq!(meaning(stored), Meaning::Replacement(name.to_owned()), "{stored}");
        }
        for stored in [
            "base_model.model.score.original_module.weight",
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_original.default",
        ] {
            assert_eq!(meaning(stored), Meaning::Copy, "{stored}");
        }
        for stored in [
            "",
            "lora_A",
            "lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.bias",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight.more",
            "base_model.model.model.layers.0.self_attn.rotary_emb.lora_A.weight",
            "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
            "prompt_embeddings",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_E",
        ] {
            assert_eq!(meaning(stored), Meaning::Unknown, "{stored}");
        }
    }
}
