//! `llamac inspect`: what a model is, from the plan that would run it; or what an ONNX model holds.

mod onnx;

use std::collections::BTreeMap;

use llamac_compiler::diagnostic::{Code, Diagnostic};
use llamac_compiler::driver::{self, CompileOptions};
use llamac_compiler::onnx::Model;
use llamac_compiler::passes;
use llamac_compiler::report::stored_format;
use llamac_compiler::source::{Checkpoint, LoraSource};
use llamac_runtime::plan::{
    Compute, GenerationDefaults, ModelShape, PassRecord, Plan, PromptKind, SoftPrompt, WeightEntry,
    WeightLayout,
};
use llamac_runtime::{cache_bytes, kernels::KV_BLOCK};
use serde::Serialize;

use crate::args::{ChangeArgs, ModelArg, ThreadsArg};
use crate::console::{Console, Stdout};
use crate::emit;
use crate::failure::Failure;
use crate::human::{bytes, count, table};
use crate::model::{self, Source};

/// Show what a model is: head, sizes, passes applied, memory
///
/// MODEL may be an ONNX model, too: its file, or the folder of an export.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    changes: ChangeArgs,
    /// Print the graph: of a checkpoint after all passes, or of an ONNX model
    #[arg(long, conflicts_with = "json")]
    graph: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: ThreadsArg,
}

/// What `--json` prints, and the table shows.
#[derive(Debug, Serialize)]
struct Facts<'a> {
    /// `checkpoint` or `artifact`.
    kind: &'static str,
    head: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_prompt: Option<Prompt>,
    /// What is merged into a checkpoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    loras: Vec<Lora>,
    shape: &'a ModelShape,
    parameters: u64,
    weights: Vec<Weights>,
    /// What a checkpoint has quantized.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stored: Vec<StoredWeights>,
    compute: Compute,
    kv: &'static str,
    tokenizer: bool,
    producer: &'a str,
    memory: Memory,
    passes: &'a [PassRecord],
    generation: &'a GenerationDefaults,
}

/// What every text begins with.
#[derive(Debug, Serialize)]
struct Prompt {
    kind: PromptKind,
    /// Virtual tokens.
    tokens: usize,
}

/// An adapter that is merged.
#[derive(Debug, Serialize)]
struct Lora {
    path: String,
    scale: f64,
}

/// The weights of one dtype.
#[derive(Debug, Serialize)]
pub(super) struct Weights {
    pub(super) dtype: &'static str,
    pub(super) tensors: usize,
    pub(super) elements: u64,
    pub(super) bytes: u64,
}

/// Weights that a checkpoint has in one format.
#[derive(Debug, Serialize)]
struct StoredWeights {
    format: String,
    tensors: Vec<String>,
}

/// What a run needs beside the weights, in bytes.
#[derive(Debug, Serialize)]
struct Memory {
    weights: u64,
    arena_per_token: u64,
    unshared_per_token: u64,
    kv_per_token: u64,
}

impl Args {
    /// Prints what the model is.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        if let Some(path) = Model::locate(&self.model.path) {
            return onnx::run(&path, self, console);
        }
        let threads = self.threads.count();
        let source = model::source(&self.model, &self.changes, threads, console)?;
        let mut out = Stdout::lock();
        if self.graph {
            let Source::Checkpoint(checkpoint) = &source else {
                let fault = Diagnostic::new(Code::BadArgument).at("--graph");
                let fault =
                    fault.expected("a checkpoint's directory").found("a compiled model, which has no graph");
                return Err(fault.help("give the directory that it was compiled from").into());
            };
            let lowered = driver::lower(checkpoint, &passes::Options::default())?;
            write!(out, "{}", emit::Form::Ir.of(lowered.stage.graph()))?;
            return out.flush();
        }
        let (kind, plan, tokenizer) = match &source {
            Source::Checkpoint(checkpoint) => {
                let compiled = driver::dry_run(checkpoint, &CompileOptions::default())?;
                let artifact = compiled.artifact.expect("no pass was asked to be the last");
                ("checkpoint", artifact.plan, checkpoint.tokenizer.is_some())
            }
            Source::Artifact(model) => ("artifact", model.plan().clone(), model.has_tokenizer()),
        };
        let stored = match &source {
            Source::Checkpoint(checkpoint) => stored(checkpoint),
            Source::Artifact(_) => Vec::new(),
        };
        let lora = |LoraSource { path, scale }: &LoraSource| Lora {
            path: path.display().to_string(),
            scale: *scale,
        };
        let loras = self.changes.lora.iter().map(lora).collect();
        let facts = Facts::new(kind, &plan, loras, stored, tokenizer);
        match self.json {
            true => {
                let json = serde_json::to_string(&facts).expect("numbers and strings are JSON");
                writeln!(out, "{json}")?;
            }
            false => write!(out, "{}", facts.text())?,
        }
        out.flush()
    }
}

