//! `adapter_config.json`: the kind of an adapter, and the numbers that its tensors do not tell.

use std::collections::BTreeMap;

use llamac_plan::PromptKind;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use super::super::Head;
use super::super::json::{self, Fields, Given};
use super::super::members::Members;

/// Ranks are below the width of a model.
const RANKS: std::ops::RangeInclusive<u64> = 1..=1 << 20;

/// Patterns of one kind: more than the projections of the deepest model.
const MAX_PATTERNS: usize = 4096;

/// Bytes that a compiled pattern may take; names of modules take a tenth of it.
const MAX_PATTERN: usize = 1 << 16;

/// What a configuration says of a LoRA.
#[derive(Debug)]
pub(super) struct LoraConfig {
    /// The rank of modules that no pattern meets.
    rank: u64,
    /// What becomes the scale of modules that no pattern meets.
    alpha: f64,
    ranks: Vec<(Regex, u64)>,
    alphas: Vec<(Regex, f64)>,
    /// Whether scales are `alpha / √rank`.
    rslora: bool,
    /// Whether rows get lengths of their own.
    pub dora: bool,
    /// Whether what is added has biases.
    pub bias: bool,
    /// Rows of embeddings that are replaced.
    pub tokens: Tokens,
    /// Whether a change of the input embedding is one of a tied output embedding, too.
    pub tied: bool,
    /// What the model was taught to do.
    pub task: Option<Head>,
}

/// The rows of embeddings that an adapter replaces, in the order of its tensors.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tokens {
    /// None, or those of any embedding.
    All(Vec<usize>),
    /// By the end of the module's name.
    ByModule(BTreeMap<String, Vec<usize>>),
}

impl Tokens {
    /// The rows of `module` that are replaced.
    pub fn of(&self, module: &str) -> &[usize] {
        match self {
            Self::All(rows) => rows,
            Self::ByModule(modules) => {
                modules.iter().find(|(name, _)| is_end_of(module, name)).map_or(&[], |(_, rows)| rows)
            }
        }
    }

    /// The ends of the names of modules of which rows are listed.
    pub fn modules(&self) -> Vec<&str> {
        match self {
            Self::All(rows) if rows.is_empty() => Vec::new(),
            Self::All(_) => vec!["embed_tokens"],
            Self::ByModule(modules) => {
                let listed = modules.iter().filter(|(_, rows)| !rows.is_empty());
                listed.map(|(name, _)| name.as_str()).collect()
            }
        }
    }
}

/// Whether `name` is the name of `module`, or its end behind a dot.
pub(super) fn is_end_of(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

impl LoraConfig {
    /// The rank of `module`, by its path in the adapter's file.
    pub fn rank(&self, module: &str) -> usize {
        first(&self.ranks, module).unwrap_or(self.rank) as usize
    }

    /// The factor of what is added to `module`.
    pub fn scale(&self, module: &str) -> f64 {
        let (rank, alpha) = (self.rank(module) as f64, first(&self.alphas, module).unwrap_or(self.alpha));
        alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// The value of the first pattern that `module` meets.
fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module.as_bytes())).map(|(_, value)| *value)
}

/// Members that say what merging has no use for.
const UNUSED: [&str; 26] = [
    "peft_version",
    "auto_mapping",
    "base_model_name_or_path",
    "base_model_class",
    "parent_library",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "lora_dropout",
    "bias",
    "init_lora_weights",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
];

/// Members that make an adapter something that low-rank sums do not describe, with its name.
const REFUSED: [(&str, &str); 10] = [
    ("layer_replication", "a LoRA of repeated layers"),
    ("alora_invocation_tokens", "an activated LoRA"),
    ("use_qalora", "a QA-LoRA"),
    ("target_parameters", "a LoRA of single parameters"),
    ("use_bdlora", "a block-diagonal LoRA"),
    ("monteclora_config", "a MonteCLoRA"),
    ("velora_config", "a VeLoRA"),
    ("kasa_config", "a KaSA"),
    ("arrow_config", "a router of several adapters"),
    ("megatron_config", "a LoRA of Megatron's parallel layers"),
];

