//! Models that can be compared, whatever they are: checkpoints by the reference evaluator, compiled models by the runtime,
//! exported ones by tract.

use std::path::Path;
use std::sync::Arc;

use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_compiler::onnx::{self, Summary};
use llamac_compiler::passes::{PolicyEntry, WeightPolicy};
use llamac_compiler::source::{Checkpoint, Head};
use llamac_compiler::{reference, verify};
use llamac_runtime::plan::layout::WeightDtype;
use llamac_runtime::plan::{Compute, KvDtype, Plan, Step, WeightLayout};
use llamac_runtime::{Engine, EngineOptions, Model, OpenOptions, Output, Request, eval, is_artifact};

use crate::args::ChangeArgs;
use crate::console::Console;
use crate::{exported, model};

/// One of two models.
pub enum Side {
    /// With weights as they are to be stored.
    Checkpoint(Box<Checkpoint>, WeightPolicy),
    Compiled(Arc<Model>),
    Exported {
        model: exported::Model,
        narrowest: Option<String>,
    },
}

impl Side {
    /// Opens the model at `path`; a checkpoint for `head`, or for its own.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn open(
        path: &Path,
        head: Option<Head>,
        threads: usize,
        console: &Console,
    ) -> Result<Self, Diagnostics> {
        if let Some(file) = onnx::Model::locate(path) {
            let model = exported::open(path, console)?;
            let described = onnx::Model::open(&file)?;
            let weights = Summary::of(&described).weights;
            let narrowest = verify::narrowest(weights.iter().map(|weights| weights.dtype.as_ref()));
            return Ok(Self::Exported { model, narrowest: narrowest.map(str::to_owned) });
        }
        if path.is_file() && is_artifact(path) {
            return Ok(Self::Compiled(Model::open(path, OpenOptions { verify: true, threads })?));
        }
        let checkpoint = model::checkpoint(path, head, &ChangeArgs::default(), console)?;
        Ok(Self::Checkpoint(Box::new(checkpoint), WeightPolicy::default()))
    }

    /// The head, if the model says.
    pub fn head(&self) -> Option<Head> {
        match self {
            Self::Checkpoint(checkpoint, _) => Some(checkpoint.head),
            Self::Compiled(model) => Head::from_name(model.plan().head.name()),
            Self::Exported { .. } => None,
        }
    }

    /// The number of token ids, if the model says.
    fn vocab_size(&self) -> Option<usize> {
        match self {
            Self::Checkpoint(checkpoint, _) => Some(checkpoint.config.vocab_size),
            Self::Compiled(model) => Some(model.plan().shape.vocab_size),
            Self::Exported { .. } => None,
        }
    }

    /// The longest sequence, if the model says.
    fn context(&self) -> Option<usize> {
        match self {
            Self::Compiled(model) => Some(model.context()),
            Self::Checkpoint(..) | Self::Exported { .. } => None,
        }
    }

    fn has_cache(&self) -> bool {
        match self {
            Self::Checkpoint(..) | Self::Compiled(_) => true,
            Self::Exported { model, .. } => model.has_cache(),
        }
    }

    /// The dtype of the narrowest matrix.
    fn narrowest(&self) -> Option<&str> {
        match self {
            Self::Checkpoint(checkpoint, _) => {
                let matrices = checkpoint.tensors.values().filter(|tensor| tensor.shape.len() > 1);
                verify::narrowest(matrices.map(|tensor| tensor.dtype.name()))
            }
            Self::Compiled(model) => verify::narrowest(matrices(model.plan()).map(WeightDtype::name)),
            Self::Exported { narrowest, .. } => narrowest.as_deref(),
        }
    }

    /// Rounds the weights of a checkpoint to what `other` stores, if that is a compiled model: what is left then are
    /// differences of computing.
    pub fn round_as(&mut self, other: &Self) {
        if let (Self::Checkpoint(_, policy), Self::Compiled(model)) = (self, other) {
            // Modules have the same names on both sides, whatever their tensors are called.
            let plan = model.plan();
            let entries = plan.steps.iter().zip(&plan.modules).filter_map(|(step, module)| {
                let (Step::Embed { table: weight, .. }
                | Step::Linear { weight, .. }
                | Step::OutputLinear { weight, .. }) = step
                else {
                    return None;
                };
                let WeightLayout::Matrix(matrix) = plan.weights[weight.0].layout else { return None };
                let format = matrix.dtype.name().parse().expect("formats of matrices are those of policies");
                Some(unfused(module).into_iter().map(move |name| PolicyEntry { pattern: Some(name), format }))
            });
            let entries = entries.flatten();
            policy.entries = entries.collect();
        }
    }

    /// Outputs, and what the model tells of the way there.
    fn trace(&self, request: &Request, threads: usize) -> Result<Vec<Output>, Diagnostics> {
        match self {
            Self::Checkpoint(checkpoint, weights) => reference::trace(checkpoint, weights, request),
            Self::Compiled(model) => {
                // As the reference computes: what is compared is the model, not how it rounds activations.
                let compute = Some(Compute::F32);
                let mut engine =
                    Engine::new(model, EngineOptions { threads, compute, ..EngineOptions::default() })?;
                let request = Request { hidden_states: true, ..request.clone() };
                eval(&mut engine, &request, KvDtype::F32)
            }
            Self::Exported { model, .. } => model.trace(request),
        }
    }
}

