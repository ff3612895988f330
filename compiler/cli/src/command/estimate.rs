//! `llamac estimate`: what a model will take, from the plan that would run it, before anything is compiled.

use std::path::PathBuf;

use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_compiler::driver::{self, CompileOptions};
use llamac_compiler::ir::{Bindings, Symbol};
use llamac_compiler::passes::{self, WeightPolicy};
use llamac_compiler::report;
use llamac_compiler::source::EMBEDDING;
use llamac_runtime::plan::{Head, ModelShape, Plan, SoftPrompt, WeightId};
use llamac_runtime::{EngineOptions, cache_bytes};
use serde::Serialize;

use super::inspect::{Weights as Group, parameters, weights};
use crate::args::{ChangeArgs, HeadArg, Kv, WeightsParser, whole};
use crate::console::{Console, Stdout};
use crate::failure::Failure;
use crate::human::{bytes, count, table};
use crate::model;

/// Tell sizes, memory, arithmetic and limits of speed before anything is compiled
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A checkpoint: a directory, Hugging Face's or Meta's, or a GGUF file
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Tokens of each sequence [default: the model's longest context]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>(1..=u32::MAX as u64))]
    context: Option<u32>,
    /// Sequences at a time
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true,
        value_parser = whole::<u32>(1..=u32::MAX as u64))]
    batch: u32,
    /// The head to compile
    #[arg(long, value_enum, default_value_t = HeadArg::Auto)]
    head: HeadArg,
    #[command(flatten)]
    changes: ChangeArgs,
    /// How weights are stored, as `compile` takes it: q4,down_proj=q8 [default: as-is]
    #[arg(long, value_name = "FORMAT[,NAME=FORMAT]", value_parser = WeightsParser)]
    weights: Option<WeightPolicy>,
    /// How the cache stores keys and values
    #[arg(long, value_enum, default_value_t = Kv::F32)]
    kv: Kv,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints, and the table shows.
#[derive(Debug, Serialize)]
struct Estimate<'a> {
    head: &'static str,
    shape: &'a ModelShape,
    context: u64,
    batch: u64,
    parameters: u64,
    weights: Vec<Group>,
    /// Size of the compiled model.
    artifact_bytes: u64,
    memory: Memory,
    flops: Flops,
    decode: Decode,
}

/// Memory of a run, in bytes: the weights are mapped from the compiled model, the others are private.
#[derive(Debug, Serialize)]
struct Memory {
    weights: u64,
    /// Keys and values of all sequences at full length.
    cache: u64,
    /// Activations of the tokens that are computed at a time.
    activations: u64,
    total: u64,
}

/// Floating-point operations; a multiplication and an addition are two.
#[derive(Debug, Serialize)]
struct Flops {
    /// For all tokens of all sequences.
    prefill: u64,
    /// For the last token of each sequence.
    decode: u64,
}

/// What limits the speed of decoding: every step reads the weights once, and the cache of each sequence.
#[derive(Debug, Serialize)]
struct Decode {
    /// Bytes that the last token of every sequence together makes a step read.
    read_bytes: u64,
    /// Steps a second that memory allows for each 10 GB/s that it delivers.
    steps_per_second_at_10_gb_s: f64,
}

