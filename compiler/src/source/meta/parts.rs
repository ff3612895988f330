//! The parts of each tensor in the files of a checkpoint, and what they make together.

use std::collections::BTreeMap;
use std::sync::Arc;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::params::Params;
use super::{EMBEDDING, LM_HEAD, MappedFile, MetaMeaning, Split, Stored, names};
use crate::source::config::Config;
use crate::source::ignored;
use crate::source::safetensors::StoredTensor;

/// What one file has of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The position of the file.
    pub(super) shard: usize,
    /// Its name.
    pub(super) file: Arc<str>,
    pub(super) stored: StoredTensor,
}

/// A tensor in its parts.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) split: Split,
    /// Those that it is made of, in order; at least one.
    pub(super) parts: Vec<Part>,
    shape: Vec<usize>,
}

/// The tensors of all files.
#[derive(Debug)]
pub(super) struct Parts {
    shards: usize,
    dim: usize,
    /// By canonical name.
    tensors: BTreeMap<String, Whole>,
    /// Every file's, of tensors that each has a copy of.
    copies: Vec<Vec<Part>>,
    /// Names that mean nothing.
    pub(super) strangers: Vec<String>,
}

impl Parts {
    /// Puts what each of `files` holds side by side.
    ///
    /// # Errors
    /// The first tensor that not all files have, or not in the same shape and dtype, with the number of others.
    pub(super) fn new(
        files: &[MappedFile],
        stored: Vec<Vec<StoredTensor>>,
        params: &Params,
    ) -> Result<Self, Diagnostics> {
        let shards = files.len();
        let names: Vec<Arc<str>> = files.iter().map(|file| file.name().into()).collect();
        let mut by_name: BTreeMap<String, Vec<Part>> = BTreeMap::new();
        for (shard, tensors) in stored.into_iter().enumerate() {
            for stored in tensors {
                let part = Part { shard, file: Arc::clone(&names[shard]), stored };
                by_name.entry(part.stored.name.clone()).or_default().push(part);
            }
        }
        let mut faults = Vec::new();
        let mut all = Self {
            shards,
            dim: params.dim,
            tensors: BTreeMap::new(),
            copies: Vec::new(),
            strangers: Vec::new(),
        };
        for (stored, parts) in by_name {
            let (name, split) = match names::meta(&stored) {
                MetaMeaning::Model { name, split } => (name, split),
                MetaMeaning::Buffer => continue,
                MetaMeaning::Unknown => {
                    all.strangers.push(stored);
                    continue;
                }
            };
            match agreement(&parts, &names) {
                Err(fault) => faults.push(fault),
                Ok(()) => all.add(name, split, parts, params),
            }
        }
        let others = faults.len().saturating_sub(1);
        match faults.into_iter().next() {
            None => Ok(all),
            Some(first) if others == 0 => Err(first.into()),
            Some(first) => {
                let message =
                    first.message.clone().unwrap_or_else(|| "this is no part of the same tensor".to_owned());
                Err(first.message(format!("{message} (and {others} more tensors)")).into())
            }
        }
    }

    fn add(&mut self, name: String, split: Option<Split>, mut parts: Vec<Part>, params: &Params) {
        let shards = self.shards;
        let first = &parts[0].stored;
        let split = split.unwrap_or_else(|| match first.shape[..] {
            // Llama 3 cuts its embedding by rows, the models before by columns.
            [_, columns] if columns == params.dim => Split::Rows,
            _ => Split::Columns,
        });
        // More files than key and value heads: neighbours have the same head, whole.
        let is_head = first.shape.first() == Some(&params.head_dim());
        let copies = shards / params.kv_heads;
        if names::is_key_or_value(&name) && is_head && shards.is_multiple_of(params.kv_heads) && copies > 1 {
            parts.retain(|part| part.shard % copies == 0);
        }
        if split == Split::Copied {
            let kept = parts[0].clone();
            self.copies.push(std::mem::replace(&mut parts, vec![kept]));
        }
        let mut shape = parts[0].stored.shape.clone();
        let cut = if split == Split::Columns { 1 } else { 0 };
        if let Some(size) = shape.get_mut(cut) {
            *size = size.saturating_mul(parts.len());
        }
        self.tensors.insert(name, Whole { split, parts, shape });
    }

