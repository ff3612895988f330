//! GGUF files, llama.cpp's: weights, configuration and tokenizer in one file, or in a few.
//!
//! Such a file becomes a [`Checkpoint`] like any other: a configuration in Hugging Face's words (`keys`, `config`), a
//! tokenizer's files (`tokenizer`), and for each tensor a recipe over its bytes. Tensors in blocks are dequantized in
//! their recipes, to the numbers that `ggml`'s own code gives. Rows of the query and key projections have their rotary
//! pairs side by side, as Meta's have, and are put in Hugging Face's order. Divisors of rotary frequencies are a part of
//! the configuration, and the only numbers of tensors that are read here.
//!
//! Not here: what becomes of quantized numbers (`passes`), adapters and matrices of importance, and other architectures
//! than LLaMA's, which are refused by name.

mod config;
mod container;
mod cursor;
mod keys;
mod names;
mod split;
mod tokenizer;
mod types;
mod value;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use llamac_ir::{DType, Weight, WeightError};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use self::config::{Divisors, Seen};
pub use self::container::GgufTensor;
use self::keys::{Keys, Kind};
use self::names::Meaning;
pub use self::types::GgmlType;
use self::types::Reading;
use self::value::Value;
use super::Head;
use super::checkpoint::{Checkpoint, Stored, TensorInfo, Tie};
use super::file::MappedFile;
use super::names::{EMBEDDING, LM_HEAD, layer, rotary_heads};
use super::safetensors::{StoredDtype, StoredTensor};
use super::table::{Spelling, TYPES, Table};
use super::{Config, generation, ignored, rope};
use crate::weights::RowNorms;

/// The words of GGUF's metadata and tensors.
const SPELLING: Spelling = Spelling {
    config: "the metadata",
    in_weights: true,
    key: |key| match key {
        "hidden_size" => "llama.embedding_length",
        "intermediate_size" => "llama.feed_forward_length",
        "num_attention_heads" => "llama.attention.head_count",
        "num_key_value_heads" => "llama.attention.head_count_kv",
        "num_hidden_layers" => "llama.block_count",
        "head_dim" => "llama.attention.key_length",
        other => other,
    },
    tensor: names::to_gguf,
    types: |dimensions| match dimensions {
        2 => (
            "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL or IQ4_XS",
            "quantize the model again, to one of these types",
        ),
        _ => (TYPES, "convert the model again: vectors are F32"),
    },
    biases: |_| "others of these projections have a bias".to_owned(),
};

/// Whether there is a GGUF file at `path`: by its first bytes, or by the end of its name.
pub fn is_gguf(path: &Path) -> bool {
    let named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    let begins = || {
        let mut start = [0; container::MAGIC.len()];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == container::MAGIC
    };
    path.is_file() && (named || begins())
}

/// The tensors of the file whose whole content is `bytes`, in the order of its list; `file` names it in messages.
///
/// # Errors
/// `DamagedGguf`, `DuplicateTensor` and `UnsupportedModel`: a file that is cut, of another version, or whose metadata
/// cannot be read; tensors of unknown type or without a size, that overlap or lie outside the file. What is wrong with
/// single tensors is told of the first twenty.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<GgufTensor>, Diagnostics> {
    Ok(container::header(file, bytes)?.tensors)
}

