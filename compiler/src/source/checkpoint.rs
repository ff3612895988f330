//! A whole checkpoint: configuration, weights and tokenizer of one model, checked against each other.
//!
//! Weights stay in their files, mapped, until somebody asks for bytes. Not here: how it is opened, which is a matter of
//! its layout.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use llamac_ir::{DType, Weight};
use llamac_plan::diagnostic::{Code, Diagnostic};
use llamac_plan::{GenerationDefaults, PromptKind, SoftPrompt};

use super::Head;
use super::config::Config;
use super::file::MappedFile;
use super::locate;
use super::members::Members;
use super::names::{self, EMBEDDING, LM_HEAD};
use super::safetensors::StoredTensor;
use super::tokenizer::TokenizerFiles;
use crate::weights::RowNorms;

/// A tensor of the files, before the head is known.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// The position of its file.
    pub file: usize,
    /// The name of its file.
    pub file_name: Arc<str>,
    /// What the file's header says.
    pub stored: StoredTensor,
}

/// Where the weights of a tensor are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name of its file within the checkpoint.
    pub file: Arc<str>,
    /// Its name in that file.
    pub stored_name: String,
    /// The type of its elements: F32, F16 or BF16; others, U8 for packed ones, where it is a part of quantized weights.
    pub dtype: DType,
    /// Its sizes, outermost first: one or two.
    pub shape: Vec<usize>,
    /// The position of its file.
    pub(super) position: usize,
    pub(super) range: Range<usize>,
    pub(super) strides: Option<Vec<usize>>,
}

impl TensorInfo {
    /// Where its bytes are in its file.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The distances of neighbours in each dimension, in elements, where its elements do not follow each other row after
    /// row; the first one is where its bytes begin.
    pub fn strides(&self) -> Option<&[usize]> {
        self.strides.as_deref()
    }
}

/// A module with what adapters add to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapted {
    /// The weight without them.
    pub base: Weight,
    /// The weight with them.
    pub weight: Weight,
    /// The bias with them, where they have one.
    pub bias: Option<Weight>,
}

/// Whether input and output embedding are one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// The configuration does not tie them, or the head has no output embedding.
    Untied,
    /// They are one: [`EMBEDDING`].
    Tied,
    /// The configuration ties them, but the files hold two that differ: both are used, as transformers does.
    Different,
}

/// A LLaMA checkpoint, in Hugging Face's layout, in Meta's, or a GGUF file.
#[derive(Debug)]
pub struct Checkpoint {
    /// The directory or the file, as it was given.
    pub path: PathBuf,
    /// The model's description.
    pub config: Config,
    /// The file that it was read from, or one that says the same.
    pub config_json: Vec<u8>,
    /// How it wants to be decoded.
    pub generation: GenerationDefaults,
    /// The file that this was read from, or one that says the same, if there is one.
    pub generation_json: Option<Vec<u8>>,
    /// What is computed from the trunk.
    pub head: Head,
    /// What the recipes of the weights are made of, by the names that they use; in Hugging Face's layout, the tensors by
    /// canonical name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The weights that configuration and head call for, by canonical name; no others.
    pub weights: BTreeMap<String, Weight>,
    /// The modules that adapters add something to, by name: `model.layers.0.self_attn.q_proj`. Their weights are here as
    /// well as in `weights`, where they are those of the base.
    pub adapted: BTreeMap<String, Adapted>,
    /// What readers of weights remember.
    pub(crate) row_norms: RowNorms,
    /// What comes before every text: recipes of f32.
    pub prompt: Option<SoftPrompt<Weight>>,
    /// Whether the embeddings are one.
    pub tie: Tie,
    /// The tokenizer's files.
    pub tokenizer: TokenizerFiles,
    /// The directory that they are from, or the GGUF file.
    pub tokenizer_path: PathBuf,
    /// Tensors of the files that the model does not use, by their stored names.
    pub ignored: Vec<String>,
    /// What is odd, but has one meaning: sentences.
    pub warnings: Vec<String>,
    pub(super) files: Vec<MappedFile>,
    /// The file that names the shards, if there is one.
    pub(super) index: Option<&'static str>,
}

