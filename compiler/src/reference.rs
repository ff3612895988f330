//! A forward as transformers defines it, by the reference evaluator: the unfused graph, dense, in f32.
//!
//! It reads weights through the packer's code and computes every operation naively, so it judges the native target.
//! It is slow.

mod prompt;

use std::collections::BTreeMap;
use std::ops::Range;

use llamac_ir::rewrite::AnyOp;
use llamac_ir::{Bindings, Graph, RopeScaling, Symbol, Tensor, Weight, evaluate};
use llamac_plan::PromptKind;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::eval::{self, Output, Request, Tokens};

use crate::model::{self, Inputs, ModelOptions};
use crate::passes::{WeightPolicy, assign_schemes, merge_lora};
use crate::source::{Checkpoint, Head};
use crate::weights::WeightReader;

/// Runs `request` on `checkpoint`, of which the weights are what `weights` leaves of them.
///
/// # Errors
/// When the request does not fit the model, or a weight cannot be read; as [`assign_schemes`].
pub fn eval(
    checkpoint: &Checkpoint,
    weights: &WeightPolicy,
    request: &Request,
) -> Result<Vec<Output>, Diagnostics> {
    validate(checkpoint, request)?;
    let request = prompt::behind(checkpoint, weights, request)?;
    eval_graph(checkpoint, &graph(checkpoint, weights, &request)?, &request)
}

fn validate(checkpoint: &Checkpoint, request: &Request) -> Result<(), Diagnostics> {
    let config = &checkpoint.config;
    request.validate(config.vocab_size, config.hidden_size)?;
    Ok(request.check_head(&checkpoint.plan_head())?)
}

/// The unfused graph that answers `request`, which is valid.
fn graph(checkpoint: &Checkpoint, weights: &WeightPolicy, request: &Request) -> Result<Graph, Diagnostics> {
    let options = ModelOptions {
        inputs: match request.tokens {
            Tokens::Ids(_) => Inputs::Ids,
            Tokens::Embeddings(_) => Inputs::Embeddings,
        },
        mask: true,
        hidden_states: request.hidden_states,
        presents: true,
        ..ModelOptions::default()
    };
    let mut graph = model::build(checkpoint, &options)?;
    merge_lora(&mut graph, &checkpoint.adapted, &AnyOp)?;
    assign_schemes(&mut graph, weights, &AnyOp)?;
    Ok(graph)
}

/// Runs a valid `request` on `graph`, which is a [`model`] of `checkpoint` with hidden states where the request wants
/// them, whatever was done to it since. What the graph does not take (a mask, positions) is left out. Caches begin with
/// the prefix of the checkpoint, if it has one; other soft prompts are a matter of the request.
///
/// # Errors
/// When the graph lacks one of them, or a weight cannot be read.
pub fn eval_graph(
    checkpoint: &Checkpoint,
    graph: &Graph,
    request: &Request,
) -> Result<Vec<Output>, Diagnostics> {
    let mut outputs = trace_graph(checkpoint, graph, request)?;
    outputs.retain(|output| !output.name.starts_with("present."));
    Ok(outputs)
}

/// As [`eval()`], with everything that can be told of the way there: every hidden state, and the caches as they are in
/// the end, `present.<layer>.key` and `present.<layer>.value`.
///
/// # Errors
/// As [`eval()`].
pub fn trace(
    checkpoint: &Checkpoint,
    weights: &WeightPolicy,
    request: &Request,
) -> Result<Vec<Output>, Diagnostics> {
    validate(checkpoint, request)?;
    let request = Request { hidden_states: true, ..request.clone() };
    let request = prompt::behind(checkpoint, weights, &request)?;
    trace_graph(checkpoint, &graph(checkpoint, weights, &request)?, &request)
}

fn trace_graph(
    checkpoint: &Checkpoint,
    graph: &Graph,
    request: &Request,
) -> Result<Vec<Output>, Diagnostics> {
    let mut run = Run { checkpoint, request, graph, caches: BTreeMap::new(), prefix: 0, rope_length: 0 };
    if let Some(prompt) = checkpoint.prompt.as_ref().filter(|prompt| prompt.kind == PromptKind::Prefix) {
        run.caches = prompt::caches(checkpoint, prompt, request.batch)?;
        run.prefix = prompt.tokens;
    }
    let prefill = 0..request.seq - request.cached;
    let steps = (prefill.end..request.seq).map(|column| column..column + 1);
    let pooled = match checkpoint.head {
        Head::SequenceClassification => Some(request.pooled_columns(checkpoint.config.pad_token_id, None)?),
        _ => None,
    };
    let mut outputs: Vec<Output> = Vec::new();
    for phase in std::iter::once(prefill.clone()).chain(steps) {
        for (name, tensor) in
            run.forward(phase.clone()).map_err(|why| Diagnostic::new(Code::InvalidGraph).message(why))?
        {
            let pooled = pooled.as_ref().filter(|_| name == "logits");
            let new = Output { name, shape: tensor.shape().to_vec(), data: floats(&tensor)? };
            match (outputs.iter_mut().find(|output| output.name == new.name), pooled) {
                (Some(output), Some(pooled)) => replace_pooled(output, &new.data, pooled, &phase),
                (Some(output), None) => output.append_columns(&new),
                (None, _) => outputs.push(new),
            }
        }
    }
    if let Some(keep) = request.keep.filter(|&keep| keep > 0) {
        outputs
            .iter_mut()
            .filter(|output| output.name == "logits")
            .for_each(|output| output.keep_columns(keep));
    }
    for (name, tensor) in run.caches {
        let name = name.replacen("past", "present", 1);
        outputs.push(Output { name, shape: tensor.shape().to_vec(), data: floats(&tensor)? });
    }
    Ok(eval::spans_apart(outputs))
}

