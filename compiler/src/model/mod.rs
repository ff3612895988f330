//! The LLaMA architecture as a graph of semantic operations: one trunk, and a head behind it.
//!
//! The graph says what transformers computes, operation by operation, and nothing about how: no fusion, no layout, no
//! folded constant. That is left to the passes. Shapes of the checkpoint's tensors were checked when it was opened.

mod head;
mod trunk;

use llamac_ir::{BuildError, Builder, Graph, Weight, WeightError};
use llamac_plan::diagnostic::{Code, Diagnostic};

use crate::source::{Checkpoint, Config};

/// What the model reads in place of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// `input_ids i64[batch, seq]`.
    Ids,
    /// `inputs_embeds f32[batch, seq, hidden_size]`.
    Embeddings,
}

/// Which positions get logits of a causal language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// The last [`llamac_ir::Symbol::Keep`] positions: whoever runs the graph knows how many.
    Keep,
    /// The last as many as the input `num_logits_to_keep i64[]` says; 0 is all.
    Counted,
    /// The last one.
    Last,
    /// All.
    All,
}

/// What a graph takes and gives beside the model's plain function.
///
/// The default is what sessions need: everything from outside, and no mask, for masked tokens never get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// What it reads.
    pub inputs: Inputs,
    /// Whether it takes `mask i64[batch, past + seq]`, which is 0 for keys that nobody sees.
    pub mask: bool,
    /// Whether it takes `positions i64[batch, seq]`. Otherwise they are counted from 0 in every row.
    pub positions: bool,
    /// Whether it takes `length i64[]` where rotary frequencies depend on the length. Otherwise that is one more than
    /// the largest position, as in transformers' forward.
    pub length: bool,
    /// Whether it takes caches. Otherwise there is nothing before the first position.
    pub cache: bool,
    /// Whether it gives `hidden_states.0` … `hidden_states.L`, as transformers counts them: the embedding, the
    /// output of each layer but the last, and the output of the final norm.
    pub hidden_states: bool,
    /// Whether it gives the grown caches, `present.<layer>.key` and `present.<layer>.value`.
    pub presents: bool,
    /// Which positions get logits.
    pub logits: Logits,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            inputs: Inputs::Ids,
            mask: false,
            positions: true,
            length: true,
            cache: true,
            hidden_states: false,
            presents: false,
            logits: Logits::Keep,
        }
    }
}

/// The graph of `checkpoint` with its head.
///
/// Parameters: ids or embeddings, and what [`ModelOptions`] says; caches are `past.<layer>.key` and
/// `past.<layer>.value` of `f32[batch, kv_heads, past, head_dim]`. Results: the head's, then those that the options ask
/// for.
///
/// # Errors
/// When the checkpoint does not make a well-formed graph, which its own checks rule out.
pub fn build(checkpoint: &Checkpoint, options: &ModelOptions) -> Result<Graph, Diagnostic> {
    let weight =
        |name: &str| Ok(checkpoint.weight(name).ok_or_else(|| Fault::Missing(name.to_owned()))?.clone());
    let mut model =
        Model { builder: Builder::new(), config: &checkpoint.config, weight: &weight, options: *options };
    let graph = model.trunk().and_then(|trunk| model.head(checkpoint.head, trunk));
    let graph = graph
        .map_err(|fault| fault.to_string())
        .and_then(|()| model.builder.finish().map_err(|e| e.to_string()));
    graph.map_err(|why| Diagnostic::new(Code::InvalidGraph).message(why))
}

/// Why a model cannot be built.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("there is no tensor {0}")]
    Missing(String),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Weight(#[from] WeightError),
}

/// A weight by canonical name.
type Lookup<'a> = &'a dyn Fn(&str) -> Result<Weight, Fault>;

/// A model under construction.
struct Model<'a> {
    builder: Builder,
    config: &'a Config,
    weight: Lookup<'a>,
    options: ModelOptions,
}