impl Checkpoint {
    /// The head, with what its outputs mean.
    pub fn plan_head(&self) -> llamac_plan::Head {
        use llamac_plan::Head as Plan;
        let config = &self.config;
        match self.head {
            Head::Base => Plan::Base,
            Head::CausalLm => Plan::CausalLm,
            Head::SequenceClassification => Plan::SequenceClassification {
                labels: config.labels.clone(),
                pad_token_id: config.pad_token_id,
                problem_type: config.problem_type.clone(),
            },
            Head::TokenClassification => Plan::TokenClassification { labels: config.labels.clone() },
            Head::QuestionAnswering => Plan::QuestionAnswering,
        }
    }

    /// The same model with some of its layers only, numbered from 0 on.
    ///
    /// # Errors
    /// When it does not have them, or none are left.
    pub fn with_layers(mut self, layers: Range<usize>) -> Result<Self, Diagnostic> {
        let all = self.config.num_hidden_layers;
        if layers.is_empty() || layers.end > all {
            return Err(Diagnostic::new(Code::BadArgument)
                .at(format!("--layers {}..{}", layers.start, layers.end))
                .expected(format!("layers of 0..{all}, at least one (the second number is not included)")));
        }
        self.weights = kept(std::mem::take(&mut self.weights), &layers);
        self.adapted = kept(std::mem::take(&mut self.adapted), &layers);
        if let Some(prompt) = self.prompt.as_mut().filter(|prompt| prompt.kind == PromptKind::Prefix) {
            prompt.weights = prompt.weights[layers.clone()].to_vec();
        }
        self.keep_used_tensors();
        self.config.num_hidden_layers = layers.len();
        let mut members: Members = serde_json::from_slice(&self.config_json)
            .map_err(|error| Diagnostic::new(Code::BadJson).at(locate::CONFIG).message(error.to_string()))?;
        members.set("num_hidden_layers", &layers.len());
        self.config_json = members.text().unwrap_or(self.config_json);
        Ok(self)
    }

    /// Whether the files have some of its weights as codes of few bits.
    pub fn is_quantized(&self) -> bool {
        self.weights.values().any(|weight| weight.stored_codes().is_some())
    }

    /// Forgets the tensors of which no weight is made.
    pub(super) fn keep_used_tensors(&mut self) {
        let mut used = BTreeSet::new();
        let adapted = self.adapted.values().flat_map(|module| [Some(&module.weight), module.bias.as_ref()]);
        let prompt = self.prompt.iter().flat_map(|prompt| &prompt.weights);
        for weight in self.weights.values().chain(adapted.flatten()).chain(prompt) {
            weight.for_each_source(&mut |_, tensor| {
                used.insert(tensor.to_owned());
            });
        }
        self.tensors.retain(|name, _| used.contains(name));
    }

    /// The canonical name under which a tensor is stored: that of the input embedding for an output embedding that is
    /// tied to it, else `name`.
    pub fn resolve<'a>(&self, name: &'a str) -> &'a str {
        if name == LM_HEAD && self.tie == Tie::Tied { EMBEDDING } else { name }
    }

    /// How a weight is made, by canonical name, ties resolved.
    pub fn weight(&self, name: &str) -> Option<&Weight> {
        self.weights.get(self.resolve(name))
    }

    /// A tensor of the files by the name that recipes use, ties resolved.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(self.resolve(name))
    }

    /// The little-endian bytes of a tensor in the mapped file, row after row unless it has strides; nothing for a name that
    /// the model does not have. They may lie at any address.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let tensor = self.tensor(name)?;
        self.files.get(tensor.position)?.bytes().get(tensor.range.clone())
    }

    /// The file that names the files of the weights, if there is one.
    pub(crate) fn index(&self) -> Option<&'static str> {
        self.index
    }

    /// The files of the weights, of adapters too.
    pub fn files(&self) -> &[MappedFile] {
        &self.files
    }
}

/// What belongs to some of the layers or to none, these numbered from 0 on.
fn kept<T>(named: BTreeMap<String, T>, layers: &Range<usize>) -> BTreeMap<String, T> {
    let kept = |(name, value): (String, T)| match names::layer(&name) {
        Some((n, _)) if !layers.contains(&n) => None,
        Some((n, rest)) => Some((format!("model.layers.{}.{rest}", n - layers.start), value)),
        None => Some((name, value)),
    };
    named.into_iter().filter_map(kept).collect()
}
