//! Checkpoints in Hugging Face's layout, of safetensors or PyTorch's files.
//!
//! The tensors are compared with nothing but headers, but for two embeddings that a configuration says are one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use llamac_ir::Weight;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::Head;
use super::checkpoint::{Checkpoint, Stored, TensorInfo, Tie};
use super::config::Config;
use super::file::{self, MappedFile};
use super::head::{self, HeadTensors};
use super::members::Members;
use super::names::{self, EMBEDDING, LM_HEAD, Meaning, QA_OUTPUTS, SCORE, SCORE_BIAS};
use super::quantized::{self, Packed, Quantization, Quantized};
use super::safetensors::StoredTensor;
use super::shards::{self, Weights};
use super::table::{self, HUGGING_FACE, Table};
use super::tokenizer::TokenizerFiles;
use super::{generation, ignored, json, locate};
use crate::weights::RowNorms;

pub(crate) const GENERATION: &str = "generation_config.json";

/// Opens the directory `path`, for `head` or for the one that it holds.
pub(super) fn open(
    path: &Path,
    head: Option<Head>,
    warnings: &mut Vec<String>,
) -> Result<Checkpoint, Diagnostics> {
    let config = path.join(locate::CONFIG);
    match config.try_exists() {
        Ok(true) => {}
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(file::failed(&config, &e).into());
        }
        _ => return Err(locate::no_config(path).into()),
    }
    let mut faults = Diagnostics::new();
    let mut config_json = file::read(&config, json::MAX_BYTES)?.unwrap_or_default();
    let mut config = faults.absorb(Config::parse(locate::CONFIG, &config_json, warnings));
    if faults.iter().any(|fault| fault.code == Code::UnsupportedModel) {
        return Err(faults);
    }
    let quantization = faults.absorb(quantized::read(path, &config_json));
    let generation_json = faults.absorb(read_generation(path)).flatten();
    let generation = generation::parse(GENERATION, generation_json.as_deref(), config.as_ref(), warnings);
    let generation = faults.absorb(generation);
    let tokenizer = faults.absorb(TokenizerFiles::read(path));
    if let (Some(config), Some(tokenizer)) = (&config, &tokenizer) {
        faults.absorb(tokenizer.check_vocabulary(config.vocab_size, warnings).map_err(Diagnostics::from));
    }
    let weights = faults.absorb(shards::open(path));
    let named = weights.and_then(|weights| faults.absorb(Named::new(weights)));
    // Without settings that can be read, packed weights are no fault of their own.
    let parts = config.as_ref().zip(named.as_ref()).zip(quantization.as_ref());
    let model = parts.and_then(|((config, named), settings)| {
        faults.absorb(named.model(config, head, settings.as_ref(), warnings))
    });
    if let (Some(config), Some(model), Some(Some(_))) = (&mut config, &model, &quantization) {
        if model.is_quantized {
            config.dtype = Some("float32".to_owned());
        }
        config_json = plain_config(&config_json, model.is_quantized);
    }
    match (config, generation, tokenizer, named, model) {
        (Some(config), Some(generation), Some(tokenizer), Some(named), Some(model)) if faults.is_empty() => {
            let Model { head, tie, tensors, weights, ignored, .. } = model;
            let Named { root, files, .. } = named;
            let index = Some(root).filter(|root| root.ends_with(".json"));
            Ok(Checkpoint {
                path: path.to_owned(),
                config,
                config_json,
                generation,
                generation_json,
                head,
                tensors,
                weights,
                adapted: BTreeMap::new(),
                row_norms: RowNorms::default(),
                prompt: None,
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

/// The configuration of the same weights without settings of quantization, and in single precision if they were
/// dequantized.
fn plain_config(config_json: &[u8], dequantized: bool) -> Vec<u8> {
    let Ok(mut members) = serde_json::from_slice::<Members>(config_json) else {
        return config_json.to_owned();
    };
    members.remove("quantization_config");
    for key in ["dtype", "torch_dtype"] {
        if dequantized && members.get(key).is_some() {
            members.set(key, &"float32");
        }
    }
    members.text().unwrap_or_else(|| config_json.to_owned())
}

fn read_generation(path: &Path) -> Result<Option<Vec<u8>>, Diagnostics> {
    Ok(file::read(&path.join(GENERATION), json::MAX_BYTES)?)
}

/// The tensors of the files by canonical name.
struct Named {
    root: &'static str,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Stored>,
    /// What weights are packed in, by the weights' canonical names.
    packed: BTreeMap<String, Packed>,
    strangers: Vec<String>,
}

/// What the files hold for one head.
struct Model {
    head: Head,
    tie: Tie,
    tensors: BTreeMap<String, TensorInfo>,
    weights: BTreeMap<String, Weight>,
    ignored: Vec<String>,
    /// Whether weights of the model are packed.
    is_quantized: bool,
}

impl Named {
    fn new(weights: Weights) -> Result<Self, Diagnostics> {
        let Weights { root, files, tensors: stored } = weights;
        let file_names: Vec<Arc<str>> = files.iter().map(|file| file.name().into()).collect();
        let mut faults = Diagnostics::new();
        let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
        let mut packed: BTreeMap<String, Packed> = BTreeMap::new();
        let mut strangers = Vec::new();
        let mut adapter = None;
        for (file, stored) in stored {
            let file_name = file_names[file].clone();
            let place = format!("{file_name}: {}", stored.name);
            let duplicate = |other: &Stored, name: &str| {
                Diagnostic::new(Code::DuplicateTensor)
                    .at(&place)
                    .message(format!("{} stands for {name}, too", other.stored.name))
                    .help("remove one of the two")
            };
            if let Some((name, part)) = quantized::split(&stored.name) {
                let parts = packed.entry(name.clone()).or_default();
                match parts.get(part) {
                    Some(other) => faults.push(duplicate(other, &format!("{part} of {name}"))),
                    None => {
                        parts.insert(part, Stored { file, file_name, stored });
                    }
                }
                continue;
            }
            match names::meaning(&stored.name) {
                Meaning::Buffer => {}
                Meaning::Unknown => strangers.push(stored.name),
                Meaning::Adapter => adapter = adapter.or(Some(place)),
                Meaning::Model(name) => match tensors.get(&name) {
                    Some(other) => faults.push(duplicate(other, &name)),
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
        faults.or(Self { root, files, tensors, packed, strangers })
    }

    fn bytes(&self, tensor: &Stored) -> Option<&[u8]> {
        self.files.get(tensor.file)?.bytes().get(tensor.stored.range.clone())
    }

    /// The head that the files hold.
    fn head(&self, config: &Config, warnings: &mut Vec<String>) -> Head {
        let has = |name: &str| self.tensors.contains_key(name) || self.packed.contains_key(name);
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
            // A packed matrix is no copy of one that is not.
            (_, None) if is_lm && self.packed.contains_key(LM_HEAD) => return Tie::Different,
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
        quantization: Option<&Quantization>,
        warnings: &mut Vec<String>,
    ) -> Result<Model, Diagnostics> {
        let head = wanted.unwrap_or_else(|| self.head(config, warnings));
        let mut stored = self.tensors.clone();
        let tie = self.tie(config, head, &mut stored, warnings);
        let table = Table::of(config, head, tie == Tie::Tied, HUGGING_FACE);
        let files = quantized::Files { root: self.root, files: &self.files, packed: &self.packed };
        let mut faults = Diagnostics::new();
        let quantized =
            faults.absorb(quantized::weights(quantization, &files, &table, &mut stored, warnings));
        faults.absorb(table.check(self.root, &stored, &self.strangers));
        faults.or(())?;
        let Quantized { mut weights, mut tensors, mut unused, ignored } = quantized.unwrap_or_default();
        let is_quantized = !weights.is_empty();
        if !is_quantized {
            warnings.extend(quantization.and_then(Quantization::without_packed_weights));
        }
        for (name, Stored { file, file_name, stored }) in stored {
            if weights.contains_key(&name) {
                continue;
            }
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
        let unused = unused.into_iter().map(|(_, stored)| stored);
        let ignored = self.strangers.iter().cloned().chain(ignored).chain(unused).collect();
        Ok(Model { head, tie, tensors, weights, ignored, is_quantized })
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