/// Opens the file `path` and those that belong to it, for `head` or as a causal language model.
pub(super) fn open(
    path: &Path,
    head: Option<Head>,
    warnings: &mut Vec<String>,
) -> Result<Checkpoint, Diagnostics> {
    let files = split::files(path)?;
    let mut faults = Diagnostics::new();
    let headers: Vec<_> =
        files.iter().filter_map(|file| faults.absorb(container::header(file.name(), file.bytes()))).collect();
    faults.or(())?;
    split::check(&files, &headers)?;
    // The first file has all of the metadata.
    let (root, metadata) = (files[0].name(), &headers[0].metadata);
    keys::check_kind(root, metadata)?;
    let mut faults = Diagnostics::new();
    let keys = faults.absorb(Keys::read(root, metadata));
    let vocabulary = faults.absorb(tokenizer::read(root, metadata, warnings));
    let tensors = headers.iter().map(|header| &header.tensors[..]);
    let named = faults.absorb(Named::new(&files, tensors));
    let divisors = named.as_ref().zip(keys.as_ref());
    let divisors = divisors.and_then(|(named, keys)| {
        faults.absorb(named.divisors(&files, keys.head_dim as usize / 2).map_err(Diagnostics::from))
    });
    let (Some(keys), Some((tokenizer, tokens)), Some(named), Some(divisors)) =
        (keys, vocabulary, named, divisors)
    else {
        return Err(faults);
    };
    let head = head.unwrap_or(Head::CausalLm);
    let tied = head == Head::CausalLm && !named.tensors.contains_key(LM_HEAD);
    let Some(vocab) = named.vocab().or(tokenizer.pieces) else {
        return Err(Diagnostic::new(Code::MissingTensor)
            .at(format!("{root}: {}", SPELLING.tensor(EMBEDDING)))
            .expected(format!("[tokens, {0}]  (llama.embedding_length {0})", keys.hidden))
            .into());
    };
    let seen = named.seen(vocab as u64, tied);
    let config_json = config::config(root, &keys, &divisors, seen, &tokens)?;
    let config = Config::parse(root, &config_json, &mut Vec::new())?;
    let generation_json = config::generation(&tokens);
    let generation = generation::parse(root, Some(&generation_json), Some(&config), &mut Vec::new())?;
    let table = Table::of(&config, head, tied, SPELLING);
    table.check(root, &named.whole(), &named.strangers)?;
    if let Some(pieces) = tokenizer.pieces.filter(|pieces| *pieces > config.vocab_size) {
        return Err(Diagnostic::new(Code::BadTokenizer)
            .at(format!("{root}: tokenizer.ggml.tokens"))
            .expected(format!("at most {} tokens, the rows of the embedding", config.vocab_size))
            .found(pieces.to_string())
            .into());
    }
    let (tensors, weights) = named.recipes(&config, &table)?;
    let mut ignored = named.ignored(&table);
    ignored.extend(named.idle_factors(&keys).into_iter().map(str::to_owned));
    named.warn(&config, &keys, warnings);
    Ok(Checkpoint {
        path: path.to_owned(),
        config,
        config_json,
        generation,
        generation_json: Some(generation_json),
        head,
        tensors,
        weights,
        tie: if tied { Tie::Tied } else { Tie::Untied },
        adapted: BTreeMap::new(),
        row_norms: RowNorms::default(),
        prompt: None,
        tokenizer,
        tokenizer_path: path.to_owned(),
        ignored,
        warnings: Vec::new(),
        files,
        index: None,
    })
}

/// A tensor in its file.
struct Placed {
    position: usize,
    file: Arc<str>,
    tensor: GgufTensor,
}

/// The tensors of all files.
#[derive(Default)]
struct Named {
    /// By canonical name.
    tensors: BTreeMap<String, Placed>,
    /// Divisors of frequencies, by their names in the file.
    divisors: BTreeMap<String, Placed>,
    /// Names that mean nothing.
    strangers: Vec<String>,
}

/// The tensors of the files that recipes are made of, and the recipes, by canonical name.
type Recipes = (BTreeMap<String, TensorInfo>, BTreeMap<String, Weight>);