struct Run<'a> {
    checkpoint: &'a Checkpoint,
    request: &'a Request,
    graph: &'a Graph,
    /// The grown caches of the last forward, by the name of the parameter that takes them.
    caches: BTreeMap<String, Tensor>,
    /// Entries of the caches before the request's.
    prefix: usize,
    /// The length that stretched frequencies are for.
    rope_length: u64,
}

impl Run<'_> {
    /// Runs the columns of `phase` on the caches so far.
    fn forward(&mut self, phase: Range<usize>) -> Result<Vec<(String, Tensor)>, String> {
        let request = self.request;
        let batch = request.batch;
        let mut inputs = BTreeMap::new();
        let per_token = |columns: Range<usize>, f: &dyn Fn(usize, usize) -> i64| {
            let values =
                (0..batch).flat_map(|row| columns.clone().map(move |column| f(row, column))).collect();
            Tensor::integers(&[batch, columns.len()], values)
        };
        match &request.tokens {
            Tokens::Ids(ids) => {
                let ids =
                    per_token(phase.clone(), &|row, column| i64::from(ids[row * request.seq + column]))?;
                inputs.insert("input_ids".to_owned(), ids);
            }
            Tokens::Embeddings(rows) => {
                let width = self.checkpoint.config.hidden_size;
                let part = |row: usize| {
                    let start = row * request.seq;
                    &rows[(start + phase.start) * width..(start + phase.end) * width]
                };
                let data = (0..batch).flat_map(|row| part(row).iter().copied()).collect();
                inputs
                    .insert("inputs_embeds".to_owned(), Tensor::floats(&[batch, phase.len(), width], data)?);
            }
        }
        let positions = per_token(phase.clone(), &|row, column| request.position(row, column))?;
        inputs.insert("positions".to_owned(), positions);
        let mask = per_token(0..self.prefix + phase.end, &|row, entry| {
            i64::from(entry.checked_sub(self.prefix).is_none_or(|column| request.is_real(row, column)))
        })?;
        inputs.insert("mask".to_owned(), mask);
        inputs.retain(|name, _| self.graph.param(name).is_some());
        if self.graph.param("length").is_some() {
            let length = self.length(request.rope_length(phase.clone()));
            inputs.insert("length".to_owned(), Tensor::integers(&[], vec![length])?);
        }
        for (name, _) in self.graph.params().filter(|(name, _)| name.starts_with("past.")) {
            let config = &self.checkpoint.config;
            let empty =
                || Tensor::floats(&[batch, config.num_key_value_heads, 0, config.head_dim], Vec::new());
            let cache = self.caches.remove(name).map_or_else(empty, Ok)?;
            inputs.insert(name.to_owned(), cache);
        }
        let reader = WeightReader::new(self.checkpoint);
        let weights = |weight: &Weight| reader.tensor(weight).map_err(|e| e.to_string());
        // All columns; those that were not asked for are dropped at the end.
        let bindings = Bindings::new().with(Symbol::Keep, phase.len() as i64);
        let results = evaluate(self.graph, &inputs, &bindings, &weights).map_err(|e| e.to_string())?;
        let (caches, outputs): (Vec<_>, Vec<_>) =
            results.into_iter().partition(|(name, _)| name.starts_with("present."));
        self.caches =
            caches.into_iter().map(|(name, cache)| (name.replacen("present", "past", 1), cache)).collect();
        Ok(outputs)
    }

    /// The length that frequencies follow in a forward whose largest position is `length - 1`.
    ///
    /// Stretched frequencies of dynamic scaling stay as long as no longer sequence comes and the length does not fall
    /// below `max_position_embeddings`, as in transformers' `dynamic_rope_update`.
    fn length(&mut self, length: u64) -> i64 {
        if let RopeScaling::Dynamic { max_position, .. } = self.checkpoint.config.rope.scaling {
            let stretched = self.rope_length.max(max_position);
            self.rope_length = if length < max_position { max_position } else { stretched.max(length) };
        } else {
            self.rope_length = length;
        }
        i64::try_from(self.rope_length).unwrap_or(i64::MAX)
    }
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, Diagnostic> {
    let data = tensor.as_f32().map_err(|why| Diagnostic::new(Code::InvalidGraph).message(why))?;
    Ok(data.iter().copied().collect())
}

/// Takes the rows of `new`, `[batch, labels]`, whose pooled column is in `phase`: pooling looks at one phase at a time,
/// and the column that it finds for the whole sequence is the one that it finds in that column's phase.
fn replace_pooled(output: &mut Output, new: &[f32], pooled: &[usize], phase: &Range<usize>) {
    let labels = output.shape[1];
    for (row, _) in pooled.iter().enumerate().filter(|(_, column)| phase.contains(column)) {
        output.data[row * labels..(row + 1) * labels].copy_from_slice(&new[row * labels..(row + 1) * labels]);
    }
}