impl<'a> Facts<'a> {
    fn new(
        kind: &'static str,
        plan: &'a Plan,
        loras: Vec<Lora>,
        stored: Vec<StoredWeights>,
        tokenizer: bool,
    ) -> Self {
        let shape = &plan.shape;
        let kv_per_token = cache_bytes(plan, None, KV_BLOCK).map_or(0, |bytes| bytes / KV_BLOCK);
        let weights = weights(&plan.weights);
        Self {
            kind,
            head: plan.head.name(),
            labels: plan.head.labels(),
            soft_prompt: plan.prompt.as_ref().map(|&SoftPrompt { kind, tokens, .. }| Prompt { kind, tokens }),
            loras,
            shape,
            parameters: parameters(&plan.weights),
            memory: Memory {
                weights: weights.iter().map(|group| group.bytes).sum(),
                arena_per_token: plan.arena_bytes_per_token as u64,
                unshared_per_token: plan.unshared_bytes_per_token as u64,
                kv_per_token: kv_per_token as u64,
            },
            weights,
            stored,
            compute: plan.compute,
            kv: plan.kv.name(),
            tokenizer,
            producer: &plan.producer,
            passes: &plan.passes,
            generation: &plan.generation,
        }
    }

    fn text(&self) -> String {
        let shape = self.shape;
        let compute = self.compute.name();
        let mut rows = vec![
            ["head".to_owned(), self.head.to_owned()],
            ["parameters".to_owned(), count(self.parameters)],
            ["vocabulary".to_owned(), shape.vocab_size.to_string()],
            ["layers".to_owned(), format!("{} of width {}", shape.layers, shape.hidden_size)],
            [
                "attention".to_owned(),
                format!(
                    "{} heads of {}, {} for keys and values",
                    shape.heads, shape.head_dim, shape.kv_heads
                ),
            ],
            ["feed-forward".to_owned(), format!("width {}", shape.intermediate_size)],
            ["context".to_owned(), self.context()],
            ["tokenizer".to_owned(), if self.tokenizer { "yes" } else { "none" }.to_owned()],
            ["compute".to_owned(), compute.to_owned()],
        ];
        if let Some(labels) = self.labels {
            rows.insert(1, ["labels".to_owned(), labels.join(", ")]);
        }
        for Lora { path, scale } in &self.loras {
            let scaled = if *scale == 1.0 { String::new() } else { format!(", scaled by {scale}") };
            rows.push(["LoRA merged".to_owned(), format!("{path}{scaled}")]);
        }
        for group in &self.weights {
            let (tensors, size) = (group.tensors, bytes(group.bytes));
            rows.push([format!("{} weights", group.dtype), format!("{size} in {tensors} tensors")]);
        }
        for StoredWeights { format, tensors } in &self.stored {
            let matrices = if tensors.len() == 1 { "matrix" } else { "matrices" };
            rows.push([format!("in {format}"), format!("{} {matrices} of the checkpoint", tensors.len())]);
        }
        let memory = &self.memory;
        let (arena, unshared) = (bytes(memory.arena_per_token), bytes(memory.unshared_per_token));
        rows.push([
            "activations".to_owned(),
            format!("{arena} a token of a chunk ({unshared} without reuse)"),
        ]);
        rows.push(["KV cache".to_owned(), format!("{} a token, {}", bytes(memory.kv_per_token), self.kv)]);
        for pass in self.passes {
            rows.push([format!("pass {}", pass.name), firings(pass)]);
        }
        table(&rows)
    }
}

impl Facts<'_> {
    /// The tokens that the model has positions for, and those that a soft prompt takes of them.
    fn context(&self) -> String {
        let context = self.shape.max_context;
        match &self.soft_prompt {
            None => format!("{context} tokens"),
            Some(Prompt { kind, tokens }) => {
                format!("{context} tokens, {tokens} of them a soft prompt ({})", kind.name())
            }
        }
    }
}

/// The weights that `checkpoint` has quantized, by their formats.
fn stored(checkpoint: &Checkpoint) -> Vec<StoredWeights> {
    let mut formats: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, weight) in &checkpoint.weights {
        if let Some(codes) = weight.stored_codes() {
            formats.entry(stored_format(codes)).or_default().push(name.clone());
        }
    }
    formats.into_iter().map(|(format, tensors)| StoredWeights { format, tensors }).collect()
}

/// How often the rules of a pass changed the graph: `FuseQkv 4`.
fn firings(pass: &PassRecord) -> String {
    let fired = pass.firings.iter().filter(|(_, times)| *times > 0);
    let fired: Vec<String> = fired.map(|(rule, times)| format!("{rule} {times}")).collect();
    if fired.is_empty() { "nothing to do".to_owned() } else { fired.join(", ") }
}

/// The weights by dtype.
pub(super) fn weights(entries: &[WeightEntry]) -> Vec<Weights> {
    let mut groups: Vec<Weights> = Vec::new();
    for entry in entries {
        let dtype = match entry.layout {
            WeightLayout::Matrix(layout) => layout.dtype.name(),
            WeightLayout::Vector { .. } => "f32",
        };
        let elements = elements(entry.layout);
        let size = entry.layout.bytes().unwrap_or(0) as u64;
        match groups.iter_mut().find(|group| group.dtype == dtype) {
            Some(group) => {
                group.tensors += 1;
                group.elements += elements;
                group.bytes += size;
            }
            None => groups.push(Weights { dtype, tensors: 1, elements, bytes: size }),
        }
    }
    groups
}

/// Elements of the checkpoint's tensors; rotary frequencies are computed and do not count.
pub(super) fn parameters(entries: &[WeightEntry]) -> u64 {
    let learned = entries.iter().filter(|entry| !entry.recipe.starts_with("inv_freq("));
    learned.map(|entry| elements(entry.layout)).sum()
}

fn elements(layout: WeightLayout) -> u64 {
    match layout {
        WeightLayout::Matrix(layout) => layout.rows as u64 * layout.cols as u64,
        WeightLayout::Vector { len } => len as u64,
    }
}
