//! The rotary embedding of a configuration: three historical spellings become one [`Rope`].
//!
//! Up to transformers 4.42 `rope_scaling` had a `type`, up to 4.57 a `rope_type`, both beside a `rope_theta` at the
//! top level; since 5.0 `rope_parameters` holds everything. The order of precedence is that of 5.x. Factors on cos
//! and sin that follow from other members (YaRN, LongRoPE) are computed here, in double precision as Python does;
//! frequencies are not.

use llamac_ir::suggest::nearest;
use llamac_ir::{Real, RopeScaling};
use llamac_plan::diagnostic::Code;
use serde_json::{Map, Value};

use super::bounds;
use super::json::{Fields, Given, show};
use super::suggest::did_you_mean;

/// A rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: Real,
    /// The rule by which they are scaled.
    pub scaling: RopeScaling,
}

/// The base where no file says one.
const DEFAULT_THETA: f64 = 10000.0;

/// The kinds of scaling with the members that each may have.
const KINDS: [(&str, &[&str]); 7] = [
    ("default", &[]),
    ("linear", &["factor"]),
    ("dynamic", &["factor"]),
    (
        "yarn",
        &["factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"],
    ),
    ("llama3", &["factor", "low_freq_factor", "high_freq_factor"]),
    ("longrope", &["short_factor", "long_factor", "attention_factor", "factor"]),
    // The name under which Phi-3 first published LongRoPE.
    ("su", &["short_factor", "long_factor", "attention_factor", "factor"]),
];

/// Members that every kind may have.
const COMMON: [&str; 5] =
    ["rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"];

/// Reads the rotary embedding from the members of a whole configuration.
pub(super) fn read(
    top: &mut Fields<'_>,
    max_position: Option<u64>,
    head_dim: Option<usize>,
    warnings: &mut Vec<String>,
) -> Option<Rope> {
    let scaling = top.maybe_object("rope_scaling").map(Given::value);
    let parameters = top.maybe_object("rope_parameters").map(Given::value);
    let top_theta = theta(top);
    let top_original = top.maybe_integer("original_max_position_embeddings", bounds::POSITIONS);
    // An empty rope_scaling does not count; one that is not wins over rope_parameters, whose theta is then lost.
    let empty = Map::new();
    let (key, map) = match (scaling?.filter(|map| !map.is_empty()), parameters?) {
        (Some(map), _) => ("rope_scaling", map),
        (None, Some(map)) => ("rope_parameters", map),
        (None, None) => ("rope_parameters", &empty),
    };
    let mut fields = top.nested(key, map);
    let own_theta = theta(&mut fields);
    let factor = fields.maybe_number("partial_rotary_factor", "a number", |_| true);
    refuse_partial_rotation(&mut fields, factor);
    let original = original(&mut fields, top_original, max_position);
    let context = max_position
        .zip(head_dim)
        .zip(original)
        .map(|((max_position, head_dim), original)| Context { max_position, head_dim, original });
    let theta = own_theta.zip(top_theta).map(|(own, top)| own.or(top).unwrap_or(DEFAULT_THETA));
    let scaling = kind(&mut fields).and_then(|kind| {
        let scaling = read_scaling(&mut fields, kind, context.as_ref(), theta, warnings)?;
        warn_of_unknown(&fields, kind, warnings);
        Some(scaling)
    });
    top.faults.extend(fields.faults);
    Some(Rope { theta: Real::new(theta?), scaling: scaling? })
}

/// What a kind of scaling needs from the rest of the configuration.
struct Context {
    max_position: u64,
    head_dim: usize,
    original: u64,
}

fn theta(fields: &mut Fields<'_>) -> Option<Option<f64>> {
    optional(fields, "rope_theta")
}

/// The context length before extension: the member at the top level wins, as in Phi-3's files.
fn original(fields: &mut Fields<'_>, top: Option<Given<u64>>, max_position: Option<u64>) -> Option<u64> {
    let own = fields.maybe_integer("original_max_position_embeddings", bounds::POSITIONS)?.value();
    top?.value().or(own).or(max_position)
}

