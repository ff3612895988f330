//! The tensors that a configuration and a head call for, and how those of a checkpoint differ from them.
//!
//! Layers are checked against one template, and a fault that many layers share is told once. Nothing is built that
//! is as large as the configuration's number of layers.

use std::collections::{BTreeMap, BTreeSet};

use llamac_ir::DType;
use llamac_ir::suggest::nearest;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::Head;
use super::checkpoint::Stored;
use super::config::Config;
use super::locate::CONFIG;
use super::names::{self, EMBEDDING, LM_HEAD, NORM, QA_OUTPUTS, QA_OUTPUTS_BIAS, SCORE, SCORE_BIAS};

/// In whose words a checkpoint is described: every layout has its own.
#[derive(Clone, Copy)]
pub(super) struct Spelling {
    /// What has the configuration, in a sentence.
    pub config: &'static str,
    /// Whether that is the file of the weights itself.
    pub in_weights: bool,
    /// A member of the configuration, by its name in Hugging Face's.
    pub key: fn(&'static str) -> &'static str,
    /// A tensor in the files, by its canonical name; nothing where it is the same.
    pub tensor: fn(&str) -> Option<String>,
    /// The types that tensors of so many dimensions may have, and what to do about another one.
    pub types: fn(usize) -> (&'static str, &'static str),
    /// Why a block (`mlp`, `self_attn`) should have biases.
    pub biases: fn(&str) -> String,
}

/// The types that numbers of a tensor may have.
pub(super) const TYPES: &str = "F32, F16 or BF16";

/// The words of Hugging Face's layout.
pub(super) const HUGGING_FACE: Spelling = Spelling {
    config: CONFIG,
    in_weights: false,
    key: |key| key,
    tensor: |_| None,
    types: |_| (TYPES, "save the checkpoint in one of these dtypes"),
    biases: |block| {
        let key = if block == "mlp" { "mlp_bias" } else { "attention_bias" };
        format!("config.json says {key} = true; these weights have no such bias")
    },
};

impl Spelling {
    fn key(self, key: &'static str) -> &'static str {
        (self.key)(key)
    }

    /// The name of a tensor in files.
    pub fn tensor(self, canonical: &str) -> String {
        (self.tensor)(canonical).unwrap_or_else(|| canonical.to_owned())
    }
}

/// A size: the product of members of the configuration.
#[derive(Clone)]
struct Size(Vec<(&'static str, usize)>);

impl Size {
    fn value(&self) -> usize {
        self.0.iter().map(|(_, value)| value).product()
    }

    fn words(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(key, value)| format!("{key} {value}")).collect();
        words.join(" × ")
    }

    /// The member that may be wrong where a tensor has the size `found`, and what it would have to be; `suspect`, if it
    /// is one of several.
    fn contradiction(&self, found: usize, suspect: Option<&str>) -> Option<(&'static str, usize, usize)> {
        let members = self.0.iter().filter_map(|&(key, value)| {
            let rest = self.value() / value;
            found.is_multiple_of(rest).then_some((key, value, found / rest))
        });
        members.clone().find(|(key, ..)| Some(*key) == suspect).or_else(|| members.clone().next())
    }
}

/// A tensor that has to be there: its name, within a layer or in the model, and its sizes.
struct Wanted {
    name: &'static str,
    shape: Vec<Size>,
}

struct Sizes {
    vocab: Size,
    hidden: Size,
    intermediate: Size,
    query: Size,
    key_value: Size,
    labels: Size,
    /// Start and end of an answer.
    bounds: Size,
}

impl Sizes {
    fn of(config: &Config, spelling: Spelling) -> Self {
        let one = |key, value| Size(vec![(spelling.key(key), value)]);
        let head_dim = (spelling.key("head_dim"), config.head_dim);
        let two = |key, value| Size(vec![(spelling.key(key), value), head_dim]);
        Self {
            vocab: one("vocab_size", config.vocab_size),
            hidden: one("hidden_size", config.hidden_size),
            intermediate: one("intermediate_size", config.intermediate_size),
            query: two("num_attention_heads", config.num_attention_heads),
            key_value: two("num_key_value_heads", config.num_key_value_heads),
            labels: one("the number of labels in id2label", config.labels.len()),
            bounds: one("the start and the end of an answer", 2),
        }
    }

    /// The tensors of a layer.
    fn layer(&self, config: &Config) -> Vec<Wanted> {
        let Self { hidden, intermediate, query, key_value, .. } = self;
        let mut wanted = vec![
            Wanted { name: "input_layernorm.weight", shape: vec![hidden.clone()] },
            Wanted { name: "post_attention_layernorm.weight", shape: vec![hidden.clone()] },
        ];
        let mut linear = |weight, bias, has_bias: bool, rows: &Size, columns: &Size| {
            wanted.push(Wanted { name: weight, shape: vec![rows.clone(), columns.clone()] });
            if has_bias {
                wanted.push(Wanted { name: bias, shape: vec![rows.clone()] });
            }
        };
        let attention = config.attention_bias;
        linear("self_attn.q_proj.weight", "self_attn.q_proj.bias", attention, query, hidden);
        linear("self_attn.k_proj.weight", "self_attn.k_proj.bias", attention, key_value, hidden);
        linear("self_attn.v_proj.weight", "self_attn.v_proj.bias", attention, key_value, hidden);
        linear("self_attn.o_proj.weight", "self_attn.o_proj.bias", attention, hidden, query);
        linear("mlp.gate_proj.weight", "mlp.gate_proj.bias", config.mlp_bias, intermediate, hidden);
        linear("mlp.up_proj.weight", "mlp.up_proj.bias", config.mlp_bias, intermediate, hidden);
        linear("mlp.down_proj.weight", "mlp.down_proj.bias", config.mlp_bias, hidden, intermediate);
        wanted
    }

    /// The tensors outside of layers. A tied head has none of its own.
    fn model(&self, config: &Config, head: Head, tied: bool) -> Vec<Wanted> {
        let Self { vocab, hidden, labels, bounds, .. } = self;
        let mut wanted = vec![
            Wanted { name: EMBEDDING, shape: vec![vocab.clone(), hidden.clone()] },
            Wanted { name: NORM, shape: vec![hidden.clone()] },
        ];
        match head {
            Head::CausalLm if !tied => {
                wanted.push(Wanted { name: LM_HEAD, shape: vec![vocab.clone(), hidden.clone()] });
            }
            Head::SequenceClassification | Head::TokenClassification => {
                wanted.push(Wanted { name: SCORE, shape: vec![labels.clone(), hidden.clone()] });
                if head == Head::TokenClassification && config.token_classification_bias {
                    wanted.push(Wanted { name: SCORE_BIAS, shape: vec![labels.clone()] });
                }
            }
            Head::QuestionAnswering => {
                wanted.push(Wanted { name: QA_OUTPUTS, shape: vec![bounds.clone(), hidden.clone()] });
                wanted.push(Wanted { name: QA_OUTPUTS_BIAS, shape: vec![bounds.clone()] });
            }
            Head::Base | Head::CausalLm => {}
        }
        wanted
    }
}

/// The tensors of a model.
pub(super) struct Table {
    spelling: Spelling,
    head: Head,
    layers: usize,
    in_layer: Vec<Wanted>,
    in_model: Vec<Wanted>,
    /// Query, key and value projections with the number of their heads.
    heads: [(&'static str, usize); 3],
    head_dim: usize,
    /// Keys that the configuration does not have.
    absent: Vec<&'static str>,
}

impl Table {
    /// What `config` and `head` call for.
    pub fn of(config: &Config, head: Head, tied: bool, spelling: Spelling) -> Self {
        let sizes = Sizes::of(config, spelling);
        let (in_layer, in_model) = (sizes.layer(config), sizes.model(config, head, tied));
        let kv_heads = config.num_key_value_heads;
        let heads = [("q_proj", config.num_attention_heads), ("k_proj", kv_heads), ("v_proj", kv_heads)];
        Self {
            spelling,
            head,
            layers: config.num_hidden_layers,
            in_layer,
            in_model,
            heads,
            head_dim: config.head_dim,
            absent: config.absent.clone(),
        }
    }

    /// What the configuration says, and what the weights have instead.
    fn says(&self, key: &str, value: usize, found: usize) -> String {
        let file = self.spelling.config;
        match self.absent.contains(&key) {
            true => format!("{file} has no {key}, which is then {value}; these weights have {found}"),
            false => format!("{file} says {key} = {value}; these weights have {found}"),
        }
    }

    /// The member that explains the shapes of queries, keys and values all at once: the width of a head, if by the
    /// numbers of heads all of them have another one, and the same.
    fn suspect(&self, tensors: &BTreeMap<String, Stored>) -> Option<&'static str> {
        let width = |(name, heads): (&str, usize)| {
            let tensor = tensors.get(&format!("model.layers.0.self_attn.{name}.weight"))?;
            tensor.stored.shape.first().filter(|rows| rows.is_multiple_of(heads)).map(|rows| rows / heads)
        };
        let [queries, keys, values] = self.heads.map(width);
        let other = queries.is_some_and(|width| width != self.head_dim);
        (other && queries == keys && queries == values).then(|| self.spelling.key("head_dim"))
    }

    /// Whether the model has a tensor of this canonical name.
    pub fn calls_for(&self, canonical: &str) -> bool {
        self.wanted(canonical).is_some()
    }

    /// The sizes of the matrix of this canonical name, if the model has one.
    pub fn matrix(&self, canonical: &str) -> Option<[usize; 2]> {
        match &self.wanted(canonical)?.shape[..] {
            [rows, columns] => Some([rows.value(), columns.value()]),
            _ => None,
        }
    }

    fn wanted(&self, canonical: &str) -> Option<&Wanted> {
        let (all, name) = match names::layer(canonical) {
            Some((n, rest)) => (&self.in_layer, (n < self.layers).then_some(rest)?),
            None => (&self.in_model, canonical),
        };
        all.iter().find(|wanted| wanted.name == name)
    }

    /// Compares `tensors`, by canonical name, with the table. `root` is the file that says what
    /// there is; `strangers` are names in the files that mean nothing, among which a misspelled one may be.
    ///
    /// # Errors
    /// Every tensor that is missing, or has another shape or a dtype that cannot be computed with.
    pub fn check(
        &self,
        root: &str,
        tensors: &BTreeMap<String, Stored>,
        strangers: &[String],
    ) -> Result<(), Diagnostics> {
        let suspect = self.suspect(tensors);
        let mut check = Check { table: self, root, tensors, strangers, suspect, faults: Diagnostics::new() };
        for wanted in &self.in_model {
            check.one(wanted, &[(None, wanted.name.to_owned())]);
        }
        let layers = check.layers();
        for wanted in &self.in_layer {
            let names: Vec<_> =
                layers.iter().map(|n| (Some(*n), format!("model.layers.{n}.{}", wanted.name))).collect();
            check.one(wanted, &names);
        }
        check.faults.or(())
    }
}

struct Check<'a> {
    table: &'a Table,
    root: &'a str,
    tensors: &'a BTreeMap<String, Stored>,
    strangers: &'a [String],
    suspect: Option<&'static str>,
    faults: Diagnostics,
}

impl Check<'_> {
    /// The layers of the configuration of which the files have at least one tensor; faults for the others.
    fn layers(&mut self) -> Vec<usize> {
        let wanted = self.table.layers;
        let present: BTreeSet<usize> = self
            .tensors
            .keys()
            .filter_map(|name| Some(names::layer(name)?.0))
            .filter(|n| *n < wanted)
            .collect();
        let mut gaps = Vec::new();
        let mut next = 0;
        for n in present.iter().copied().chain([wanted]) {
            if n > next {
                gaps.push(range(next, n - 1));
            }
            next = n + 1;
        }
        if !gaps.is_empty() {
            let found = present.len();
            let spelling = self.table.spelling;
            let file = if spelling.in_weights { self.root } else { spelling.config };
            let key = spelling.key("num_hidden_layers");
            self.faults.push(
                Diagnostic::new(Code::MissingTensor)
                    .at(format!("{file}: {key}"))
                    .message(format!("there is no tensor of {}", gaps.join(", ")))
                    .expected(format!("{wanted} layers"))
                    .found(format!("tensors of {found}"))
                    .help(self.table.says(key, wanted, found)),
            );
        }
        present.into_iter().collect()
    }

    /// Checks the tensors that are one `wanted` in several layers, or in the model.
    fn one(&mut self, wanted: &Wanted, names: &[(Option<usize>, String)]) {
        let sizes: Vec<usize> = wanted.shape.iter().map(Size::value).collect();
        let mut missing = Group::default();
        let mut shapes: BTreeMap<&[usize], Group> = BTreeMap::new();
        let mut dtypes: BTreeMap<&str, Group> = BTreeMap::new();
        for (layer, name) in names {
            let Some(tensor) = self.tensors.get(name) else {
                missing.push(*layer, format!("{}: {}", self.root, self.table.spelling.tensor(name)));
                continue;
            };
            let place = || format!("{}: {}", tensor.file_name, tensor.stored.name);
            if tensor.stored.shape != sizes {
                shapes.entry(&tensor.stored.shape).or_default().push(*layer, place());
            }
            if dtype(tensor.stored.dtype.name).is_none() {
                dtypes.entry(tensor.stored.dtype.name).or_default().push(*layer, place());
            }
        }
        let words: Vec<String> = wanted.shape.iter().map(Size::words).collect();
        let expected = format!("{sizes:?}  ({})", words.join(", "));
        let is_head = names::HEADS.contains(&wanted.name);
        if let Some(fault) = missing.fault(if is_head { Code::MissingHead } else { Code::MissingTensor }) {
            self.faults.push(self.missing(fault, wanted.name).expected(expected.clone()));
        }
        for (found, group) in shapes {
            let fault =
                group.fault(Code::WrongShape).map(|d| d.expected(&expected).found(format!("{found:?}")));
            let differing = wanted.shape.iter().zip(found).find(|(size, found)| size.value() != **found);
            let help = differing
                .filter(|_| found.len() == sizes.len())
                .and_then(|(size, found)| size.contradiction(*found, self.suspect))
                .map(|(key, value, found)| self.table.says(key, value, found));
            self.faults.extend(fault.map(|d| with_help(d, help)).map(Diagnostics::from).unwrap_or_default());
        }
        for (found, group) in dtypes {
            let (expected, help) = (self.table.spelling.types)(sizes.len());
            let fault = group.fault(Code::WrongDtype).map(|d| d.expected(expected).found(found).help(help));
            self.faults.extend(fault.map(Diagnostics::from).unwrap_or_default());
        }
    }

    /// Says more of a missing tensor. A missing head is its own kind of fault: it is never made up.
    fn missing(&self, fault: Diagnostic, name: &str) -> Diagnostic {
        if fault.code == Code::MissingHead {
            let because = match name {
                LM_HEAD => ", and tie_word_embeddings is false",
                SCORE_BIAS => " unless token_classification_bias is false",
                _ => "",
            };
            let fault =
                fault.message(format!("the head {} needs this tensor{because}", self.table.head.name()));
            return match self.stranger(name) {
                Some(help) => fault.help(help),
                None => fault.help("--head base takes the model without a head"),
            };
        }
        if let Some((block, _)) = name.split_once('.').filter(|_| name.ends_with(".bias")) {
            return fault.help((self.table.spelling.biases)(block));
        }
        let missing = fault.at.as_deref().and_then(|at| at.rsplit(' ').next()).unwrap_or(name);
        let help = self.stranger(missing);
        with_help(fault, help)
    }

    /// A tensor of the files that has no meaning and may be `name`, misspelled.
    fn stranger(&self, name: &str) -> Option<String> {
        let near = nearest(name, self.strangers.iter().map(String::as_str))?;
        Some(format!("the files have {near}, which is no tensor of a LLaMA"))
    }
}

fn with_help(fault: Diagnostic, help: Option<String>) -> Diagnostic {
    match help {
        Some(help) => fault.help(help),
        None => fault,
    }
}

/// The same fault in several layers.
#[derive(Default)]
pub(super) struct Group {
    first: Option<String>,
    others: Vec<usize>,
}

impl Group {
    /// Adds a fault at `place`, in a layer or in none.
    pub fn push(&mut self, layer: Option<usize>, place: String) {
        if self.first.is_none() {
            self.first = Some(place);
        } else {
            self.others.extend(layer);
        }
    }

    /// One fault for all of them.
    pub fn fault(mut self, code: Code) -> Option<Diagnostic> {
        let fault = Diagnostic::new(code).at(self.first?);
        if self.others.is_empty() {
            return Some(fault);
        }
        // Names have been in their own order, in which 10 comes before 2.
        self.others.sort_unstable();
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for n in self.others {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == n => *last = n,
                _ => ranges.push((n, n)),
            }
        }
        let ranges: Vec<String> = ranges.into_iter().map(|(first, last)| range(first, last)).collect();
        Some(fault.message(format!("the same in {}", ranges.join(", "))))
    }
}

fn range(first: usize, last: usize) -> String {
    if first == last { format!("layer {first}") } else { format!("layers {first} to {last}") }
}

/// The element type of a weight that can be computed with.
pub(super) fn dtype(stored: &str) -> Option<DType> {
    match stored {
        "F32" => Some(DType::F32),
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::BF16),
        _ => None,
    }
}
