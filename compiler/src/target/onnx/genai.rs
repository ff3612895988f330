//! `genai_config.json`: how onnxruntime-genai runs a causal language model.
//!
//! A member that it does not know is an error there, so only those are written that its documentation names.

use serde::Serialize;

use super::model::Graph;
use crate::source::Checkpoint;

/// No file of this kind is larger.
pub(super) const MAX_BYTES: u64 = 1 << 20;

#[derive(Serialize)]
struct Config {
    model: Model,
    search: Search,
}

#[derive(Serialize)]
struct Model {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token_id: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    eos_token_id: Vec<u32>,
    pad_token_id: u32,
    context_length: u64,
    vocab_size: usize,
    decoder: Decoder,
}

#[derive(Serialize)]
struct Decoder {
    filename: &'static str,
    head_size: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    num_hidden_layers: usize,
    inputs: Inputs,
    outputs: Outputs,
}

#[derive(Serialize)]
struct Inputs {
    input_ids: &'static str,
    attention_mask: &'static str,
    position_ids: &'static str,
    past_key_names: &'static str,
    past_value_names: &'static str,
}

#[derive(Serialize)]
struct Outputs {
    logits: &'static str,
    present_key_names: &'static str,
    present_value_names: &'static str,
}

#[derive(Serialize)]
struct Search {
    do_sample: bool,
    max_length: u64,
    past_present_share_buffer: bool,
    repetition_penalty: f32,
    temperature: f32,
    top_k: u32,
    top_p: f32,
}

/// The names of what onnxruntime-genai feeds and takes, `%d` standing for a layer.
const INPUTS: Inputs = Inputs {
    input_ids: "input_ids",
    attention_mask: "attention_mask",
    position_ids: "position_ids",
    past_key_names: "past_key_values.%d.key",
    past_value_names: "past_key_values.%d.value",
};

/// The file for `graph`, which is in `filename`; nothing if onnxruntime-genai could not feed it.
///
/// `context` is the longest sequence.
pub(super) fn genai_config(
    checkpoint: &Checkpoint,
    graph: &Graph,
    filename: &'static str,
    context: u64,
) -> Option<Vec<u8>> {
    let fed = |name: &str| {
        let (cache, plain) =
            (["key", "value"], [INPUTS.input_ids, INPUTS.attention_mask, INPUTS.position_ids]);
        let cached = name.strip_prefix("past_key_values.").and_then(|rest| rest.split_once('.'));
        plain.contains(&name) || cached.is_some_and(|(_, part)| cache.contains(&part))
    };
    let logits = graph.outputs.iter().any(|output| output.name == "logits");
    if !logits || !graph.has_cache() || !graph.inputs.iter().all(|input| fed(&input.name)) {
        return None;
    }
    let (config, generation) = (&checkpoint.config, &checkpoint.generation);
    let ends = generation.eos_token_ids.clone();
    let config = Config {
        model: Model {
            kind: "llama",
            bos_token_id: generation.bos_token_id,
            // It wants a padding token in any case; rows are padded with it, and masked.
            pad_token_id: generation.pad_token_id.or(ends.first().copied()).unwrap_or(0),
            eos_token_id: ends,
            context_length: context,
            vocab_size: config.vocab_size,
            decoder: Decoder {
                filename,
                head_size: config.head_dim,
                hidden_size: config.hidden_size,
                num_attention_heads: config.num_attention_heads,
                num_key_value_heads: config.num_key_value_heads,
                num_hidden_layers: config.num_hidden_layers,
                inputs: INPUTS,
                outputs: Outputs {
                    logits: "logits",
                    present_key_names: "present.%d.key",
                    present_value_names: "present.%d.value",
                },
            },
        },
        search: Search {
            do_sample: generation.do_sample,
            max_length: context,
            // One buffer for both needs an operator that writes to it.
            past_present_share_buffer: graph.nodes.iter().any(|node| node.op == "GroupQueryAttention"),
            repetition_penalty: generation.repetition_penalty,
            temperature: generation.temperature,
            top_k: generation.top_k,
            top_p: generation.top_p,
        },
    };
    let mut text = serde_json::to_vec_pretty(&config).expect("texts and numbers are JSON");
    text.push(b'\n');
    Some(text)
}

#[cfg(test)]
mod tests {
    use llamac_ir::DType;

    use super::super::model::{Node, ValueInfo};
    use super::*;
    use crate::source::testing;

    fn graph(inputs: &[&str], op: &'static str) -> Graph {
        let value = |name: &&str| ValueInfo { name: (*name).to_owned(), dtype: DType::F32, shape: vec![] };
        let node = Node {
            name: String::new(),
            op,
            domain: "",
            inputs: Vec::new(),
            outputs: Vec::new(),
            attributes: Vec::new(),
        };
        Graph {
            name: String::new(),
            inputs: inputs.iter().map(value).collect(),
            outputs: vec![value(&"logits")],
            nodes: vec![node],
            initializers: Vec::new(),
        }
    }

    #[test]
    fn a_decoder_is_described() {
        let directory = testing::checkpoint(&testing::config(), &testing::tensors());
        let checkpoint = Checkpoint::open(directory.path(), None).unwrap();
        let config = |inputs: &[&str], op| genai_config(&checkpoint, &graph(inputs, op), "model.onnx", 40);
        let cached = ["input_ids", "attention_mask", "past_key_values.0.key", "past_key_values.0.value"];
        let text = String::from_utf8(config(&cached, "Attention").unwrap()).unwrap();
        insta::assert_snapshot!(text);
        let shared = String::from_utf8(config(&cached, "GroupQueryAttention").unwrap()).unwrap();
        assert_eq!(shared, text.replace("buffer\": false", "buffer\": true"));
        for inputs in [
            &["input_ids", "attention_mask", "position_ids"][..],
            &["inputs_embeds", "attention_mask", "past_key_values.0.key"],
            &["input_ids", "num_logits_to_keep", "past_key_values.0.key"],
        ] {
            assert_eq!(config(inputs, "Attention"), None);
        }
    }
}