impl Args {
    /// Prints the estimate.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        let checkpoint = model::checkpoint(&self.checkpoint, self.head.head(), &self.changes, console)?;
        let policy = self.weights.clone().unwrap_or_default();
        let passes = passes::Options { weights: policy, ..passes::Options::default() };
        let options = CompileOptions { kv: self.kv.into(), passes, ..CompileOptions::default() };
        let compiled = driver::dry_run(&checkpoint, &options)?;
        let artifact = compiled.artifact.as_ref().expect("no pass was asked to be the last");
        let plan = &artifact.plan;
        let prompt = plan.prompt_tokens() as u64;
        let read = plan.prompt.as_ref().map_or(0, SoftPrompt::read_tokens) as u64;
        let (longest, context) = (plan.shape.max_context as u64 - prompt, self.context.map(u64::from));
        if context.is_some_and(|context| context > longest) {
            let fault =
                Diagnostic::new(Code::ContextFull).at(format!("--context {}", context.unwrap_or_default()));
            return Err(fault.expected(format!("at most {longest} tokens, the model's own context")).into());
        }
        let (context, batch) = (context.unwrap_or(longest), u64::from(self.batch));
        let weights = weights(&plan.weights);
        let memory = self.memory(plan, &weights, context + prompt)?;
        let graph = compiled.outcome.stage.graph();
        let flops = |seq: u64, past: u64| {
            let sizes = [(Symbol::Batch, batch), (Symbol::Seq, seq), (Symbol::Past, past), (Symbol::Keep, 1)];
            let sizes =
                sizes.into_iter().fold(Bindings::new(), |all, (symbol, n)| all.with(symbol, n as i64));
            let too_many =
                || Diagnostic::new(Code::OutOfMemory).message("the work cannot be counted in 64 bits");
            report::flops(graph, &sizes).ok_or_else(|| too_many().help("give a smaller --batch or --context"))
        };
        let flops =
            Flops { prefill: flops(read + context, prompt - read)?, decode: flops(1, prompt + context - 1)? };
        // Less than the total, which could be counted.
        let read_bytes = read_bytes(plan) + memory.cache;
        let estimate = Estimate {
            head: plan.head.name(),
            shape: &plan.shape,
            context,
            batch,
            parameters: parameters(&plan.weights),
            weights,
            artifact_bytes: artifact.bytes,
            memory,
            flops,
            decode: Decode { read_bytes, steps_per_second_at_10_gb_s: 1e10 / read_bytes as f64 },
        };
        let mut out = Stdout::lock();
        match self.json {
            true => {
                let json = serde_json::to_string(&estimate).expect("numbers and strings are JSON");
                writeln!(out, "{json}")?;
            }
            false => write!(out, "{}", estimate.text())?,
        }
        out.flush()
    }

    /// For sequences of `slots` entries in the cache.
    fn memory(&self, plan: &Plan, weights: &[Group], slots: u64) -> Result<Memory, Diagnostics> {
        let too_large = || {
            let fault = Diagnostic::new(Code::OutOfMemory).message("the cache does not fit into any memory");
            fault.help("give a smaller --batch or --context")
        };
        let cache = usize::try_from(slots).ok().and_then(|slots| cache_bytes(plan, None, slots));
        let cache =
            cache.and_then(|bytes| bytes.checked_mul(self.batch as usize)).ok_or_else(too_large)? as u64;
        let tokens = EngineOptions::default().chunk_tokens(plan);
        let activations = (tokens * plan.arena_bytes_per_token) as u64;
        let weights: u64 = weights.iter().map(|group| group.bytes).sum();
        let total = (weights + activations).checked_add(cache).ok_or_else(too_large)?;
        Ok(Memory { weights, cache, activations, total })
    }
}

/// Bytes of weights that a step reads: all, but for an embedding of which it takes a row, and a soft prompt.
fn read_bytes(plan: &Plan) -> u64 {
    let is_prompt = |id| plan.prompt.as_ref().is_some_and(|prompt| prompt.weights.contains(&WeightId(id)));
    let weights = plan.weights.iter().enumerate().filter(|(id, _)| !is_prompt(*id));
    let multiplied = weights.map(|(_, entry)| entry).filter(|entry| {
        let is_output = plan.head == Head::CausalLm
            && plan.weights.iter().all(|other| !other.tensor.starts_with("lm_head."));
        entry.tensor != EMBEDDING || is_output
    });
    multiplied.filter_map(|entry| entry.layout.bytes()).sum::<usize>() as u64
}

impl Estimate<'_> {
    fn text(&self) -> String {
        let mut rows = vec![
            ["head".to_owned(), self.head.to_owned()],
            ["parameters".to_owned(), count(self.parameters)],
        ];
        for group in &self.weights {
            let (tensors, size) = (group.tensors, bytes(group.bytes));
            rows.push([format!("{} weights", group.dtype), format!("{size} in {tensors} tensors")]);
        }
        let Memory { weights, cache, activations, total } = self.memory;
        let sequences = match self.batch {
            1 => format!("{} tokens", self.context),
            n => format!("{n} sequences of {} tokens", self.context),
        };
        let flops = |n: u64| format!("{} floating-point operations", count(n));
        rows.extend([
            ["compiled model".to_owned(), bytes(self.artifact_bytes)],
            ["memory".to_owned(), format!("{} for {sequences}", bytes(total))],
            ["  weights, mapped".to_owned(), bytes(weights)],
            ["  KV cache".to_owned(), bytes(cache)],
            ["  activations".to_owned(), bytes(activations)],
            ["prefill".to_owned(), flops(self.flops.prefill)],
            ["a decoded token".to_owned(), flops(self.flops.decode)],
            [
                "limit of decoding".to_owned(),
                format!(
                    "{:.2} steps a second for each 10 GB/s of memory: a step reads {}",
                    self.decode.steps_per_second_at_10_gb_s,
                    bytes(self.decode.read_bytes)
                ),
            ],
        ]);
        table(&rows)
    }
}
