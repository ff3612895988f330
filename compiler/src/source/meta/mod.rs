//! Checkpoints as Meta published them: `params.json` and `consolidated.00.pth`, in one file or cut into several.
//!
//! Such a directory becomes a [`Checkpoint`] like any other: a configuration in Hugging Face's words ([`params`]), and
//! for each tensor a recipe over the parts that the files hold ([`parts`]). The two layouts differ in three things.
//! Matrices are cut among the files, by rows or by columns. Rows of the query and key projections have their rotary
//! pairs side by side, where Hugging Face's are half a head apart. And there is no `lm_head` of its own in tied models
//! there, while Meta's files hold the matrix twice. Nothing of this reads weights, but for the comparison of two
//! embeddings that may be one.

mod config;
mod params;
mod parts;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use llamac_ir::Weight;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use self::params::Params;
use self::parts::{Part, Parts};
use super::Head;
use super::checkpoint::{Checkpoint, Stored, TensorInfo, Tie};
use super::config::Config;
use super::file::{self, MappedFile};
use super::generation;
use super::locate::{CONFIG, PARAMS};
use super::names::{self, EMBEDDING, LM_HEAD, MetaMeaning, Split};
use super::table::{self, HUGGING_FACE, Spelling, Table};
use super::tokenizer::{Llama3, TokenizerFiles};
use super::{json, torch};
use crate::weights::RowNorms;

/// Whether a directory holds a checkpoint in Meta's layout, and none in Hugging Face's.
pub(super) fn is_meta(path: &Path) -> bool {
    path.join(PARAMS).exists() && !path.join(CONFIG).exists()
}

/// Meta's words.
const SPELLING: Spelling = Spelling {
    config: PARAMS,
    key: |key| match key {
        "hidden_size" => "dim",
        "num_attention_heads" => "n_heads",
        "num_key_value_heads" => "n_kv_heads",
        "num_hidden_layers" => "n_layers",
        other => other,
    },
    tensor: names::to_meta,
    ..HUGGING_FACE
};

/// Opens the directory `path`, for `head` or as a causal language model, which is what all of them are.
pub(super) fn open(
    path: &Path,
    head: Option<Head>,
    warnings: &mut Vec<String>,
) -> Result<Checkpoint, Diagnostics> {
    let mut faults = Diagnostics::new();
    let params_json = file::read(&path.join(PARAMS), json::MAX_BYTES)?.unwrap_or_default();
    let params = faults.absorb(Params::parse(PARAMS, &params_json, warnings));
    let scaled = params.as_ref().is_some_and(|params| params.scaled_rope);
    let special_tokens = if scaled { Llama3::V31 } else { Llama3::V3 };
    let tokenizer_path = TokenizerFiles::folder(path);
    let tokenizer = faults.absorb(TokenizerFiles::read_as(&tokenizer_path, special_tokens));
    let files = faults.absorb(files(path));
    let parts = files.as_deref().zip(params.as_ref()).and_then(|(files, params)| {
        let stored = files.iter().map(torch::read);
        let stored = stored.map(|read| faults.absorb(read)).collect::<Vec<_>>();
        faults.absorb(Parts::new(files, stored.into_iter().collect::<Option<_>>()?, params))
    });
    let (Some(params), Some(tokenizer), Some(files), Some(parts)) = (params, tokenizer, files, parts) else {
        return Err(faults);
    };
    let head = head.unwrap_or(Head::CausalLm);
    let tied = head == Head::CausalLm && parts.is_tied(&files);
    let config_json = params.config(&parts, tied, warnings);
    let config = faults.absorb(Config::parse(PARAMS, &config_json, &mut Vec::new()));
    let generation_json = params.generation(&parts);
    let generation =
        generation::parse("generation_config.json", Some(&generation_json), config.as_ref(), &mut Vec::new());
    let generation = faults.absorb(generation);
    let (Some(config), Some(generation), true) = (config, generation, faults.is_empty()) else {
        return Err(faults);
    };
    parts.check_count(&config)?;
    tokenizer.check_vocabulary(config.vocab_size, warnings)?;
    let table = Table::of(&config, head, tied, SPELLING);
    table.check(parts.root(), &parts.whole(), &parts.strangers)?;
    let (tensors, weights) = recipes(&parts, &config, &table)?;
    let unused = parts.iter().filter(|(name, _)| !weights.contains_key(*name));
    let unused = unused.map(|(_, whole)| whole.parts[0].stored.name.clone());
    let ignored: Vec<String> = parts.strangers.iter().cloned().chain(unused).collect();
    file::in_pieces(&files, || parts.warn(&config, &files, warnings));
    Ok(Checkpoint {
        path: path.to_owned(),
        config,
        config_json,
        generation,
        generation_json: Some(generation_json),
        head,
        tensors,
        weights,
        adapted: BTreeMap::new(),
        row_norms: RowNorms::default(),
        prompt: None,
        tie: if tied { Tie::Tied } else { Tie::Untied },
        tokenizer,
        tokenizer_path,
        ignored,
        warnings: Vec::new(),
        files,
        index: None,
    })
}