/// The dtypes of a plan's matrices.
fn matrices(plan: &Plan) -> impl Iterator<Item = WeightDtype> {
    plan.weights.iter().filter_map(|entry| match &entry.layout {
        WeightLayout::Matrix(matrix) => Some(matrix.dtype),
        WeightLayout::Vector { .. } => None,
    })
}

/// The modules that a fused one is made of: `a.{q,k}_proj` is `a.q_proj` and `a.k_proj`.
fn unfused(module: &str) -> Vec<String> {
    let parts = module.split_once('{').and_then(|(before, rest)| {
        let (names, after) = rest.split_once('}')?;
        Some(names.split(',').map(|name| format!("{before}{name}{after}")).collect())
    });
    parts.unwrap_or_else(|| vec![module.to_owned()])
}

/// What a comparison has found.
pub struct Comparison {
    /// What both models read.
    pub request: Request,
    /// How far outputs were allowed to be from each other, as a part of their largest value.
    pub tolerance: f32,
    /// The outputs, which agree.
    pub agreed: Vec<verify::Agreed>,
}

impl Comparison {
    /// The largest difference, as a part of its output's largest value.
    pub fn largest(&self) -> f32 {
        self.agreed.iter().fold(0.0, |largest, agreed| largest.max(agreed.relative))
    }
}

/// Runs both models on `request`, or random tokens, and compares `found`, which is called `what`, with `reference`. The
/// tolerance is what the weights call for, unless it is given; those of a checkpoint and a compiled model are to be the
/// same ([`Side::round_as`]).
///
/// # Errors
/// `NumbersDiffer` if they do; what the models say of the request.
pub fn compare(
    [reference, found]: [&Side; 2],
    what: &str,
    request: Option<Request>,
    tolerance: Option<f32>,
    threads: usize,
) -> Result<Comparison, Diagnostics> {
    let sides = [reference, found];
    let request = match request {
        Some(request) => request,
        None => {
            let vocabularies = sides.iter().filter_map(|side| side.vocab_size());
            let vocab_size = vocabularies.min().ok_or_else(|| {
                let fault = Diagnostic::new(Code::BadArgument).at(what);
                let fault = fault.message("neither model says which token ids there are");
                fault.help("give some: --inputs FILE, as for `llamac eval`")
            })?;
            let context = sides.iter().filter_map(|side| side.context()).min().unwrap_or(usize::MAX);
            verify::request(vocab_size, context, sides.iter().all(|side| side.has_cache()))
        }
    };
    let tolerance = tolerance.unwrap_or_else(|| match (reference, found) {
        (Side::Checkpoint(..), Side::Compiled(_)) | (Side::Compiled(_), Side::Checkpoint(..)) => {
            verify::TOLERANCE
        }
        _ => match (reference.narrowest(), found.narrowest()) {
            (Some(a), Some(b)) => verify::tolerance([a, b]),
            _ => verify::TOLERANCE,
        },
    });
    let expected = reference.trace(&request, threads)?;
    let outputs = found.trace(&request, threads)?;
    let agreed = verify::agreement(what, &expected, &outputs, Some(&request), tolerance)?;
    Ok(Comparison { request, tolerance, agreed })
}
