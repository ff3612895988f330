//! Requests behind a soft prompt, as PEFT puts them together.
//!
//! Embeddings come before those of the text's tokens, in one request of embeddings. A prefix is a cache to begin with.

use std::borrow::Cow;
use std::collections::BTreeMap;

use llamac_ir::{Op, Tensor, Weight};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::eval::{Request, Tokens};
use llamac_plan::{PromptKind, SoftPrompt};

use super::graph;
use crate::passes::WeightPolicy;
use crate::source::Checkpoint;
use crate::weights::WeightReader;

/// The valid `request` behind the checkpoint's soft prompt, of which a prefix is still to be put into the caches.
pub(super) fn behind<'r>(
    checkpoint: &Checkpoint,
    weights: &WeightPolicy,
    request: &'r Request,
) -> Result<Cow<'r, Request>, Diagnostics> {
    let Some(prompt) = &checkpoint.prompt else { return Ok(Cow::Borrowed(request)) };
    let request = match prompt.kind {
        PromptKind::Prefix => request.behind(prompt),
        PromptKind::Embeddings => {
            let reader = WeightReader::new(checkpoint);
            let width = checkpoint.config.hidden_size;
            let text = match &request.tokens {
                Tokens::Embeddings(rows) => Cow::Borrowed(rows),
                Tokens::Ids(ids) => {
                    let graph = graph(checkpoint, weights, request)?;
                    let mut tables = graph.order().into_iter().filter_map(|node| match graph.op(node) {
                        Some(Op::Embed(embed)) => Some(embed.table.clone()),
                        _ => None,
                    });
                    let table = tables.next().ok_or_else(|| invalid("the model reads no ids"))?;
                    let mut rows = vec![0.0; ids.len() * width];
                    for (&id, row) in ids.iter().zip(rows.chunks_mut(width)) {
                        let id = id as usize;
                        reader.rows(&table, id..id + 1, row).map_err(Diagnostic::from)?;
                    }
                    Cow::Owned(rows)
                }
            };
            let rows = numbers(&reader, &prompt.weights[0])?;
            let joined = text.chunks(request.seq * width).flat_map(|text| rows.iter().chain(text).copied());
            let mask = |mask: &Vec<bool>| {
                mask.chunks(request.seq).flat_map(|row| [&vec![true; prompt.tokens], row].concat()).collect()
            };
            Request {
                seq: prompt.tokens + request.seq,
                tokens: Tokens::Embeddings(joined.collect()),
                mask: request.mask.as_ref().map(mask),
                positions: None,
                ..request.clone()
            }
        }
    };
    Ok(Cow::Owned(request))
}

/// The caches of `batch` sequences that begin with `prompt`, a prefix, by the name of the parameter that takes them.
pub(super) fn caches(
    checkpoint: &Checkpoint,
    prompt: &SoftPrompt<Weight>,
    batch: usize,
) -> Result<BTreeMap<String, Tensor>, Diagnostics> {
    let config = &checkpoint.config;
    let (heads, size) = (config.num_key_value_heads, config.head_dim);
    let reader = WeightReader::new(checkpoint);
    let mut caches = BTreeMap::new();
    for (layer, weight) in prompt.weights.iter().enumerate() {
        let entries = numbers(&reader, weight)?;
        for (part, name) in ["key", "value"].into_iter().enumerate() {
            // Entry `[token, part, head, element]` is element `[sequence, head, token, element]` of a cache.
            let row = |head: usize, token: usize| {
                let start = ((token * 2 + part) * heads + head) * size;
                entries[start..start + size].iter().copied()
            };
            let sequence =
                (0..heads).flat_map(|head| (0..prompt.tokens).flat_map(move |token| row(head, token)));
            let data: Vec<f32> = sequence.collect::<Vec<_>>().repeat(batch);
            let cache =
                Tensor::floats(&[batch, heads, prompt.tokens, size], data).map_err(|why| invalid(&why))?;
            caches.insert(format!("past.{layer}.{name}"), cache);
        }
    }
    Ok(caches)
}

fn numbers(reader: &WeightReader<'_>, weight: &Weight) -> Result<Vec<f32>, Diagnostic> {
    Ok(reader.tensor(weight).map_err(Diagnostic::from)?.into_iter().collect())
}

fn invalid(why: &str) -> Diagnostic {
    Diagnostic::new(Code::InvalidGraph).message(why)
}
