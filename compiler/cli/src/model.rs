//! From a path to a model: a compiled one is opened, a checkpoint is compiled into a file without a name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics, shell_word};
use llamac_compiler::driver::{self, CompileOptions};
use llamac_compiler::output::Output;
use llamac_compiler::passes::{self, WeightPolicy};
use llamac_compiler::source::gguf::is_gguf;
use llamac_compiler::source::{Checkpoint, Head, TokenizerFiles, nearest_path};
use llamac_runtime::plan::{self, GenerationDefaults, Plan, PromptKind, Step, WeightLayout};
use llamac_runtime::text::Tokenizer;
use llamac_runtime::{Engine, EngineOptions, Model, OpenOptions, is_artifact};
use tracing::{debug, info};

use crate::args::{ChangeArgs, ModelArg};
use crate::console::Console;
use crate::human;
use crate::progress::{Bar, Unit};

/// What a path holds.
#[derive(Debug)]
pub enum Source {
    /// A checkpoint, which is not compiled.
    Checkpoint(Box<Checkpoint>),
    /// A compiled model.
    Artifact(Arc<Model>),
}

/// What a command can know of a model before it is compiled, so that nothing is compiled in vain.
impl Source {
    /// The head.
    pub fn head(&self) -> plan::Head {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.plan_head(),
            Self::Artifact(model) => model.plan().head.clone(),
        }
    }

    /// How the model wants to be decoded.
    pub fn generation(&self) -> &GenerationDefaults {
        match self {
            Self::Checkpoint(checkpoint) => &checkpoint.generation,
            Self::Artifact(model) => &model.plan().generation,
        }
    }

    /// Size of the vocabulary, and width of the hidden states.
    pub fn sizes(&self) -> (usize, usize) {
        match self {
            Self::Checkpoint(checkpoint) => (checkpoint.config.vocab_size, checkpoint.config.hidden_size),
            Self::Artifact(model) => (model.plan().shape.vocab_size, model.plan().shape.hidden_size),
        }
    }

    /// What a soft prompt consists of, if every text begins with one.
    pub fn prompt(&self) -> Option<PromptKind> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.prompt.as_ref().map(|prompt| prompt.kind),
            Self::Artifact(model) => model.plan().prompt.as_ref().map(|prompt| prompt.kind),
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer, Diagnostics> {
        match self {
            Self::Checkpoint(checkpoint) => read_tokenizer(&checkpoint.tokenizer, &checkpoint.tokenizer_path),
            Self::Artifact(model) => model.tokenizer(),
        }
    }
}

/// Opens the checkpoint at `path` for `head`, or for its own, with what `changes` it, and says what is odd about it.
///
/// # Errors
/// All that is wrong with it.
pub fn checkpoint(
    path: &Path,
    head: Option<Head>,
    changes: &ChangeArgs,
    console: &Console,
) -> Result<Checkpoint, Diagnostics> {
    if is_artifact(path) {
        let fault = Diagnostic::new(Code::BadArgument).at(path.display().to_string());
        let fault = fault.expected("a checkpoint's directory").found("a compiled model");
        return Err(fault.help(format!("run it: llamac run {} -p TEXT", shell_word(path))).into());
    }
    let mut warnings = Vec::new();
    let opened = Checkpoint::open_adapted(path, head, &changes.adapters(), &mut warnings);
    for warning in &warnings {
        console.warn(warning);
    }
    let checkpoint = match &changes.layers {
        Some(range) => opened?.with_layers(range.clone())?,
        None => opened?,
    };
    let (tensors, head) = (checkpoint.tensors.len(), checkpoint.head.name());
    info!("{}: a checkpoint of {tensors} tensors, head {head}", path.display());
    if !checkpoint.ignored.is_empty() {
        debug!("tensors without a use: {}", checkpoint.ignored.join(", "));
    }
    Ok(checkpoint)
}

/// Opens the checkpoint, with what `changes` it, or compiled model of `arg`.
///
/// # Errors
/// All that is wrong with it.
pub fn source(
    arg: &ModelArg,
    changes: &ChangeArgs,
    threads: usize,
    console: &Console,
) -> Result<Source, Diagnostics> {
    match (arg.path.is_file() && !is_gguf(&arg.path), changes.option()) {
        (true, Some(option)) if is_artifact(&arg.path) => {
            let fault = Diagnostic::new(Code::BadArgument).at(option);
            let fault =
                fault.expected("a checkpoint's directory").found("a compiled model, which is what it is");
            Err(fault.help(format!("compile the checkpoint with {option}")).into())
        }
        (true, _) => Ok(Source::Artifact(open(arg, threads)?)),
        (false, _) => match checkpoint(&arg.path, None, changes, console) {
            Ok(checkpoint) => Ok(Source::Checkpoint(Box::new(checkpoint))),
            Err(faults) if arg.path.exists() => Err(faults),
            Err(faults) => Err(faults.iter().map(|fault| fault.clone().expected(EXPECTED)).collect()),
        },
    }
}

/// What may be at the path of a model.
const EXPECTED: &str =
    "a directory with a checkpoint, Hugging Face's or Meta's, a GGUF file, or a compiled model";

/// Opens the compiled model of `arg`, which is a file.
fn open(arg: &ModelArg, threads: usize) -> Result<Arc<Model>, Diagnostics> {
    let opened = Model::open(&arg.path, OpenOptions { verify: !arg.no_check, threads });
    let Err(faults) = opened else { return opened };
    if !faults.iter().any(|fault| fault.code == Code::NotAnArtifact) {
        return Err(faults);
    }
    // Another kind of file: what reads checkpoints knows many, and a way out of them.
    match Checkpoint::open(&arg.path, None) {
        Err(hints) if hints.iter().any(|hint| hint.help.is_some()) => Err(hints),
        _ => Err(faults),
    }
}

