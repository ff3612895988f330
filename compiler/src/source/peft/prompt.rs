//! Soft prompts: what a text is put behind, as embeddings or as entries of the cache.
//!
//! PEFT saves both as one matrix with a row for each virtual token, `prompt_embeddings`: what its prompt encoders and
//! projections come to. Rows of a prefix have a key and a value for each layer, one after the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llamac_ir::{DType, Weight, WeightError};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::{PromptKind, SoftPrompt};

use super::super::checkpoint::Checkpoint;
use super::super::config::Config;
use super::super::file::MappedFile;
use super::super::safetensors::StoredTensor;
use super::super::tokenizer::TokenizerFiles;
use super::folder::{self, Folder};
use super::prompt_config::{self, PromptConfig};
use super::taken::{Expected, Taken};

/// The tensor of the file that is the prompt; recipes call it so, too.
const PROMPT: &str = "prompt_embeddings";

/// A soft prompt's files.
#[derive(Debug)]
pub(super) struct Prompt {
    config_name: String,
    pub config: PromptConfig,
    pub file: MappedFile,
    stored: StoredTensor,
    /// By the canonical name of the tensor.
    pub replaced: BTreeMap<String, StoredTensor>,
    pub tokenizer: TokenizerFiles,
    pub path: PathBuf,
}

impl Prompt {
    /// Opens the adapter in the folder at `path`.
    pub fn open(path: &Path, warnings: &mut Vec<String>) -> Result<Self, Diagnostics> {
        let Folder { config_name, config, file, tensors } = Folder::open(path)?;
        let mut faults = Diagnostics::new();
        let config = faults.absorb(prompt_config::parse(&config_name, &config, warnings));
        // The tensors of another kind of adapter have other names.
        if faults.iter().any(|fault| fault.code == Code::UnsupportedAdapter) {
            return Err(faults);
        }
        let sorted = faults.absorb(sort(file.name(), tensors));
        let tokenizer = faults.absorb(TokenizerFiles::read(path));
        match (config, sorted, tokenizer) {
            (Some(config), Some((stored, replaced)), Some(tokenizer)) => {
                let path = path.to_owned();
                Ok(Self { config_name, config, file, stored, replaced, tokenizer, path })
            }
            _ => Err(faults),
        }
    }

    /// The prompt as recipes for `base`, of which it is adapter number `i`.
    pub fn recipes(
        &self,
        base: &Checkpoint,
        i: usize,
        taken: &mut Taken,
    ) -> Result<Option<SoftPrompt<Weight>>, Diagnostics> {
        let PromptConfig { kind, tokens, .. } = self.config;
        self.check_base(&base.config)?;
        let (width, why) = row(kind, &base.config);
        let why = format!("num_virtual_tokens {tokens}, {why}");
        let expected = Expected { shape: &[Some(tokens), Some(width)], why: &why };
        let taken = taken.take((i, &self.file), &self.stored, PROMPT, PROMPT.to_owned(), &expected);
        let Some(matrix) = taken else { return Ok(None) };
        let weights = match kind {
            PromptKind::Embeddings => matrix.convert(DType::F32).map(|rows| vec![rows]),
            PromptKind::Prefix => by_layer(&matrix, base.config.num_hidden_layers),
        };
        let weights = weights.map_err(|e| Diagnostic::new(Code::InvalidGraph).message(e.to_string()))?;
        Ok(Some(SoftPrompt { kind, tokens, weights }))
    }

    /// Whether the prompt was made for a model like `base`, and leaves it room for a text.
    fn check_base(&self, base: &Config) -> Result<(), Diagnostics> {
        let config = &self.config;
        let (width, heads) = match config.kind {
            PromptKind::Embeddings => {
                (("hidden_size", base.hidden_size), ("num_attention_heads", base.num_attention_heads))
            }
            PromptKind::Prefix => (
                ("num_key_value_heads × head_dim", base.num_key_value_heads * base.head_dim),
                ("num_key_value_heads", base.num_key_value_heads),
            ),
        };
        let mut faults = Diagnostics::new();
        for (key, found, (what, expected)) in [
            ("token_dim", config.width, width),
            ("num_layers", config.layers, ("num_hidden_layers", base.num_hidden_layers)),
            ("num_attention_heads", config.heads, heads),
        ] {
            let Some(found) = found.filter(|&found| found != expected) else { continue };
            let fault = Diagnostic::new(Code::AdapterMismatch)
                .at(format!("{}: {key}", self.config_name))
                .expected(format!("{expected}  ({what} of the model)"))
                .found(found.to_string());
            // What PEFT made of grouped heads before it knew of them.
            let old = config.kind == PromptKind::Prefix
                && key == "num_attention_heads"
                && found == base.num_attention_heads;
            faults.push(match old {
                true => fault.help(
                    "it has as many heads for keys as for queries, as early versions of PEFT made it; train it again",
                ),
                false => fault,
            });
        }
        let context = base.max_position_embeddings;
        if config.tokens as u64 >= context {
            faults.push(
                Diagnostic::new(Code::AdapterMismatch)
                    .at(format!("{}: num_virtual_tokens", self.config_name))
                    .expected(format!("fewer than the {context} positions of the model"))
                    .found(config.tokens.to_string()),
            );
        }
        faults.or(())
    }
}

/// The width of a row of the file, and where that comes from.
fn row(kind: PromptKind, base: &Config) -> (usize, String) {
    let Config { hidden_size, num_hidden_layers: layers, num_key_value_heads: heads, head_dim, .. } = base;
    match kind {
        PromptKind::Embeddings => (*hidden_size, format!("hidden_size {hidden_size}")),
        PromptKind::Prefix => (
            layers * 2 * heads * head_dim,
            format!(
                "a key and a value for {layers} layers, num_key_value_heads {heads} × head_dim {head_dim}"
            ),
        ),
    }
}

/// The columns of each layer.
fn by_layer(matrix: &Weight, layers: usize) -> Result<Vec<Weight>, WeightError> {
    let columns = matrix.transpose()?;
    let width = columns.shape()[0] / layers;
    let layer = |layer: usize| columns.slice(layer * width, width)?.transpose()?.convert(DType::F32);
    (0..layers).map(layer).collect()
}

/// The prompt among the tensors of `file`, and what they replace.
fn sort(
    file: &str,
    tensors: Vec<StoredTensor>,
) -> Result<(StoredTensor, BTreeMap<String, StoredTensor>), Diagnostics> {
    const KIND: &str = "soft prompt";
    let (prompt, others): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|tensor| tensor.name == PROMPT);
    let mut faults = Diagnostics::new();
    let sorted = faults.absorb(folder::sort(file, KIND, others));
    let parts = sorted.iter().flat_map(|(modules, _)| modules.values());
    if let Some(part) = parts.flat_map(|parts| parts.tensors.values()).next() {
        faults.push(folder::stranger(format!("{file}: {}", part.name), KIND));
    }
    // A file has no two tensors of one name.
    match (prompt.into_iter().next(), sorted) {
        (Some(prompt), Some((_, replaced))) => faults.or((prompt, replaced)),
        (Some(_), None) => Err(faults),
        (None, _) => {
            faults.push(
                Diagnostic::new(Code::MissingTensor)
                    .at(format!("{file}: {PROMPT}"))
                    .message("this is what a soft prompt consists of")
                    .help("save the adapter with save_pretrained() of peft"),
            );
            Err(faults)
        }
    }
}
