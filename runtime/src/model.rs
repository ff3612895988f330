//! A compiled model, open and checked: what sessions and engines share.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use llamac_plan::artifact::PLAN;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::{Frequencies, Plan, PromptKind, Step, WeightId, WeightLayout};

use crate::artifact::{self, Artifact, HEADER};
use crate::check;
use crate::kernels::Matrix;
use crate::text::Tokenizer;

/// How a model is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Compare every checksum, which reads the whole file once. Without it the header and the plan are still checked.
    pub verify: bool,
    /// Threads for that.
    pub threads: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { verify: true, threads: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

/// A compiled model: a mapped file and the plan in it. Cheap to share; all state of a run lives elsewhere.
#[derive(Debug)]
pub struct Model {
    artifact: Artifact,
    plan: Plan,
    /// The place of each weight of the plan in the file, of the size that its layout needs.
    weights: Vec<Range<usize>>,
}

impl Model {
    /// Opens the artifact at `path`.
    ///
    /// # Errors
    /// When the file is not an artifact of this version, is damaged, or its plan makes no sense. Every tensor that
    /// differs from its checksum is named.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Arc<Self>, Diagnostics> {
        Self::from_file(&artifact::open(path)?, path, options)
    }

    /// Opens the artifact in `file`, which messages call `path`; it need not have a name.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_file(file: &File, path: &Path, options: OpenOptions) -> Result<Arc<Self>, Diagnostics> {
        let artifact = Artifact::open(file, path)?;
        let differing = if options.verify { artifact.differing(options.threads)? } else { Vec::new() };
        let mut faults = artifact.faults(&differing);
        // What a damaged header or plan says is no fault of its own.
        if [HEADER, PLAN].iter().any(|part| differing.contains(part)) {
            return Err(faults);
        }
        let plan = artifact.plan().and_then(|plan| match check::check(&plan, artifact.len()) {
            Ok(()) => Ok(plan),
            Err(why) => Err(artifact.damaged(format!("its plan makes no sense: {why}"))),
        });
        let Some(plan) = faults.absorb(plan.map_err(Diagnostics::from)) else { return Err(faults) };
        let mut weights = Vec::with_capacity(plan.weights.len());
        for entry in &plan.weights {
            match artifact.range(&entry.tensor) {
                Ok(range) if Some(range.len()) == entry.layout.bytes() && range.start % 4 == 0 => {
                    weights.push(range)
                }
                Ok(range) => faults.push(artifact.damaged(format!(
                    "tensor `{}` has {} bytes, misaligned or too few",
                    entry.tensor,
                    range.len()
                ))),
                Err(fault) => faults.push(fault),
            }
        }
        faults.or(Arc::new(Self { artifact, plan, weights }))
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        self.artifact.path()
    }

    /// The size of the file in bytes.
    pub fn file_size(&self) -> usize {
        self.artifact.len()
    }

    /// Tensors of the file: weights, plan, files of the checkpoint, checksums and padding.
    pub fn tensor_count(&self) -> usize {
        self.artifact.tensor_count()
    }

    /// A file of the checkpoint that travels in the artifact, such as `config.json`.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.artifact.file(name)
    }

    /// Whether a tokenizer travels in the artifact.
    pub fn has_tokenizer(&self) -> bool {
        ["tokenizer.json", "tokenizer.model"].iter().any(|name| self.file(name).is_some())
    }

    /// The tokenizer that travels in the artifact.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer, Diagnostics> {
        let place = |name: &str| format!("{}: {name}", self.path().display());
        let tokenizer = Tokenizer::from_files(|name| self.file(name), place)?;
        tokenizer.ok_or_else(|| {
            let fault = Diagnostic::new(Code::NoTokenizer).at(place("tokenizer.json"));
            fault.help("compile a checkpoint that holds a tokenizer").into()
        })
    }

    /// Elements of a row of the head's output: hidden size, vocabulary or number of labels.
    pub fn output_width(&self) -> usize {
        check::output_width(&self.plan)
    }

    /// Tokens that a sequence may have: the model's positions behind its soft prompt. Dynamic frequencies stretch to any
    /// length; there it is only what the artifact was limited to.
    pub fn context(&self) -> usize {
        let limit = self.plan.shape.max_context;
        match self.frequencies() {
            Some(&Frequencies::Dynamic { max_position, .. }) if limit as u64 >= max_position => usize::MAX,
            _ => limit - self.plan.prompt_tokens(),
        }
    }

    /// The rows of the soft prompt that are read in place of embeddings: `[tokens, hidden_size]`. None without one.
    pub(crate) fn prompt_rows(&self) -> &[f32] {
        match &self.plan.prompt {
            Some(prompt) if prompt.kind == PromptKind::Embeddings => self.vector(prompt.weights[0]),
            _ => &[],
        }
    }

    /// The part of the file that holds the weights.
    pub(crate) fn weight_bytes(&self) -> &[u8] {
        let start = self.weights.iter().map(|range| range.start).min().unwrap_or(0);
        let end = self.weights.iter().map(|range| range.end).max().unwrap_or(0);
        self.artifact.bytes(start..end)
    }

    /// A packed matrix of the plan.
    pub(crate) fn matrix(&self, id: WeightId) -> Matrix<'_> {
        match self.plan.weights[id.0].layout {
            WeightLayout::Matrix(layout) => {
                Matrix::new(layout, self.artifact.bytes(self.weights[id.0].clone()))
            }
            WeightLayout::Vector { .. } => unreachable!("the plan's check found a matrix here"),
        }
    }

    /// A vector of the plan.
    pub(crate) fn vector(&self, id: WeightId) -> &[f32] {
        bytemuck::cast_slice(self.artifact.bytes(self.weights[id.0].clone()))
    }

    /// The rule of the rotary frequencies; `None` if no step uses any.
    pub(crate) fn frequencies(&self) -> Option<&Frequencies> {
        self.plan.steps.iter().find_map(|step| match step {
            Step::RotaryAngles { frequencies, .. } => Some(frequencies),
            _ => None,
        })
    }
}
