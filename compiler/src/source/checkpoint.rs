//! A whole checkpoint: configuration, weights and tokenizer of one directory, checked against each other.
//!
//! Opening reads headers and small files only. Weights stay in their files, mapped, until somebody asks for bytes;
//! the one exception is the comparison of two embeddings that a configuration says are one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llamac_ir::{DType, Weight};
use llamac_plan::GenerationDefaults;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::Head;
use super::config::Config;
use super::file::{self, MappedFile};
use super::head::{self, HeadTensors};
use super::members::Members;
use super::names::{self, EMBEDDING, LM_HEAD, Meaning, QA_OUTPUTS, SCORE, SCORE_BIAS};
use super::peft::{self, Adapted};
use super::safetensors::StoredTensor;
use super::shards::{self, Weights};
use super::table::{self, HUGGING_FACE, Table};
use super::tokenizer::TokenizerFiles;
use super::{generation, gguf, ignored, json, locate, meta};

pub(crate) const GENERATION: &str = "generation_config.json";

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
    /// The type of its elements: F32, F16 or BF16; U8 where rows are stored in blocks.
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
    /// Opens the directory `path`, or the GGUF file, for `head` or for the one that it holds.
    ///
    /// # Errors
    /// All faults of its files together: see the modules of `source`. What is no checkpoint at all is one fault, with
    /// a hint at what it is.
    pub fn open(path: impl AsRef<Path>, head: Option<Head>) -> Result<Self, Diagnostics> {
        let mut warnings = Vec::new();
        let opened = Self::open_telling(path.as_ref(), head, &mut warnings)?;
        Ok(Self { warnings, ..opened })
    }

    /// As [`Checkpoint::open`], but what is odd goes to `warnings`, also where opening fails: it may be the cause.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_telling(
        path: &Path,
        head: Option<Head>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Diagnostics> {
        if gguf::is_gguf(path) {
            return gguf::open(path, head, warnings);
        }
        if meta::is_meta(path) {
            return meta::open(path, head, warnings);
        }
        let config = path.join(locate::CONFIG);
        match config.try_exists() {
            Ok(true) => {}
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(file::failed(&config, &e).into());
            }
            _ => return Err(locate::no_config(path).into()),
        }
        let mut faults = Diagnostics::new();
        let config_json = file::read(&config, json::MAX_BYTES)?.unwrap_or_default();
        let config = faults.absorb(Config::parse(locate::CONFIG, &config_json, warnings));
        if faults.iter().any(|fault| fault.code == Code::UnsupportedModel) {
            return Err(faults);
        }
        let generation_json = faults.absorb(read_generation(path)).flatten();
        let generation = generation::parse(GENERATION, generation_json.as_deref(), config.as_ref(), warnings);
        let generation = faults.absorb(generation);
        let tokenizer = faults.absorb(TokenizerFiles::read(path));
        if let (Some(config), Some(tokenizer)) = (&config, &tokenizer) {
            faults.absorb(tokenizer.check_vocabulary(config.vocab_size, warnings).map_err(Diagnostics::from));
        }
        let weights = faults.absorb(shards::open(path));
        let named = weights.and_then(|weights| faults.absorb(Named::new(weights)));
        let model = config
            .as_ref()
            .zip(named.as_ref())
            .and_then(|(config, named)| faults.absorb(named.model(config, head, warnings)));
        match (config, generation, tokenizer, named, model) {
            (Some(config), Some(generation), Some(tokenizer), Some(named), Some(model))
                if faults.is_empty() =>
            {
                let Model { head, tie, tensors, weights, ignored } = model;
                let Named { root, files, .. } = named;
                let index = Some(root).filter(|root| root.ends_with(".json"));
                Ok(Self {
                    path: path.to_owned(),
                    config,
                    config_json,
                    generation,
                    generation_json,
                    head,
                    tensors,
                    weights,
                    adapted: BTreeMap::new(),
                    tie,
                    tokenizer,
                    tokenizer_path: path.to_owned(),
                    ignored,
                    warnings: Vec::new(),
                    files,
                    index,
                })
            }
            _ => Err(faults),
        }
    }

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
        self.keep_used_tensors();
        self.config.num_hidden_layers = layers.len();
        let mut members: Members = serde_json::from_slice(&self.config_json)
            .map_err(|error| Diagnostic::new(Code::BadJson).at(locate::CONFIG).message(error.to_string()))?;
        members.set("num_hidden_layers", &layers.len());
        self.config_json = members.text().unwrap_or(self.config_json);
        Ok(self)
    }

    /// Forgets the tensors of which no weight is made.
    pub(super) fn keep_used_tensors(&mut self) {
        let mut used = BTreeSet::new();
        let adapted = self.adapted.values().flat_map(|module| [Some(&module.weight), module.bias.as_ref()]);
        for weight in self.weights.values().chain(adapted.flatten()) {
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

    /// Whether adapters were applied to it.
    pub(crate) fn has_adapters(&self) -> bool {
        self.files.iter().any(|file| peft::is_adapter(file.path()))
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

fn read_generation(path: &Path) -> Result<Option<Vec<u8>>, Diagnostics> {
    Ok(file::read(&path.join(GENERATION), json::MAX_BYTES)?)
}

/// The tensors of the files by canonical name.
struct Named {
    root: &'static str,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Stored>,
    strangers: Vec<String>,
}

/// What the files hold for one head.
struct Model {
    head: Head,
    tie: Tie,
    tensors: BTreeMap<String, TensorInfo>,
    weights: BTreeMap<String, Weight>,
    ignored: Vec<String>,
}

impl Named {
    fn new(weights: Weights) -> Result<Self, Diagnostics> {
        let Weights { root, files, tensors: stored } = weights;
        let file_names: Vec<Arc<str>> = files.iter().map(|file| file.name().into()).collect();
        let mut faults = Diagnostics::new();
        let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
        let mut strangers = Vec::new();
        let mut adapter = None;
        for (file, stored) in stored {
            let file_name = file_names[file].clone();
            let place = format!("{file_name}: {}", stored.name);
            match names::meaning(&stored.name) {
                Meaning::Buffer => {}
                Meaning::Unknown => strangers.push(stored.name),
                Meaning::Adapter => adapter = adapter.or(Some(place)),
                Meaning::Model(name) => match tensors.get(&name) {
                    Some(other) => faults.push(
                        Diagnostic::new(Code::DuplicateTensor)
                            .at(place)
                            .message(format!("{} stands for {name}, too", other.stored.name))
                            .help("remove one of the two"),
                    ),
                    None => {
                        tensors.insert(name, Stored { file, file_name, stored });
                    }
                },
            }
        }
        if let Some(place) = adapter {
            faults.push(
                Diagnostic::new(Code::UnsupportedModel)
                    .at(place)
                    .message("the checkpoint holds an adapter that is not merged into its weights")
                    .help("merge it with merge_and_unload() and save the result"),
            );
        }
        faults.or(Self { root, files, tensors, strangers })
    }

    fn bytes(&self, tensor: &Stored) -> Option<&[u8]> {
        self.files.get(tensor.file)?.bytes().get(tensor.stored.range.clone())
    }

    /// The head that the files hold.
    fn head(&self, config: &Config, warnings: &mut Vec<String>) -> Head {
        let has = |name: &str| self.tensors.contains_key(name);
        let tensors = HeadTensors {
            lm_head: has(LM_HEAD),
            score: has(SCORE),
            score_bias: has(SCORE_BIAS),
            qa_outputs: has(QA_OUTPUTS),
            embedding: has(EMBEDDING),
            tied: config.tie_word_embeddings,
        };
        head::detect(tensors, &config.architectures, warnings)
    }

    /// Decides the tie, and puts a lone matrix under the input embedding's name.
    fn tie(
        &self,
        config: &Config,
        head: Head,
        tensors: &mut BTreeMap<String, Stored>,
        warnings: &mut Vec<String>,
    ) -> Tie {
        let is_lm = head == Head::CausalLm;
        let both = match (tensors.get(EMBEDDING), tensors.get(LM_HEAD)) {
            _ if !config.tie_word_embeddings => return Tie::Untied,
            (None, None) => return Tie::Untied,
            (Some(embedding), Some(lm_head)) if is_lm => Some((embedding, lm_head)),
            _ => None,
        };
        let tie = match both {
            Some((a, b)) => {
                let same_type = (a.stored.dtype, &a.stored.shape, &a.stored.strides)
                    == (b.stored.dtype, &b.stored.shape, &b.stored.strides);
                if same_type && self.bytes(a) == self.bytes(b) { Tie::Tied } else { Tie::Different }
            }
            None if is_lm => Tie::Tied,
            None => Tie::Untied,
        };
        if tie == Tie::Different {
            warnings.push(format!(
                "config.json ties the embeddings, but {EMBEDDING} and {LM_HEAD} differ: both are used"
            ));
        } else if !tensors.contains_key(EMBEDDING)
            && let Some(lone) = tensors.remove(LM_HEAD)
        {
            tensors.insert(EMBEDDING.to_owned(), lone);
        }
        tie
    }

    /// Takes what `config` and the head call for, and checks it.
    fn model(
        &self,
        config: &Config,
        wanted: Option<Head>,
        warnings: &mut Vec<String>,
    ) -> Result<Model, Diagnostics> {
        let head = wanted.unwrap_or_else(|| self.head(config, warnings));
        let mut stored = self.tensors.clone();
        let tie = self.tie(config, head, &mut stored, warnings);
        let table = Table::of(config, head, tie == Tie::Tied, HUGGING_FACE);
        table.check(self.root, &stored, &self.strangers)?;
        let mut unused = Vec::new();
        let (mut tensors, mut weights) = (BTreeMap::new(), BTreeMap::new());
        for (name, Stored { file, file_name, stored }) in stored {
            let Some(dtype) = table::dtype(stored.dtype.name).filter(|_| table.calls_for(&name)) else {
                unused.push((name, stored.name));
                continue;
            };
            let StoredTensor { name: stored_name, shape, range, strides, .. } = stored;
            let weight = Weight::source(&name, dtype, &shape)
                .map_err(|error| Diagnostic::new(Code::InvalidGraph).message(error.to_string()))?;
            weights.insert(name.clone(), weight);
            tensors.insert(
                name,
                TensorInfo { file: file_name, stored_name, dtype, shape, position: file, range, strides },
            );
        }
        self.warn(config, head, &unused, warnings);
        let ignored =
            self.strangers.iter().cloned().chain(unused.into_iter().map(|(_, stored)| stored)).collect();
        Ok(Model { head, tie, tensors, weights, ignored })
    }

    /// Tells of tensors that change nothing. Those of another head are not worth a word. `unused` holds canonical and
    /// stored names.
    fn warn(&self, config: &Config, head: Head, unused: &[(String, String)], warnings: &mut Vec<String>) {
        let layers = config.num_hidden_layers;
        let stored = |of: &dyn Fn(&str) -> bool| -> Vec<&str> {
            unused.iter().filter(|(name, _)| of(name)).map(|(_, stored)| stored.as_str()).collect()
        };
        let layer = |name: &str| names::layer(name).map(|(n, _)| n);
        let beyond = stored(&|name| layer(name).is_some_and(|n| n >= layers));
        let biases = stored(&|name| layer(name).is_some_and(|n| n < layers));
        let score_biases = stored(&|name| head == Head::TokenClassification && name == SCORE_BIAS);
        let strangers: Vec<&str> = self.strangers.iter().map(String::as_str).collect();
        for (tensors, reason) in [
            (beyond, &*format!("config.json says num_hidden_layers = {layers}")),
            (biases, "config.json says that these projections have no biases"),
            (score_biases, "config.json says token_classification_bias = false"),
            (strangers, ignored::STRANGERS),
        ] {
            ignored::warn(&tensors, reason, warnings);
        }
    }
}

#[cfg(test)]
mod tests;
