//! Which weight is where in which file, as transformers lays them out.

use std::ops::Range;

use llamac_ir::Weight;
use serde_json::{Map, Value, json};

use super::TILE;
use crate::source::{Checkpoint, EMBEDDING, Head, layer_of};

/// What the header of each file says of who wrote it.
pub(super) const PRODUCER: &str = "\"producer\":\"llamac\"";

/// A weight in its file.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    pub(super) name: String,
    pub(super) weight: &'a Weight,
    /// Behind the header, in bytes.
    pub(super) start: usize,
}

impl Placed<'_> {
    pub(super) fn rows(&self) -> usize {
        self.weight.shape()[0]
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.weight.shape()[1..].iter().product::<usize>() * self.weight.dtype().size()
    }

    pub(super) fn rows_of_tile(&self) -> usize {
        (TILE / self.row_bytes().max(1)).max(1)
    }

    /// The first row of each tile.
    pub(super) fn tiles(&self) -> std::iter::StepBy<Range<usize>> {
        (0..self.rows()).step_by(self.rows_of_tile())
    }

    fn range(&self) -> Range<usize> {
        self.start..self.start + self.rows() * self.row_bytes()
    }
}

/// A file of weights.
#[derive(Debug)]
pub(super) struct Shard<'a> {
    pub(super) name: String,
    pub(super) tensors: Vec<Placed<'a>>,
    /// Bytes of all tensors.
    pub(super) bytes: usize,
}

impl Shard<'_> {
    /// The length prefix and the header, padded with spaces to a multiple of eight.
    pub(super) fn header(&self) -> Vec<u8> {
        let mut text = format!("{{\"__metadata__\":{{\"format\":\"pt\",{PRODUCER}}}");
        for placed in &self.tensors {
            let Range { start, end } = placed.range();
            let dtype = placed.weight.dtype().name().to_ascii_uppercase();
            let entry = json!({"dtype": dtype, "shape": placed.weight.shape(), "data_offsets": [start, end]});
            text.push_str(&format!(",{}:{entry}", Value::from(placed.name.as_str())));
        }
        text.push('}');
        let padded = text.len().next_multiple_of(8);
        text.extend(std::iter::repeat_n(' ', padded - text.len()));
        [&(padded as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }
}

/// Shares the weights out among files of at most `max_bytes`, in the order of the model.
pub(super) fn shards(checkpoint: &Checkpoint, max_bytes: u64) -> Vec<Shard<'_>> {
    let mut weights: Vec<(&String, &Weight)> = checkpoint.weights.iter().collect();
    weights.sort_by_key(|(name, _)| match layer_of(name) {
        Some(layer) => (1, layer),
        None if *name == EMBEDDING => (0, 0),
        None => (2, 0),
    });
    let mut shards: Vec<Shard<'_>> = Vec::new();
    for (name, weight) in weights {
        let mut placed = Placed { name: written_name(checkpoint.head, name), weight, start: 0 };
        let bytes = placed.range().len();
        match shards.last_mut().filter(|shard| (shard.bytes + bytes) as u64 <= max_bytes) {
            Some(shard) => {
                placed.start = shard.bytes;
                shard.bytes += bytes;
                shard.tensors.push(placed);
            }
            None => shards.push(Shard { name: String::new(), tensors: vec![placed], bytes }),
        }
    }
    let count = shards.len();
    for (i, shard) in shards.iter_mut().enumerate() {
        shard.name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
    }
    shards
}

/// The name that transformers gives a tensor: one head has another name for its trunk.
fn written_name(head: Head, canonical: &str) -> String {
    match canonical.strip_prefix("model.") {
        Some(rest) if head == Head::QuestionAnswering => format!("transformer.{rest}"),
        _ => canonical.to_owned(),
    }
}

/// The index of several files.
pub(super) fn index(shards: &[Shard<'_>]) -> Vec<u8> {
    let total: usize = shards.iter().map(|shard| shard.bytes).sum();
    let placed = shards.iter().flat_map(|shard| shard.tensors.iter().map(|placed| (placed, &shard.name)));
    let map: Map<String, Value> =
        placed.map(|(placed, file)| (placed.name.clone(), Value::from(file.as_str()))).collect();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    let mut text = serde_json::to_vec_pretty(&index).expect("texts and numbers are JSON");
    text.push(b'\n');
    text
}