impl Named {
    fn new<'a>(
        files: &[MappedFile],
        tensors: impl Iterator<Item = &'a [GgufTensor]>,
    ) -> Result<Self, Diagnostics> {
        let mut named = Self::default();
        let mut faults = Diagnostics::new();
        for ((position, file), tensors) in files.iter().enumerate().zip(tensors) {
            let name: Arc<str> = file.name().into();
            for tensor in tensors {
                let placed = Placed { position, file: Arc::clone(&name), tensor: tensor.clone() };
                let place = format!("{name}: {}", tensor.name);
                let before = match names::meaning(&tensor.name) {
                    Meaning::Model(canonical) => named.tensors.insert(canonical, placed),
                    Meaning::Divisors => named.divisors.insert(tensor.name.clone(), placed),
                    Meaning::Expert => {
                        let fault = Diagnostic::new(Code::UnsupportedModel).at(place);
                        return Err(fault.message("a mixture of experts cannot be compiled").into());
                    }
                    Meaning::Unknown => {
                        named.strangers.push(tensor.name.clone());
                        None
                    }
                };
                if let Some(before) = before {
                    let fault = Diagnostic::new(Code::DuplicateTensor).at(format!("{name}: {}", tensor.name));
                    faults.push(fault.message(format!("{} has this tensor, too", before.file)));
                }
            }
        }
        faults.or(named)
    }

    /// The divisors of frequencies, `count` in each list.
    fn divisors(&self, files: &[MappedFile], count: usize) -> Result<Divisors, Diagnostic> {
        let read =
            |name: &str| self.divisors.get(name).map(|placed| divisors(placed, files, count)).transpose();
        let [short, long] = names::FACTORS.map(read);
        Ok(Divisors { all: read(names::FREQUENCIES)?, by_length: short?.zip(long?).map(|(a, b)| [a, b]) })
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.tensor.shape)
    }

    /// The number of tokens, as the matrices say that have a row for each.
    fn vocab(&self) -> Option<usize> {
        [EMBEDDING, LM_HEAD].into_iter().find_map(|name| self.shape(name)?.first().copied())
    }

    /// What the tensors say of the configuration of a model of `vocab` tokens.
    fn seen(&self, vocab: u64, tied: bool) -> Seen {
        let in_layers = |part: &str| {
            self.tensors.keys().any(|name| {
                layer(name).is_some_and(|(_, rest)| rest.starts_with(part) && rest.ends_with(".bias"))
            })
        };
        let matrices = || self.tensors.values().filter(|placed| placed.tensor.shape.len() == 2);
        let all = |name: &str| matrices().all(|placed| placed.tensor.ty.name == name);
        Seen {
            vocab,
            tied,
            attention_bias: in_layers("self_attn."),
            mlp_bias: in_layers("mlp."),
            dtype: match () {
                () if all("F16") => "float16",
                () if all("BF16") => "bfloat16",
                () => "float32",
            },
        }
    }

    /// The tensors as the table of a model knows them: in blocks is as good as f32.
    fn whole(&self) -> BTreeMap<String, Stored> {
        let whole = |placed: &Placed| {
            let GgufTensor { name, ty, shape, range } = &placed.tensor;
            let is_readable = match ty.reading() {
                Some(Reading::Plain(_)) => false,
                // Vectors have no rows of blocks.
                Some(Reading::Blocks(_)) => shape.len() == 2,
                None => false,
            };
            let dtype = StoredDtype { name: if is_readable { "F32" } else { ty.name }, bits: 0 };
            Stored {
                file: placed.position,
                file_name: Arc::clone(&placed.file),
                stored: StoredTensor {
                    name: name.clone(),
                    dtype,
                    shape: shape.clone(),
                    range: range.clone(),
                    strides: None,
                },
            }
        };
        self.tensors.iter().map(|(name, placed)| (name.clone(), whole(placed))).collect()
    }

    fn recipes(&self, config: &Config, table: &Table) -> Result<Recipes, Diagnostic> {
        let (mut tensors, mut weights) = (BTreeMap::new(), BTreeMap::new());
        for (name, placed) in self.tensors.iter().filter(|(name, _)| table.calls_for(name)) {
            let GgufTensor { name: stored, ty, shape, range } = &placed.tensor;
            let reading = ty.reading().expect("the table has checked it");
            let (dtype, shape) = match (reading, &shape[..]) {
                (Reading::Blocks(_), &[rows, columns]) => {
                    (DType::U8, vec![rows, columns / ty.numbers * ty.bytes])
                }
                (Reading::Blocks(_), _) => unreachable!("the table has checked it"),
                (Reading::Plain(dtype), shape) => (dtype, shape.to_vec()),
            };
            let weight = || -> Result<Weight, WeightError> {
                let source = Weight::source(name, dtype, &shape)?;
                let weight = match reading {
                    Reading::Plain(_) => source,
                    Reading::Blocks(format) => source.dequantize(format)?,
                };
                rotary_heads(name, config).map_or(Ok(weight.clone()), |order| weight.permute(order))
            };
            let weight = weight().map_err(|e| Diagnostic::new(Code::InvalidGraph).message(e.to_string()))?;
            weights.insert(name.clone(), weight);
            let info = TensorInfo {
                file: Arc::clone(&placed.file),
                stored_name: stored.clone(),
                dtype,
                shape,
                position: placed.position,
                range: range.clone(),
                strides: None,
            };
            tensors.insert(name.clone(), info);
        }
        Ok((tensors, weights))
    }

    /// Tensors that change nothing, by their stored names.
    fn ignored(&self, table: &Table) -> Vec<String> {
        let unused = self.tensors.iter().filter(|(name, _)| !table.calls_for(name));
        let unused = unused.map(|(_, placed)| placed.tensor.name.clone());
        self.strangers.iter().cloned().chain(unused).collect()
    }

    /// Divisors that only LongRoPE has a use for, where that is not the rule.
    fn idle_factors(&self, keys: &Keys) -> Vec<&'static str> {
        let is_idle = |name: &&str| keys.scaling.kind != Kind::LongRope && self.divisors.contains_key(*name);
        names::FACTORS.into_iter().filter(is_idle).collect()
    }

    /// Tells of tensors that change nothing.
    fn warn(&self, config: &Config, keys: &Keys, warnings: &mut Vec<String>) {
        ignored::warn(&self.idle_factors(keys), "llama.rope.scaling.type is not longrope", warnings);
        let layers = config.num_hidden_layers;
        let beyond = self.tensors.iter().filter(|(name, _)| layer(name).is_some_and(|(n, _)| n >= layers));
        let beyond: Vec<&str> = beyond.map(|(_, placed)| placed.tensor.name.as_str()).collect();
        let strangers: Vec<&str> = self.strangers.iter().map(String::as_str).collect();
        ignored::warn(&beyond, &format!("llama.block_count is {layers}"), warnings);
        ignored::warn(&strangers, ignored::STRANGERS, warnings);
    }
}