fn kind(fields: &mut Fields<'_>) -> Option<&'static str> {
    let rope_type = fields.maybe_string("rope_type");
    let legacy = fields.maybe_string("type");
    let (key, name) = match (rope_type?, legacy?) {
        (Given::Value(name), _) => ("rope_type", name),
        (_, Given::Value(name)) => ("type", name),
        _ => return Some("default"),
    };
    let known = KINDS.iter().find(|(known, _)| *known == name).map(|(known, _)| *known);
    if known.is_none() {
        let names = KINDS.map(|(name, _)| name);
        fields.fault(Code::UnsupportedConfig, key, |d| {
            let d = d.expected(format!("one of {}", names[..6].join(", "))).found(format!("\"{name}\""));
            did_you_mean(d, name, names)
        });
    }
    known
}

fn warn_of_unknown(fields: &Fields<'_>, kind: &str, warnings: &mut Vec<String>) {
    let known = KINDS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, known)| *known);
    for key in fields.map().keys() {
        if !known.contains(&key.as_str()) && !COMMON.contains(&key.as_str()) {
            let text = format!("{} means nothing for rope_type \"{kind}\"", fields.place(key));
            let near = nearest(key, known.iter().chain(&COMMON).copied());
            let near = near.filter(|near| !fields.map().contains_key(*near));
            warnings.push(match near {
                Some(near) => format!("{text}; did you mean {near}?"),
                None => text,
            });
        }
    }
}

fn read_scaling(
    fields: &mut Fields<'_>,
    kind: &str,
    context: Option<&Context>,
    theta: Option<f64>,
    warnings: &mut Vec<String>,
) -> Option<RopeScaling> {
    match kind {
        "linear" => Some(RopeScaling::Linear { factor: factor(fields, warnings)?.into() }),
        "dynamic" => {
            let factor = factor(fields, warnings)?;
            let context = context?;
            if context.head_dim == 2 {
                fields.fault(Code::InconsistentConfig, "rope_type", |d| {
                    d.expected("a head_dim above 2: the dynamic rule divides by head_dim − 2")
                        .found("head_dim 2")
                });
                return None;
            }
            Some(RopeScaling::Dynamic { factor: factor.into(), max_position: context.max_position })
        }
        "yarn" => yarn(fields, context, theta, warnings),
        "llama3" => llama3(fields, context, warnings),
        "longrope" | "su" => longrope(fields, context),
        _ => Some(RopeScaling::Default),
    }
}

/// The limits keep what is later computed in single precision finite and above zero.
pub(super) fn positive(x: f64) -> bool {
    (1e-30..=1e30).contains(&x)
}

/// A positive member that has to be there.
fn needed(fields: &mut Fields<'_>, key: &str) -> Option<f64> {
    let given = fields.maybe_number(key, "a number above 0", positive)?.value();
    if given.is_none() {
        missing(fields, key, "a number above 0");
    }
    given
}

fn missing(fields: &mut Fields<'_>, key: &str, expected: &str) {
    let near = fields.misspelling(key);
    fields.fault(Code::MissingConfigKey, key, |d| match near {
        Some(near) => d.expected(expected).help(format!("should {near} be {key}?")),
        None => d.expected(expected),
    });
}

/// An optional positive member; `null` counts as absent.
fn optional(fields: &mut Fields<'_>, key: &str) -> Option<Option<f64>> {
    fields.maybe_number(key, "a number above 0", positive).map(Given::value)
}

fn factor(fields: &mut Fields<'_>, warnings: &mut Vec<String>) -> Option<f64> {
    let factor = needed(fields, "factor")?;
    warn_of_shrinking(fields, factor, warnings);
    Some(factor)
}

fn warn_of_shrinking(fields: &Fields<'_>, factor: f64, warnings: &mut Vec<String>) {
    if factor < 1.0 {
        warnings.push(format!("{} is {factor}, which shortens the context", fields.place("factor")));
    }
}

