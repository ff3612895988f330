//! From a checkpoint to a directory of ONNX.

use llamac_plan::diagnostic::{Diagnostic, Diagnostics};

use super::{Progress, manager, pool, records, verify};
use crate::model::{self, Inputs, Logits, ModelOptions};
use crate::passes::{self, Outcome, Stage};
use crate::source::{Checkpoint, Head};
use crate::target::onnx::{self, Destination, Export, OnnxOptions, Profile};
use crate::weights::{Requantized, WeightReader, requantized};

/// How a checkpoint is exported.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The operators.
    pub profile: Profile,
    /// What the model reads.
    pub inputs: Inputs,
    /// Which positions of a causal language model get logits.
    pub logits: Logits,
    /// Whether a causal language model has a cache.
    pub cache: bool,
    /// Files, and where weights are.
    pub files: OnnxOptions,
    /// Whether the legal graph is compared with the model's before anything is written: [`crate::verify::graphs`].
    pub verify: bool,
    /// Threads that write weights.
    pub threads: usize,
    /// What is asked of the passes.
    pub passes: passes::Options,
}

/// What an export gives.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The graph, and what the passes did.
    pub outcome: Outcome,
    /// What was written; nothing if the passes were stopped before the graph was legal.
    pub export: Option<Export>,
    /// What became of weights that another method had quantized; nothing where none was read.
    pub requantized: Vec<Requantized>,
}

/// Takes `checkpoint` through the passes to what the target of `options` can take.
///
/// Causal language models have a cache and take positions; the other heads read whole texts and count them, because
/// nobody tells them positions.
///
/// # Errors
/// As [`super::lower`]; `NoPlaceForPrompt` for a checkpoint with a soft prompt.
pub fn lower_for_export(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Outcome, Diagnostics> {
    if checkpoint.prompt.is_some() {
        return Err(checkpoint.no_place_for_prompt("ONNX").into());
    }
    manager(checkpoint, &options.passes)?
        .run(model::build(checkpoint, &model(checkpoint, options))?, &options.files.target(options.profile))
}

/// What the export of `checkpoint` wants of a model.
fn model(checkpoint: &Checkpoint, options: &ExportOptions) -> ModelOptions {
    let decoder = checkpoint.head == Head::CausalLm;
    let cache = decoder && options.cache;
    ModelOptions {
        inputs: options.inputs,
        mask: true,
        positions: decoder,
        length: false,
        cache,
        hidden_states: false,
        presents: cache,
        logits: options.logits,
    }
}

/// What a classifier does with padding, if it cannot tell it: transformers then takes one text at a time, or a batch of
/// embeddings as it is.
fn pooling(checkpoint: &Checkpoint, inputs: Inputs) -> Option<String> {
    let why = match (checkpoint.config.pad_token_id, inputs) {
        _ if checkpoint.head != Head::SequenceClassification => return None,
        (None, _) => "config.json names no pad_token_id",
        (_, Inputs::Embeddings) => "embeddings do not tell padding",
        (Some(_), Inputs::Ids) => return None,
    };
    Some(format!(
        "{why}: the model classifies by the last position of each row, so a batch is padded on the left"
    ))
}

/// Exports `checkpoint` to `destination`, which is left to the caller to publish.
///
/// # Errors
/// As [`lower_for_export`], when the output cannot be written or a weight not read, and when verifying finds a
/// difference.
pub fn export(
    checkpoint: &Checkpoint,
    options: &ExportOptions,
    destination: &mut Destination,
    progress: &dyn Progress,
) -> Result<Exported, Diagnostics> {
    let outcome = lower_for_export(checkpoint, options)?;
    let Stage::Legalized(legalized) = &outcome.stage else {
        return Ok(Exported { outcome, export: None, requantized: Vec::new() });
    };
    if options.verify {
        verify(checkpoint, &model(checkpoint, options), &options.passes.weights, legalized)?;
    }
    let (profile, files, records) = (options.profile, options.files, records(&outcome));
    let mut export = pool(options.threads)?
        .install(|| onnx::emit(checkpoint, profile, legalized, &records, files, destination, progress))?;
    export.warnings.extend(pooling(checkpoint, options.inputs));
    let requantized =
        requantized(legalized.graph(), WeightReader::new(checkpoint)).map_err(Diagnostic::from)?;
    Ok(Exported { export: Some(export), requantized, outcome })
}