/// Compiles `source`, which is at `path`, if it is not compiled, with its weights stored as `weights` says.
///
/// # Errors
/// When compiling fails, as for a full disk.
pub fn compiled(
    source: Source,
    path: &Path,
    weights: WeightPolicy,
    threads: usize,
    console: &Console,
) -> Result<Arc<Model>, Diagnostics> {
    let checkpoint = match source {
        Source::Artifact(model) => return Ok(model),
        Source::Checkpoint(checkpoint) => checkpoint,
    };
    let start = Instant::now();
    let output = Output::temporary()?;
    let passes = passes::Options { weights, ..passes::Options::default() };
    let options = CompileOptions { threads, passes, ..CompileOptions::default() };
    driver::compile(&checkpoint, &options, &output, &Bar::new(console, "compiling", Unit::Bytes))?;
    info!("compiled in {}", human::seconds(start.elapsed().as_secs_f64()));
    // The bytes were written by this process to a file that no other has opened: there is nothing to verify.
    Model::from_file(output.file(), path, OpenOptions { verify: false, threads })
}

/// An engine for `model` that computes as `options` say.
///
/// # Errors
/// When there is not enough memory, or the model has no weights for the precision.
pub fn engine(model: &Arc<Model>, options: EngineOptions, console: &Console) -> Result<Engine, Diagnostic> {
    let engine = Engine::new(model, options)?;
    if let Some(compute) = options.compute {
        note_of_compute(compute, model.path(), model.plan(), console);
    }
    Ok(engine)
}

/// Says which matrices of `plan`, which is at `path`, are not multiplied as `compute` asks for: those that are not
/// quantized, where that is in integers.
pub fn note_of_compute(compute: plan::Compute, path: &Path, plan: &Plan, console: &Console) {
    if compute != plan::Compute::Int8 {
        return;
    }
    let multiplied: BTreeSet<usize> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Linear { weight, .. } | Step::OutputLinear { weight, .. } => Some(weight.0),
            _ => None,
        })
        .collect();
    let mut others: BTreeMap<&str, u64> = BTreeMap::new();
    for weight in multiplied {
        if let WeightLayout::Matrix(layout) = plan.weights[weight].layout
            && !layout.dtype.is_quantized()
        {
            *others.entry(layout.dtype.name()).or_default() += 1;
        }
    }
    let others: Vec<String> =
        others.into_iter().map(|(dtype, n)| format!("{} of {dtype}", human::matrices(n))).collect();
    if !others.is_empty() {
        let path = path.display();
        console.note(format!(
            "{path}: --compute int8 is for quantized weights; not multiplied in integers: {}",
            others.join(", ")
        ));
    }
}

/// The tokenizer of the model of `arg`, which may be a folder that holds nothing else.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn tokenizer(arg: &ModelArg) -> Result<Tokenizer, Diagnostics> {
    let path = &arg.path;
    if is_gguf(path) {
        return read_tokenizer(&Checkpoint::open(path, None)?.tokenizer, path);
    }
    if path.is_file() {
        return open(arg, OpenOptions::default().threads)?.tokenizer();
    }
    let folder = TokenizerFiles::folder(path);
    read_tokenizer(&TokenizerFiles::read(&folder)?, &folder)
}

/// The tokenizer in the `files` of the folder `path`.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn read_tokenizer(files: &TokenizerFiles, path: &Path) -> Result<Tokenizer, Diagnostics> {
    let place = |name: &str| match path.is_dir() {
        true => path.join(name).display().to_string(),
        // The files are made of what one file says.
        false => format!("{}: {name}", path.display()),
    };
    Tokenizer::from_files(|name| files.file(name), place)?.ok_or_else(|| no_tokenizer(path))
}

/// Says what is wrong with the tokenizer of a checkpoint from which something is made.
pub fn warn_of_tokenizer(checkpoint: &Checkpoint, console: &Console) {
    if checkpoint.tokenizer.is_some()
        && let Err(faults) = read_tokenizer(&checkpoint.tokenizer, &checkpoint.tokenizer_path)
    {
        for fault in faults.iter() {
            let place = fault.at.as_deref().unwrap_or_default();
            let found = fault.expected.as_ref().zip(fault.found.as_ref());
            let found = found.map(|(expected, found)| format!("expected {expected}, found {found}"));
            let why = fault.message.clone().or(found).unwrap_or_default();
            let title = fault.code.title();
            console.warn(format!(
                "{place}: {title}: {why}; commands that read or write text will refuse the model"
            ));
        }
    }
}

fn no_tokenizer(path: &Path) -> Diagnostics {
    if is_gguf(path) {
        let fault = Diagnostic::new(Code::NoTokenizer).at(path.display().to_string());
        return fault.expected("one that llamac knows in tokenizer.ggml.model and tokenizer.ggml.pre").into();
    }
    if !path.is_dir()
        && let Err(faults) = Checkpoint::open(path, None)
    {
        return faults;
    }
    let fault = Diagnostic::new(Code::NoTokenizer).at(path.display().to_string());
    fault.expected("a tokenizer.json or a tokenizer.model in it").into()
}

/// The fault of a file that was given by name and is not there, with a near name that is.
pub fn no_file(path: &Path) -> Diagnostic {
    let fault = Diagnostic::new(Code::MissingFile).at(path.display().to_string()).found("no such file");
    match nearest_path(path) {
        Some(near) => fault.help(format!("did you mean {}?", near.display())),
        None => fault,
    }
}