/// Starting points that change the base model.
const ALTERED_BASES: [&str; 5] = ["pissa", "olora", "corda", "lora_ga", "loftq"];

/// Reads the configuration of a LoRA; `file` names it in messages.
///
/// # Errors
/// All faults of the file, and what is no plain LoRA by its name.
pub(super) fn parse(file: &str, bytes: &[u8], warnings: &mut Vec<String>) -> Result<LoraConfig, Diagnostics> {
    let map = json::object(file, bytes)?;
    let mut fields = Fields::new(file, &map);
    let f = &mut fields;
    check_kind(f)?;
    for (key, what) in REFUSED {
        if f.raw(key).is_some_and(says_something) {
            f.fault(Code::UnsupportedAdapter, key, |d| {
                d.message(format!("this is {what}"))
                    .help("merge it with merge_and_unload() of peft and save the result")
            });
        }
    }
    let rank = f.integer("r", RANKS, 8);
    let alpha = f.number("lora_alpha", "a number", |_| true, 8.0);
    let [rslora, dora, bias, tied] =
        ["use_rslora", "use_dora", "lora_bias", "ensure_weight_tying"].map(|key| f.boolean(key, false));
    let members: Option<Members> = serde_json::from_slice(bytes).ok();
    let members = members.as_ref();
    let rank_of = |value: &Value| value.as_u64().filter(|rank| RANKS.contains(rank));
    let ranks = patterns(f, members, "rank_pattern", "a rank", rank_of);
    let alphas =
        patterns(f, members, "alpha_pattern", "a number", |value| value.as_f64().filter(|x| x.is_finite()));
    let tokens = tokens(f);
    let task = f.maybe_string("task_type").map(|given| given.value().and_then(task));
    warn(f, warnings);
    let faults = std::mem::take(&mut f.faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    // A reader is empty only where it recorded a fault, so that none is empty here.
    let config = (|| {
        Some(LoraConfig {
            rank: rank?,
            alpha: alpha?,
            ranks: ranks?,
            alphas: alphas?,
            rslora: rslora?,
            dora: dora?,
            bias: bias?,
            tokens: tokens?,
            tied: tied?,
            task: task?,
        })
    })();
    Ok(config.expect("each reader that is empty recorded a fault"))
}

/// Kinds of adapters that are soft prompts.
pub(super) const SOFT_PROMPTS: [(&str, PromptKind); 3] = [
    ("PROMPT_TUNING", PromptKind::Embeddings),
    ("P_TUNING", PromptKind::Embeddings),
    ("PREFIX_TUNING", PromptKind::Prefix),
];

/// Refuses what is no LoRA.
fn check_kind(fields: &mut Fields<'_>) -> Result<(), Diagnostics> {
    let kind = kind(fields)?;
    if kind == "LORA" {
        return Ok(());
    }
    let fault = Diagnostic::new(Code::UnsupportedAdapter).at(fields.place("peft_type"));
    let fault = fault.expected("LORA").found(kind);
    let is_prompt = SOFT_PROMPTS.iter().any(|(known, _)| *known == kind);
    let help = match is_prompt {
        true => "give it as --soft-prompt",
        false => "merge it with merge_and_unload() of peft, if it has that, and save the result",
    };
    Err(fault.help(help).into())
}

/// The kind of an adapter.
pub(super) fn kind<'a>(fields: &mut Fields<'a>) -> Result<&'a str, Diagnostics> {
    match fields.maybe_string("peft_type") {
        Some(Given::Value(kind)) => Ok(kind),
        Some(_) => {
            let fault = Diagnostic::new(Code::NotAnAdapter).at(fields.place("peft_type"));
            Err(fault.expected("a kind of adapter, as LORA").found("none").into())
        }
        None => Err(std::mem::take(&mut fields.faults)),
    }
}

/// Whether a member is more than a switch that is off.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// The head that a task is for; those of other architectures are nothing here.
pub(super) fn task(name: &str) -> Option<Head> {
    match name {
        "SEQ_CLS" => Some(Head::SequenceClassification),
        "TOKEN_CLS" => Some(Head::TokenClassification),
        "QUESTION_ANS" => Some(Head::QuestionAnswering),
        _ => None,
    }
}