/// YaRN (Peng et al., 2023), with transformers' defaults.
fn yarn(
    fields: &mut Fields<'_>,
    context: Option<&Context>,
    theta: Option<f64>,
    warnings: &mut Vec<String>,
) -> Option<RopeScaling> {
    let given = fields.maybe_number("factor", "a number above 0, or null", positive);
    if given == Some(Given::Absent) {
        missing(fields, "factor", "a number above 0, or null");
    }
    let attention = optional(fields, "attention_factor");
    // Zero means the default for these four, as Python's `or` has it.
    let mut or_zero = |key| fields.maybe_number(key, "a number from 0", |x| x == 0.0 || positive(x));
    let [fast, slow] = ["beta_fast", "beta_slow"].map(&mut or_zero);
    let [mscale, mscale_all_dim] = ["mscale", "mscale_all_dim"].map(&mut or_zero);
    let truncate = fields.maybe_boolean("truncate");
    let given_or = |given: Given<f64>| given.value().filter(|x| *x != 0.0);
    let (fast, slow) = (given_or(fast?).unwrap_or(32.0), given_or(slow?).unwrap_or(1.0));
    let (mscale, mscale_all_dim) = (given_or(mscale?), given_or(mscale_all_dim?));
    let (context, theta) = (context?, theta?);
    if given? == Given::Absent {
        return None;
    }
    if theta == 1.0 {
        fields.fault(Code::InconsistentConfig, "rope_theta", |d| {
            d.expected("another number than 1: YaRN divides by its logarithm").found("1")
        });
        return None;
    }
    let factor = given?.value().unwrap_or(context.max_position as f64 / context.original as f64);
    warn_of_shrinking(fields, factor, warnings);
    if fast < slow {
        let place = fields.place("beta_fast");
        warnings.push(format!("{place} {fast} is below beta_slow {slow}"));
    }
    let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * libm::log(factor) + 1.0 };
    let attention_factor = match (attention?, mscale, mscale_all_dim) {
        (Some(given), _, _) => given,
        (None, Some(m), Some(all)) => scale(m) / scale(all),
        _ => scale(1.0),
    };
    Some(RopeScaling::Yarn {
        factor: factor.into(),
        original_max_position: context.original,
        beta_fast: fast.into(),
        beta_slow: slow.into(),
        attention_factor: attention_factor.into(),
        truncate: truncate?.value().unwrap_or(true),
    })
}

fn llama3(
    fields: &mut Fields<'_>,
    context: Option<&Context>,
    warnings: &mut Vec<String>,
) -> Option<RopeScaling> {
    let factor = factor(fields, warnings);
    let (low, high) = (needed(fields, "low_freq_factor"), needed(fields, "high_freq_factor"));
    let (factor, low, high, original) = (factor?, low?, high?, context?.original);
    if high <= low {
        fields.fault(Code::InconsistentConfig, "high_freq_factor", |d| {
            d.expected(format!("more than low_freq_factor {low}")).found(high.to_string())
        });
        return None;
    }
    Some(RopeScaling::Llama3 {
        factor: factor.into(),
        low: low.into(),
        high: high.into(),
        original_max_position: original,
    })
}

/// LongRoPE (Ding et al., 2024), as transformers 5 reads it.
fn longrope(fields: &mut Fields<'_>, context: Option<&Context>) -> Option<RopeScaling> {
    let (short, long) = (divisors(fields, "short_factor", context), divisors(fields, "long_factor", context));
    let (factor, attention) = (optional(fields, "factor"), optional(fields, "attention_factor"));
    let (short, long, context) = (short?, long?, context?);
    let original = context.original as f64;
    let factor = factor?.unwrap_or(context.max_position as f64 / original);
    let attention_factor = match attention? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None if context.original == 1 => {
            fields.fault(Code::InconsistentConfig, "original_max_position_embeddings", |d| {
                d.expected("more than 1: the attention factor divides by its logarithm").found("1")
            });
            return None;
        }
        None => (1.0 + libm::log(factor) / libm::log(original)).sqrt(),
    };
    Some(RopeScaling::LongRope {
        short,
        long,
        original_max_position: context.original,
        attention_factor: attention_factor.into(),
    })
}

/// A list of one divisor for each frequency.
fn divisors(fields: &mut Fields<'_>, key: &str, context: Option<&Context>) -> Option<Vec<Real>> {
    let expected = match context {
        Some(context) => format!("a list of {} numbers above 0  (head_dim / 2)", context.head_dim / 2),
        None => "a list of numbers above 0".to_owned(),
    };
    let element = |v: &Value| v.as_f64().filter(|x| positive(*x)).map(Real::new);
    let Some(list) = fields.maybe_list(key, &expected, element)?.value() else {
        missing(fields, key, &expected);
        return None;
    };
    if context.is_some_and(|context| list.len() != context.head_dim / 2) {
        let length = list.len();
        let value = fields.raw(key).map(show).unwrap_or_default();
        fields.fault(Code::InconsistentConfig, key, |d| {
            d.expected(expected).found(format!("{length} numbers: {value}"))
        });
        return None;
    }
    Some(list)
}

/// transformers' LLaMA has no partial rotation, whatever this key says.
pub(super) fn refuse_partial_rotation(fields: &mut Fields<'_>, factor: Option<Given<f64>>) {
    if let Some(Given::Value(factor)) = factor
        && factor != 1.0
    {
        fields.fault(Code::UnsupportedConfig, "partial_rotary_factor", |d| {
            d.expected("1.0: LLaMA models rotate whole heads").found(factor.to_string())
        });
    }
}
