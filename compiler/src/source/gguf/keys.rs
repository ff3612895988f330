//! Sizes and rules of a model in the words of GGUF.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use serde_json::{Map, Value as Json};

use super::value::Value;
use crate::source::bounds;
use crate::source::json::{Fields, Given};

/// Lists of numbers that are looked at have one for each layer.
const MAX_LIST: usize = 512;

/// Keys of models that are more than a LLaMA, unless they have the value beside them.
const NOT_READ: [(&str, f64); 7] = [
    ("llama.expert_count", 0.0),
    ("llama.attention.scale", 0.0),
    ("llama.embedding_scale", 1.0),
    ("llama.residual_scale", 1.0),
    ("llama.logit_scale", 1.0),
    ("llama.rope.scaling.yarn_ext_factor", 1.0),
    ("llama.rope.scaling.yarn_log_multiplier", 0.0),
];

/// What the metadata says of the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Keys {
    pub(super) hidden: u64,
    pub(super) layers: u64,
    pub(super) intermediate: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
    pub(super) context: u64,
    pub(super) eps: f64,
    pub(super) theta: f64,
    pub(super) scaling: Scaling,
}

/// How rotary frequencies are scaled.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scaling {
    pub(super) kind: Kind,
    pub(super) factor: f64,
    /// The context before extension.
    pub(super) original: Option<u64>,
    /// What cosines and sines are multiplied by, beside what the rule says.
    pub(super) attention: f64,
    pub(super) beta_fast: f64,
    pub(super) beta_slow: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    None,
    Linear,
    Yarn,
    LongRope,
}

/// Checks that this is a LLaMA, whole and by itself.
pub(super) fn check_kind(file: &str, metadata: &BTreeMap<&str, Value<'_>>) -> Result<(), Diagnostic> {
    let fault = |key: &str| Diagnostic::new(Code::UnsupportedModel).at(format!("{file}: {key}"));
    if let Some(kind) = metadata.get("general.type").filter(|kind| kind.text() != Some("model")) {
        return Err(fault("general.type").expected("\"model\"").found(super::shown(kind)));
    }
    match metadata.get("general.architecture").map(|value| value.text().unwrap_or("something else")) {
        Some("llama") => Ok(()),
        Some(other) => Err(fault("general.architecture")
            .expected("\"llama\"")
            .found(format!("{other:?}"))
            .help("llamac compiles models of the LLaMA architecture")),
        None => Err(Diagnostic::new(Code::MissingConfigKey)
            .at(format!("{file}: general.architecture"))
            .expected("\"llama\"")),
    }
}

impl Keys {
    /// Reads the `metadata` of `file`.
    ///
    /// # Errors
    /// All that is wrong in it: keys that are missing, values out of range or against each other, and what llamac does
    /// not support.
    pub(super) fn read(file: &str, metadata: &BTreeMap<&str, Value<'_>>) -> Result<Self, Diagnostics> {
        let known = metadata.iter().filter(|(key, _)| key.starts_with("llama."));
        let map: Map<String, Json> =
            known.map(|(key, value)| ((*key).to_owned(), value.json(MAX_LIST))).collect();
        let mut fields = Fields::new(file, &map);
        let f = &mut fields;
        refuse(f);
        let hidden = required(f, "llama.embedding_length", bounds::WIDTH);
        let layers = required(f, "llama.block_count", bounds::LAYERS);
        let intermediate = uniform(f, "llama.feed_forward_length", bounds::INTERMEDIATE, true).flatten();
        let heads = uniform(f, "llama.attention.head_count", bounds::HEADS, true).flatten();
        let kv_heads = uniform(f, "llama.attention.head_count_kv", bounds::HEADS, false);
        let context = required(f, "llama.context_length", bounds::POSITIONS);
        let eps = f.maybe_number("llama.attention.layer_norm_rms_epsilon", "a number from 0 to 1", |x| {
            (0.0..=1.0).contains(&x)
        });
        let eps = present(f, "llama.attention.layer_norm_rms_epsilon", eps);
        let theta = f.number("llama.rope.freq_base", "a number above 0", |x| x > 0.0, 10000.0);
        let head_dim = head_dim(f, hidden, heads);
        let scaling = scaling(f);
        let kv_heads = kv_heads.and_then(|given| given.or(heads));
        if let (Some(heads), Some(kv_heads)) = (heads, kv_heads)
            && heads % kv_heads != 0
        {
            f.fault(Code::InconsistentConfig, "llama.attention.head_count_kv", |d| {
                d.expected(format!("a divisor of llama.attention.head_count {heads}"))
                    .found(kv_heads.to_string())
            });
        }
        let faults = fields.faults;
        let keys = (|| {
            Some(Self {
                hidden: hidden?,
                layers: layers?,
                intermediate: intermediate?,
                heads: heads?,
                kv_heads: kv_heads?,
                head_dim: head_dim?,
                context: context?,
                eps: eps?,
                theta: theta?,
                scaling: scaling?,
            })
        })();
        match keys {
            Some(keys) if faults.is_empty() => Ok(keys),
            _ => Err(faults),
        }
    }
}