/// Numbers by patterns of names, of which the first in the file counts. A pattern is a regular expression of the end of a
/// module's path, after a dot or from the start.
fn patterns<T>(
    fields: &mut Fields<'_>,
    members: Option<&Members>,
    key: &str,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Option<Vec<(Regex, T)>> {
    let map = fields.maybe_object(key)?.value();
    let Some(map) = map else { return Some(Vec::new()) };
    if map.len() > MAX_PATTERNS {
        fields.fault(Code::BadConfigValue, key, |d| {
            d.expected(format!("at most {MAX_PATTERNS} patterns")).found(map.len().to_string())
        });
        return None;
    }
    let text = members.and_then(|members| members.get(key)).unwrap_or("{}");
    let ordered: Members = serde_json::from_str(text).ok()?;
    let mut found = Vec::new();
    for pattern in ordered.keys() {
        // A line of it tells which.
        let start: String = pattern.chars().take(100).collect();
        let place = format!("{key}.{start}");
        let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
            .unicode(false)
            .size_limit(MAX_PATTERN)
            .dfa_size_limit(MAX_PATTERN)
            .build();
        match (regex, map.get(pattern).and_then(&read)) {
            (Ok(regex), Some(value)) => found.push((regex, value)),
            (Err(_), _) => fields.fault(Code::BadConfigValue, &place, |d| {
                d.expected("a regular expression of names of modules").found(start)
            }),
            (_, None) => fields.fault(Code::BadConfigValue, &place, |d| {
                d.expected(expected).found(map.get(pattern).map(json::show).unwrap_or_default())
            }),
        }
    }
    (found.len() == map.len()).then_some(found)
}

/// `trainable_token_indices`: a list, or a list for each module.
fn tokens(fields: &mut Fields<'_>) -> Option<Tokens> {
    const KEY: &str = "trainable_token_indices";
    let list = |value: &Value| -> Option<Vec<usize>> {
        value.as_array()?.iter().map(|row| usize::try_from(row.as_u64()?).ok()).collect()
    };
    let tokens = match fields.raw(KEY) {
        None | Some(Value::Null) => Some(Tokens::All(Vec::new())),
        Some(Value::Object(modules)) => {
            let modules = modules.iter().map(|(name, rows)| Some((name.clone(), list(rows)?)));
            modules.collect::<Option<_>>().map(Tokens::ByModule)
        }
        Some(value) => list(value).map(Tokens::All),
    };
    if tokens.is_none() {
        let found = fields.raw(KEY).map(json::show).unwrap_or_default();
        let expected = "a list of token ids, or one for each embedding";
        fields.fault(Code::BadConfigValue, KEY, |d| d.expected(expected).found(found));
    }
    tokens
}

/// What is odd, but has one meaning.
fn warn(fields: &Fields<'_>, warnings: &mut Vec<String>) {
    if let Some(start) = fields.raw("init_lora_weights").and_then(Value::as_str)
        && ALTERED_BASES.iter().any(|altered| start.starts_with(altered))
    {
        let place = fields.place("init_lora_weights");
        warnings.push(format!(
            "{place} is {start}, which changes the base model: unless the adapter was converted when it was saved, it \
             fits that changed base only"
        ));
    }
    if fields.raw("fan_in_fan_out") == Some(&Value::Bool(true)) {
        let place = fields.place("fan_in_fan_out");
        warnings.push(format!("{place} is true, but a LLaMA's matrices are [out, in]: it is taken as false"));
    }
    let refused = REFUSED.map(|(key, _)| key);
    warn_of_strangers(fields, &[&UNUSED[..], &refused].concat(), warnings);
}

/// Members that say something, and nobody knows what; `known` ones were not looked for either.
pub(super) fn warn_of_strangers(fields: &Fields<'_>, known: &[&str], warnings: &mut Vec<String>) {
    for key in fields.strangers().filter(|key| !known.contains(key)) {
        if fields.raw(key).is_some_and(says_something) {
            warnings.push(format!("{} is not known and is ignored", fields.place(key)));
        }
    }
}
