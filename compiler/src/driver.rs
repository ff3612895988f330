//! The way from a checkpoint to a target's output, in one place: build, pass, legalize, emit.
//!
//! [`compile`] goes to the native target, [`export`] to ONNX, [`convert`] to Hugging Face's layout without a graph.

mod convert;
mod export;

use llamac_ir::rewrite::AnyOp;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics, reason};
use llamac_plan::{Compute, KvDtype, PassRecord};
use rayon::ThreadPool;

use crate::model::{self, ModelOptions};
use crate::output::Output;
use crate::passes::{
    self, Outcome, PassManager, PassReport, Stage, WeightPolicy, assign_schemes, merge_lora,
};
use crate::source::Checkpoint;
use crate::target::Legalized;
use crate::target::native::{self, Artifact, Native, NativeOptions};
use crate::verify;
use crate::weights::{Requantized, WeightReader, requantized};

pub use convert::{ConvertOptions, Converted, convert};
pub use export::{ExportOptions, Exported, export, lower_for_export};

/// Hears how far a long piece of work has come.
pub trait Progress: Sync {
    /// The work is `bytes` long.
    fn start(&self, bytes: u64);

    /// Another `bytes` are done. Called from any thread.
    fn advance(&self, bytes: u64);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: u64) {}

    fn advance(&self, _: u64) {}
}

/// How a checkpoint is compiled for the native target.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// The precision of matrix products unless a run asks for another.
    pub compute: Compute,
    /// The cache's dtype unless a run asks for another.
    pub kv: KvDtype,
    /// The longest context, where it is shorter than the model's.
    pub max_context: Option<u64>,
    /// Whether the legal graph is compared with the model's before anything is written: [`verify::graphs`].
    pub verify: bool,
    /// Threads that pack weights.
    pub threads: usize,
    /// What is asked of the passes.
    pub passes: passes::Options,
}

impl Default for CompileOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            compute: Compute::Auto,
            kv: KvDtype::F32,
            max_context: None,
            verify: false,
            threads,
            passes: passes::Options::default(),
        }
    }
}

impl CompileOptions {
    fn native(&self) -> NativeOptions {
        NativeOptions { compute: self.compute, kv: self.kv, max_context: self.max_context }
    }
}

/// What a compilation gives.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The graph, and what the passes did.
    pub outcome: Outcome,
    /// What was written; nothing if the passes were stopped before the graph was legal.
    pub artifact: Option<Artifact>,
    /// What became of weights that another method had quantized; nothing where none was read.
    pub requantized: Vec<Requantized>,
}

/// Takes `checkpoint` through the passes to what the native target can take.
///
/// # Errors
/// When a pass of that name does not exist, a dump cannot be written, or the graph cannot be made legal.
pub fn lower(checkpoint: &Checkpoint, passes: &passes::Options) -> Result<Outcome, Diagnostics> {
    manager(checkpoint, passes)?.run(model::build(checkpoint, &model())?, &Native)
}

/// A manager for what `passes` ask for, and for the adapters of `checkpoint`.
fn manager(checkpoint: &Checkpoint, passes: &passes::Options) -> Result<PassManager, Diagnostics> {
    PassManager::new(passes::Options { adapted: checkpoint.adapted.clone(), ..passes.clone() })
}

/// What the native target wants of a model.
fn model() -> ModelOptions {
    ModelOptions { hidden_states: true, ..ModelOptions::default() }
}

/// Compiles `checkpoint` for the native target into `output`, which is left to the caller to publish.
///
/// # Errors
/// As [`lower`], when the output cannot be written or a weight not read, and when verifying finds a difference.
pub fn compile(
    checkpoint: &Checkpoint,
    options: &CompileOptions,
    output: &Output,
    progress: &dyn Progress,
) -> Result<Compiled, Diagnostics> {
    let outcome = lower(checkpoint, &options.passes)?;
    let Stage::Legalized(legalized) = &outcome.stage else {
        return Ok(Compiled { outcome, artifact: None, requantized: Vec::new() });
    };
    if options.verify {
        verify(checkpoint, &model(), &options.passes.weights, legalized)?;
    }
    let planned = native::plan(checkpoint, legalized, records(&outcome), &options.native())?;
    let artifact = pool(options.threads)?.install(|| native::emit(checkpoint, planned, output, progress))?;
    let requantized =
        requantized(legalized.graph(), WeightReader::new(checkpoint)).map_err(Diagnostic::from)?;
    Ok(Compiled { artifact: Some(artifact), requantized, outcome })
}

/// Compares `legalized` with the graph of `model` that it was made from, with weights that are stored as `weights` says.
fn verify(
    checkpoint: &Checkpoint,
    model: &ModelOptions,
    weights: &WeightPolicy,
    legalized: &Legalized,
) -> Result<(), Diagnostics> {
    let mut before = model::build(checkpoint, model)?;
    merge_lora(&mut before, &checkpoint.adapted, &AnyOp)?;
    assign_schemes(&mut before, weights, &AnyOp)?;
    verify::graphs(checkpoint, &before, legalized.graph())?;
    Ok(())
}

/// What [`compile`] would make of `checkpoint`, without reading a weight or writing anything.
///
/// # Errors
/// As [`lower`].
pub fn dry_run(checkpoint: &Checkpoint, options: &CompileOptions) -> Result<Compiled, Diagnostics> {
    let outcome = lower(checkpoint, &options.passes)?;
    let Stage::Legalized(legalized) = &outcome.stage else {
        return Ok(Compiled { outcome, artifact: None, requantized: Vec::new() });
    };
    let planned = native::plan(checkpoint, legalized, records(&outcome), &options.native())?;
    let artifact = native::dry_run(checkpoint, planned)?;
    Ok(Compiled { outcome, artifact: Some(artifact), requantized: Vec::new() })
}

/// What the passes did, for the output to tell.
fn records(outcome: &Outcome) -> Vec<PassRecord> {
    let record = |pass: &PassReport| PassRecord {
        name: pass.name.to_owned(),
        firings: pass.firings.iter().map(|&(rule, count)| (rule.to_owned(), count)).collect(),
    };
    outcome.report.passes.iter().map(record).collect()
}

fn pool(threads: usize) -> Result<ThreadPool, Diagnostic> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| {
        Diagnostic::new(Code::NoThreads)
            .message(format!("{threads} threads were asked for: {}", reason(&e)))
            .help("ask for fewer, as with --threads 1: the results are the same")
    })
}
