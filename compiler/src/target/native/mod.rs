//! The native target: a plan and packed weights in one file, for the runtime.
//!
//! Which operations the runtime has is said once, in [`Native`]; what it does with them is the runtime's business.

mod container;
mod emit;
mod memory;
mod pack;
mod weights;
mod write;

use llamac_ir::rewrite::{Legality, OpSet, Signature};
use llamac_ir::{Loc, Op, Weight};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::{Compute, KvDtype, ModelShape, PassRecord, Plan, SoftPrompt};

use self::weights::WeightTable;
use self::write::Content;
use crate::driver::Progress;
use crate::output::Output;
use crate::source::Checkpoint;
use crate::target::{Legalized, Target};
use crate::weights::WeightReader;

/// The longest context that a plan speaks of; the caches of longer ones would not fit into any machine's memory.
const MAX_CONTEXT: u64 = 1 << 30;

/// The operations that the runtime has steps for.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl OpSet for Native {
    fn name(&self) -> &str {
        "native"
    }

    fn legality(&self, op: &Op, signature: Signature<'_>) -> Legality {
        let illegal = |reason: &str| Legality::Illegal(reason.to_owned());
        match op {
            Op::Rope(_) => illegal("rotations take their angles from rotary_angles"),
            Op::Rotary(rotary) if rotary.interleaved => illegal("rotations pair the halves of a head"),
            Op::RepeatKv(_) => illegal("attention groups query heads itself"),
            Op::Add(_) | Op::Mul(_) if signature.operands[0] != signature.operands[1] => {
                illegal("both operands have one shape")
            }
            Op::Attention(attention) if !attention.causal => illegal("attention is causal"),
            Op::Attention(_) if signature.operands.len() > 3 => {
                illegal("masked tokens never enter the cache")
            }
            Op::Act(_)
            | Op::Add(_)
            | Op::AddRmsNorm(_)
            | Op::Attention(_)
            | Op::Embed(_)
            | Op::Gated(_)
            | Op::KeepLast(_)
            | Op::KvAppend(_)
            | Op::Linear(_)
            | Op::Mul(_)
            | Op::PoolLast(_)
            | Op::RmsNorm(_)
            | Op::Rotary(_)
            | Op::RotaryAngles(_)
            | Op::Split(_) => Legality::Legal,
            _ => illegal("the runtime has no step for it"),
        }
    }
}

impl Target for Native {
    fn summary(&self) -> &'static str {
        "one file for llamac's own runtime, on any CPU"
    }
}

/// What an artifact is made from beside the graph.
#[derive(Clone, Copy, Debug)]
pub struct NativeOptions {
    /// The precision of matrix products unless a run asks for another.
    pub compute: Compute,
    /// The cache's dtype unless a run asks for another.
    pub kv: KvDtype,
    /// The longest context, where it is shorter than the model's.
    pub max_context: Option<u64>,
}

/// What [`emit`] wrote.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The plan in it.
    pub plan: Plan,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// The plan of an artifact, and what it takes to write one.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// How each weight of the plan is made.
    recipes: Vec<Weight>,
}

/// Plans the artifact of the legal graph of `checkpoint`.
///
/// # Errors
/// When the graph has a shape that no step stands for.
pub fn plan(
    checkpoint: &Checkpoint,
    legalized: &Legalized,
    passes: Vec<PassRecord>,
    options: &NativeOptions,
) -> Result<Planned, Diagnostic> {
    assert_eq!(legalized.target(), Native.name(), "a graph is emitted for the target that it is legal for");
    let head = checkpoint.plan_head();
    let mut emitted = emit::emit(legalized.graph(), head.output(), WeightTable::default())
        .map_err(|why| Diagnostic::new(Code::IllegalOp).message(why))?;
    let shape = shape(checkpoint, options);
    let prompt = checkpoint.prompt.as_ref().map(|prompt| soft_prompt(prompt, &mut emitted.weights));
    if let Some(prompt) = prompt.as_ref().filter(|prompt| prompt.tokens >= shape.max_context) {
        return Err(Diagnostic::new(Code::BadArgument)
            .at("--max-context")
            .expected(format!("more than the {} tokens of the soft prompt", prompt.tokens))
            .found(shape.max_context.to_string()));
    }
    let plan = Plan {
        producer: concat!("llamac ", env!("CARGO_PKG_VERSION")).to_owned(),
        head,
        shape,
        compute: options.compute.of_weights(&emitted.weights.entries),
        kv: options.kv,
        generation: checkpoint.generation.clone(),
        prompt,
        weights: emitted.weights.entries,
        buffers: emitted.buffers,
        arena_bytes_per_token: emitted.arena_bytes_per_token,
        unshared_bytes_per_token: emitted.unshared_bytes_per_token,
        steps: emitted.steps,
        modules: emitted.modules,
        passes,
    };
    plan.accepts(options.compute)?;
    Ok(Planned { plan, recipes: emitted.weights.recipes })
}

/// Writes the artifact of `checkpoint` that was `planned` to `output`, which is not yet published.
///
/// # Errors
/// When the output cannot be written, or a weight not read.
pub fn emit(
    checkpoint: &Checkpoint,
    planned: Planned,
    output: &Output,
    progress: &dyn Progress,
) -> Result<Artifact, Diagnostics> {
    let Planned { plan, recipes } = planned;
    let files = files(checkpoint);
    let reader = WeightReader::new(checkpoint);
    let content = Content { plan: &plan, recipes: &recipes, reader, files: &files };
    let bytes = write::write(&content, output, progress)?;
    Ok(Artifact { plan, bytes })
}

/// What [`emit`] would make, without making it: no weight is read.
///
/// # Errors
/// When the plan is too large for any file.
pub fn dry_run(checkpoint: &Checkpoint, planned: Planned) -> Result<Artifact, Diagnostic> {
    let bytes = write::size(&planned.plan, &files(checkpoint))?;
    Ok(Artifact { plan: planned.plan, bytes })
}

/// The files of the checkpoint that go along, by name.
fn files(checkpoint: &Checkpoint) -> Vec<(&str, &[u8])> {
    let tokenizer = &checkpoint.tokenizer;
    [
        ("config.json", Some(&checkpoint.config_json)),
        ("tokenizer.json", tokenizer.tokenizer.as_ref()),
        ("tokenizer.model", tokenizer.sentencepiece.as_ref()),
        ("tokenizer_config.json", tokenizer.config.as_ref()),
        ("special_tokens_map.json", tokenizer.special_tokens_map.as_ref()),
        ("added_tokens.json", tokenizer.added_tokens.as_ref()),
    ]
    .into_iter()
    .filter_map(|(name, bytes)| Some((name, bytes?.as_slice())))
    .collect()
}

/// The prompt with its weights among those of the plan.
fn soft_prompt(prompt: &SoftPrompt<Weight>, weights: &mut WeightTable) -> SoftPrompt {
    let SoftPrompt { kind, tokens, weights: recipes } = prompt;
    let entry = |(i, recipe): (usize, &Weight)| {
        weights.elements(recipe, &Loc::new(&format!("prompt_embeddings.layers.{i}")))
    };
    SoftPrompt { kind: *kind, tokens: *tokens, weights: recipes.iter().enumerate().map(entry).collect() }
}

fn shape(checkpoint: &Checkpoint, options: &NativeOptions) -> ModelShape {
    let config = &checkpoint.config;
    let context =
        config.max_position_embeddings.min(options.max_context.unwrap_or(u64::MAX)).min(MAX_CONTEXT);
    ModelShape {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        max_context: context as usize,
    }
}