fn refuse(f: &mut Fields<'_>) {
    for (key, neutral) in NOT_READ {
        if let Some(Given::Value(found)) = f.maybe_number(key, "a number", |_| true)
            && found != neutral
        {
            f.fault(Code::UnsupportedConfig, key, |d| {
                d.expected(format!("{neutral}, as in every LLaMA")).found(found.to_string())
            });
        }
    }
    if f.maybe_boolean("llama.attention.causal") == Some(Given::Value(false)) {
        f.fault(Code::UnsupportedConfig, "llama.attention.causal", |d| d.expected("true").found("false"));
    }
}

/// The value of a key that has to be there.
fn present<T>(f: &mut Fields<'_>, key: &str, given: Option<Given<T>>) -> Option<T> {
    let value = given?.value();
    if value.is_none() {
        f.fault(Code::MissingConfigKey, key, |d| d.help("convert the model again"));
    }
    value
}

fn required(f: &mut Fields<'_>, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
    let given = f.maybe_integer(key, range);
    present(f, key, given)
}

/// A number, or a list with the same number for each layer; nothing where the key may be missing and is.
fn uniform(
    f: &mut Fields<'_>,
    key: &str,
    range: RangeInclusive<u64>,
    is_required: bool,
) -> Option<Option<u64>> {
    let value = match f.raw(key) {
        Some(Json::Array(list)) => {
            let first = list.first().and_then(Json::as_u64).filter(|n| range.contains(n));
            if first.is_none() || list.iter().any(|n| n.as_u64() != first) {
                f.fault(Code::UnsupportedConfig, key, |d| {
                    d.expected("the same number for every layer")
                        .found(crate::source::json::show(&list.clone().into()))
                });
                return None;
            }
            first
        }
        _ => f.maybe_integer(key, range)?.value(),
    };
    if value.is_none() && is_required {
        f.fault(Code::MissingConfigKey, key, |d| d.help("convert the model again"));
        return None;
    }
    Some(value)
}

fn head_dim(f: &mut Fields<'_>, hidden: Option<u64>, heads: Option<u64>) -> Option<u64> {
    let [key, value, rotated] =
        ["llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"];
    let given = [key, value, rotated].map(|key| f.maybe_integer(key, bounds::HEAD_DIM));
    let (hidden, heads) = (hidden?, heads?);
    if hidden % heads != 0 {
        f.fault(Code::InconsistentConfig, "llama.attention.head_count", |d| {
            d.expected(format!("a divisor of llama.embedding_length {hidden}")).found(heads.to_string())
        });
        return None;
    }
    let [own, values, rotates] = given;
    let head_dim = own?.value().unwrap_or(hidden / heads);
    if head_dim % 2 != 0 {
        f.fault(Code::InconsistentConfig, key, |d| d.expected("an even number").found(head_dim.to_string()));
        return None;
    }
    for (key, found) in [(value, values?.value()), (rotated, rotates?.value())] {
        if let Some(found) = found.filter(|found| *found != head_dim) {
            f.fault(Code::UnsupportedConfig, key, |d| {
                d.expected(format!("{head_dim}, the width of a head")).found(found.to_string())
            });
        }
    }
    Some(head_dim)
}

fn scaling(f: &mut Fields<'_>) -> Option<Scaling> {
    let key = "llama.rope.scaling.type";
    let kind = match f.maybe_string(key)?.value() {
        Some("none") => Some(Kind::None),
        // What llama.cpp takes a factor without a rule for.
        None | Some("linear") => Some(Kind::Linear),
        Some("yarn") => Some(Kind::Yarn),
        Some("longrope") => Some(Kind::LongRope),
        Some(other) => {
            f.fault(Code::UnsupportedConfig, key, |d| {
                d.expected("one of none, linear, yarn, longrope").found(format!("{other:?}"))
            });
            None
        }
    };
    let positive = |x: f64| x > 0.0;
    let mut number = |key: &str, default: f64| f.number(key, "a number above 0", positive, default);
    // The key that there was before the other.
    let old = number("llama.rope.scale_linear", 1.0);
    let factor = number("llama.rope.scaling.factor", old.unwrap_or(1.0));
    let attention = number("llama.rope.scaling.attn_factor", 1.0);
    let beta_fast = number("llama.rope.scaling.yarn_beta_fast", 32.0);
    let beta_slow = number("llama.rope.scaling.yarn_beta_slow", 1.0);
    let original = f.maybe_integer("llama.rope.scaling.original_context_length", bounds::POSITIONS);
    let (kind, factor) = (kind?, factor?);
    Some(Scaling {
        kind: if kind == Kind::Linear && factor == 1.0 { Kind::None } else { kind },
        factor,
        original: original?.value(),
        attention: attention?,
        beta_fast: beta_fast?,
        beta_slow: beta_slow?,
    })
}