/// The files of weights: `consolidated.00.pth` and those that follow it.
fn files(path: &Path) -> Result<Vec<MappedFile>, Diagnostics> {
    let number = |name: &str| -> Option<usize> {
        let digits = name.strip_prefix("consolidated.")?.strip_suffix(".pth")?;
        digits.parse().ok().filter(|_| digits.len() == 2)
    };
    let name = |n: usize| format!("consolidated.{n:02}.pth");
    let last = file::names(path).iter().filter_map(|name| number(name)).max();
    let mut faults = Diagnostics::new();
    let mut files = Vec::new();
    for n in 0..=last.unwrap_or(0) {
        let opened = MappedFile::open(path.join(name(n)), name(n)).map_err(|fault| match fault.code {
            Code::MissingFile => Diagnostic::new(Code::MissingFile)
                .at(path.join(name(n)).display().to_string())
                .found("no such file")
                .help("the download may not be complete: fetch this file again"),
            _ => fault,
        });
        files.extend(faults.absorb(opened.map_err(Diagnostics::from)));
    }
    faults.or(files)
}

/// The tensors of the files that recipes are made of, and the recipes, by canonical name.
type Recipes = (BTreeMap<String, TensorInfo>, BTreeMap<String, Weight>);

fn recipes(parts: &Parts, config: &Config, table: &Table) -> Result<Recipes, Diagnostic> {
    let (mut tensors, mut weights) = (BTreeMap::new(), BTreeMap::new());
    for (name, whole) in parts.iter().filter(|(name, _)| table.calls_for(name)) {
        let source = |part: &Part| {
            let Part { shard, file, stored } = part;
            let name = if whole.parts.len() == 1 { name.to_owned() } else { format!("{name}.{shard:02}") };
            let dtype = table::dtype(stored.dtype.name).expect("the table has checked it");
            let weight = Weight::source(&name, dtype, &stored.shape)?;
            let info = TensorInfo {
                file: Arc::clone(file),
                stored_name: stored.name.clone(),
                dtype,
                shape: stored.shape.clone(),
                position: *shard,
                range: stored.range.clone(),
                strides: stored.strides.clone(),
            };
            tensors.insert(name, info);
            Ok(weight)
        };
        let sources = whole.parts.iter().map(source).collect::<Result<Vec<_>, _>>();
        let weight = sources.and_then(|sources| {
            let weight = match whole.split {
                Split::Columns => Weight::concat_columns(sources),
                Split::Rows | Split::Copied => Weight::concat(sources),
            }?;
            match names::rotary_heads(name, config) {
                Some(order) => weight.permute(order),
                None => Ok(weight),
            }
        });
        let weight =
            weight.map_err(|error| Diagnostic::new(Code::InvalidGraph).message(error.to_string()))?;
        weights.insert(name.to_owned(), weight);
    }
    Ok((tensors, weights))
}