/// The `count` divisors of a tensor.
fn divisors(placed: &Placed, files: &[MappedFile], count: usize) -> Result<Vec<f32>, Diagnostic> {
    let GgufTensor { name, ty, shape, range } = &placed.tensor;
    let at = format!("{}: {name}", placed.file);
    if ty.name != "F32" || shape[..] != [count] {
        return Err(Diagnostic::new(Code::WrongShape)
            .at(at)
            .expected(format!("F32 [{count}]  (half of the width of a head)"))
            .found(format!("{} {shape:?}", ty.name)));
    }
    let bytes = &files[placed.position].bytes()[range.clone()];
    let numbers: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match numbers.iter().position(|x| !rope::positive(f64::from(*x))) {
        None => Ok(numbers),
        Some(i) => Err(Diagnostic::new(Code::BadConfigValue)
            .at(format!("{at}[{i}]"))
            .expected("a number from 1e-30 to 1e30")
            .found(numbers[i].to_string())),
    }
}

/// A value for messages, cut to a line.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Array(list) => format!("a list of {}", list.count),
        Value::String(bytes) => {
            format!("{:?}", String::from_utf8_lossy(bytes).chars().take(60).collect::<String>())
        }
        // JSON has no NaN and no infinity.
        Value::Single(x) => x.to_string(),
        Value::Double(x) => x.to_string(),
        other => other.json(0).to_string(),
    }
}