    /// The name of the file that says what there is.
    pub(super) fn root(&self) -> &'static str {
        if self.shards == 1 { "consolidated.00.pth" } else { "consolidated.*.pth" }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Whole)> {
        self.tensors.iter().map(|(name, whole)| (name.as_str(), whole))
    }

    /// The tensors as if each were whole in one file.
    pub(super) fn whole(&self) -> BTreeMap<String, Stored> {
        let whole = |whole: &Whole| {
            let Part { shard, file, stored } = &whole.parts[0];
            let file_name = if self.shards == 1 { Arc::clone(file) } else { self.root().into() };
            Stored {
                file: *shard,
                file_name,
                stored: StoredTensor { shape: whole.shape.clone(), ..stored.clone() },
            }
        };
        self.tensors.iter().map(|(name, tensor)| (name.clone(), whole(tensor))).collect()
    }

    /// The dtype of the embedding, which is that of all in what Meta published.
    pub(super) fn dtype(&self) -> &'static str {
        self.tensors.get(EMBEDDING).map_or("BF16", |whole| whole.parts[0].stored.dtype.name)
    }

    /// Rows of the embeddings.
    pub(super) fn vocab(&self) -> Option<usize> {
        [LM_HEAD, EMBEDDING].iter().find_map(|name| self.rows(name))
    }

    /// Width of the feed-forward block.
    pub(super) fn intermediate(&self) -> Option<usize> {
        self.rows("model.layers.0.mlp.gate_proj.weight")
    }

    fn rows(&self, name: &str) -> Option<usize> {
        self.tensors.get(name)?.shape.first().copied()
    }

    /// Whether there are fewer or more files than the tensors were cut for.
    pub(super) fn check_count(&self, config: &Config) -> Result<(), Diagnostic> {
        let output = self.tensors.get("model.layers.0.self_attn.o_proj.weight");
        let Some(&[_, columns]) = output.map(|output| &output.parts[0].stored.shape[..]) else {
            return Ok(());
        };
        let width = config.query_width();
        if columns == 0 || !width.is_multiple_of(columns) || width / columns == self.shards {
            return Ok(());
        }
        Err(Diagnostic::new(Code::MissingFile)
            .at(self.root())
            .expected(format!("{} files, of which each holds {columns} of {width} columns", width / columns))
            .found(format!("{} files", self.shards))
            .help("fetch all of them, and no others; is params.json of the same model?"))
    }

    /// Whether input and output embedding are one: there is no second, or it is the same matrix.
    pub(super) fn is_tied(&self, files: &[MappedFile]) -> bool {
        let Some(embedding) = self.tensors.get(EMBEDDING) else { return false };
        let Some(output) = self.tensors.get(LM_HEAD) else { return true };
        let plain = |whole: &Whole| whole.parts.iter().all(|part| part.stored.strides.is_none());
        let [a, b] = [embedding, output].map(|whole| (whole.parts[0].stored.dtype, &whole.shape[..]));
        let &[rows, columns] = a.1 else { return false };
        let is_even = rows.is_multiple_of(output.parts.len()) && columns == self.dim;
        if a != b || !is_even || output.split != Split::Rows || !plain(embedding) || !plain(output) {
            return false;
        }
        let width = columns * (a.0.bits / 8);
        (0..rows).all(|row| {
            let expected = output.row(row, files).concat();
            expected.len() == width && embedding.row(row, files).concat() == expected
        })
    }

    /// Tells of what is in the files and changes nothing, though it should be otherwise.
    pub(super) fn warn(&self, config: &Config, files: &[MappedFile], warnings: &mut Vec<String>) {
        let bytes =
            |part: &Part| files.get(part.shard).and_then(|file| file.bytes().get(part.stored.range.clone()));
        let differ =
            self.copies.iter().filter(|copies| copies.iter().any(|copy| bytes(copy) != bytes(&copies[0])));
        let differ: Vec<&str> = differ.map(|copies| copies[0].stored.name.as_str()).collect();
        if let Some(first) = differ.first() {
            let count = differ.len();
            warnings.push(format!(
                "{count} tensors of which each file has a copy are not the same in all of them: {first} and so on; \
                 that of consolidated.00.pth is taken"
            ));
        }
        let layers = config.num_hidden_layers;
        let beyond =
            self.tensors.iter().filter(|(name, _)| names::layer(name).is_some_and(|(n, _)| n >= layers));
        let beyond: Vec<&str> = beyond.map(|(_, whole)| whole.parts[0].stored.name.as_str()).collect();
        let strangers: Vec<&str> = self.strangers.iter().map(String::as_str).collect();
        ignored::warn(&beyond, &format!("params.json says n_layers = {layers}"), warnings);
        ignored::warn(&strangers, ignored::STRANGERS, warnings);
    }
}

impl Whole {
    /// The bytes of a row, in the parts that have some.
    fn row<'a>(&self, row: usize, files: &'a [MappedFile]) -> Vec<&'a [u8]> {
        let line = |part: &Part, row: usize| {
            let width = part.stored.range.len() / part.stored.shape[0].max(1);
            let bytes = files.get(part.shard)?.bytes().get(part.stored.range.clone())?;
            bytes.get(row * width..(row + 1) * width)
        };
        match self.split {
            Split::Columns => self.parts.iter().filter_map(|part| line(part, row)).collect(),
            Split::Rows | Split::Copied => {
                let rows = self.parts[0].stored.shape[0].max(1);
                self.parts.get(row / rows).and_then(|part| line(part, row % rows)).into_iter().collect()
            }
        }
    }
}

/// Checks that every file has a part of the same kind.
fn agreement(parts: &[Part], files: &[Arc<str>]) -> Result<(), Diagnostic> {
    let first = &parts[0];
    let fault = |part: &Part| {
        Diagnostic::new(Code::ShardsDisagree)
            .at(format!("{}: {}", part.file, part.stored.name))
            .help("do these files belong together? fetch all of them from one place")
    };
    if parts.len() != files.len() {
        let without = files.iter().enumerate().find(|(i, _)| parts.iter().all(|part| part.shard != *i));
        let without = without.map_or("another", |(_, file)| file);
        return Err(fault(first).message(format!("{without} does not have this tensor")));
    }
    let kind = |part: &Part| format!("{} {:?}", part.stored.dtype.name, part.stored.shape);
    match parts.iter().find(|part| kind(part) != kind(first)) {
        Some(other) => {
            Err(fault(other).expected(format!("{}, as in {}", kind(first), first.file)).found(kind(other)))
        }
        None => Ok(()),
    }
}
