//! `quantization_config`: by which method weights were quantized, and with which settings.
//!
//! Old checkpoints have it in a file of its own. What changes no weight (how it was found, how activations
//! are treated) is not read.

use std::path::Path;

use llamac_plan::diagnostic::{Code, Diagnostics};
use serde_json::{Map, Value};

use super::super::json::{self, Fields, Given};
use super::super::suggest::did_you_mean;
use super::super::{file, locate};
use super::compressed_tensors::{self, Kind, Sharing};
use super::{awq, bitsandbytes, float8, gptq};

/// A method, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Gptq(gptq::Settings),
    Awq(awq::Settings),
    CompressedTensors(Vec<compressed_tensors::Settings>),
    Fp8 {
        /// Rows and columns that share a scale; nothing where all do.
        block: Option<[usize; 2]>,
    },
    FbgemmFp8,
    BitsAndBytes,
}

impl Method {
    /// The names of the parts that it stores weights as.
    pub(super) fn parts(&self) -> &'static [&'static str] {
        match self {
            Self::Gptq(_) => &gptq::PARTS,
            Self::Awq(_) => &awq::PARTS,
            Self::CompressedTensors(_) => &compressed_tensors::PARTS,
            Self::Fp8 { .. } => &float8::FINE_GRAINED_PARTS,
            Self::FbgemmFp8 => &float8::BY_ROW_PARTS,
            Self::BitsAndBytes => &bitsandbytes::PARTS,
        }
    }
}

/// What a configuration says of quantized weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Quantization {
    file: &'static str,
    pub(super) method: Method,
    /// Modules that are not quantized, as the configuration writes them.
    plain: Vec<String>,
}

/// The methods by the names that configurations use.
const METHODS: [&str; 6] = ["gptq", "awq", "compressed-tensors", "fp8", "fbgemm_fp8", "bitsandbytes"];

/// Files of old checkpoints, and the method that each is of where it does not say.
const FILES: [(&str, &str); 2] = [("quantize_config.json", "gptq"), ("quant_config.json", "awq")];

/// Sizes of groups and blocks.
const SIZES: std::ops::RangeInclusive<u64> = 1..=1 << 24;

impl Quantization {
    /// A sentence for a weight that is packed though its module is listed as one that is not.
    pub(super) fn contradiction(&self, name: &str) -> Option<String> {
        let module = name.trim_end_matches(".weight");
        let listed = self.plain.iter().find(|plain| *plain == module)?;
        Some(format!("{}: {listed} is listed as not quantized, and its weight is: it is read so", self.file))
    }

    /// A sentence for a checkpoint without a packed weight; nothing where the settings call for none.
    pub(in super::super) fn without_packed_weights(&self) -> Option<String> {
        let method = match &self.method {
            Method::Gptq(_) => "gptq",
            Method::Awq(_) => "awq",
            Method::CompressedTensors(groups) if groups.is_empty() => return None,
            Method::CompressedTensors(_) => "compressed-tensors",
            Method::Fp8 { .. } => "fp8",
            Method::FbgemmFp8 => "fbgemm_fp8",
            Method::BitsAndBytes => "bitsandbytes",
        };
        let file = self.file;
        Some(format!(
            "{file} says that {method} quantized the weights, and none is: they are read as they are"
        ))
    }
}

/// Reads the settings that `config_json`, or a file of its own in `directory`, has; nothing where the weights
/// are as any other.
///
/// # Errors
/// `UnsupportedConfig` for methods and options that cannot be read, and values that are none.
pub(in super::super) fn read(
    directory: &Path,
    config_json: &[u8],
) -> Result<Option<Quantization>, Diagnostics> {
    // Whoever reads the rest of the configuration tells what is wrong with it.
    let Ok(config) = json::object(locate::CONFIG, config_json) else { return Ok(None) };
    let mut fields = Fields::new(locate::CONFIG, &config);
    match fields.maybe_object("quantization_config") {
        None => return Err(fields.faults),
        Some(Given::Value(map)) => {
            let nested = fields.nested("quantization_config", map);
            return parse(locate::CONFIG, nested, None).map(Some);
        }
        Some(Given::Absent | Given::Null) => {}
    }
    for (name, method) in FILES {
        if let Some(bytes) = file::read(&directory.join(name), json::MAX_BYTES)? {
            let map = json::object(name, &bytes)?;
            return parse(name, Fields::new(name, &map), Some(method)).map(Some);
        }
    }
    Ok(None)
}

fn parse(
    file: &'static str,
    mut fields: Fields<'_>,
    default: Option<&'static str>,
) -> Result<Quantization, Diagnostics> {
    let f = &mut fields;
    let old_bitsandbytes = ["load_in_8bit", "load_in_4bit"].iter().any(|key| f.raw(key).is_some());
    let default = default.or(old_bitsandbytes.then_some("bitsandbytes"));
    let named = f.maybe_string("quant_method").map(|given| given.value().or(default));
    let method = match named {
        None => None,
        Some(Some("gptq")) => of_gptq(f).map(Method::Gptq),
        Some(Some("awq")) => of_awq(f).map(Method::Awq),
        Some(Some("compressed-tensors")) => compressed(f).map(Method::CompressedTensors),
        Some(Some("fp8")) => of_fp8(f).map(|block| Method::Fp8 { block }),
        Some(Some("fbgemm_fp8")) => Some(Method::FbgemmFp8),
        Some(Some("bitsandbytes")) => of_bitsandbytes(f).map(|()| Method::BitsAndBytes),
        Some(other) => {
            let found = other.unwrap_or("no quant_method");
            f.fault(Code::UnsupportedConfig, "quant_method", |d| {
                let d = d
                    .message(format!("weights quantized by the method {found} cannot be read"))
                    .expected(format!("one of {}", METHODS.join(", ")));
                match other.is_some_and(|name| METHODS.contains(&name)) {
                    true => d,
                    false => did_you_mean(d, found, METHODS),
                }
            });
            None
        }
    };
    let mut plain = Vec::new();
    for key in ["modules_to_not_convert", "llm_int8_skip_modules", "ignore"] {
        let names = f.maybe_list(key, "a list of names of modules", |name| name.as_str().map(str::to_owned));
        plain.extend(names.and_then(Given::value).unwrap_or_default());
    }
    match method.filter(|_| fields.faults.is_empty()) {
        Some(method) => Ok(Quantization { file, method, plain }),
        None => Err(fields.faults),
    }
}

/// The values that one may have, for messages.
fn any_of(known: &[&str]) -> String {
    match known {
        [only] => format!("{only:?}"),
        _ => format!("one of {}", known.join(", ")),
    }
}

/// Refuses the value of `key` unless it is among `known`, letter case aside.
fn one_of(f: &mut Fields<'_>, key: &str, known: &[&str]) -> Option<()> {
    match f.maybe_string(key)?.value() {
        Some(found) if !known.iter().any(|name| name.eq_ignore_ascii_case(found)) => {
            f.fault(Code::UnsupportedConfig, key, |d| d.expected(any_of(known)).found(found));
            None
        }
        _ => Some(()),
    }
}

/// The one of `keys` that is there, the first if none is.
fn either<'k>(f: &Fields<'_>, keys: &[&'k str]) -> &'k str {
    keys.iter().find(|key| f.raw(key).is_some()).unwrap_or(&keys[0])
}

/// A whole number under one of the names `keys`, one of `known`.
fn bits(f: &mut Fields<'_>, keys: &[&str], known: &[usize]) -> Option<usize> {
    let key = either(f, keys);
    let given = f.maybe_integer(key, 0..=u64::from(u32::MAX))?.value().map(|bits| bits as usize);
    if given.is_none_or(|bits| !known.contains(&bits)) {
        let names: Vec<String> = known.iter().map(usize::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = given.map_or("nothing".to_owned(), |bits| bits.to_string());
        f.fault(Code::UnsupportedConfig, key, |d| {
            d.expected(match names[..] {
                [only] => only.to_owned(),
                _ => any_of(&names),
            })
            .found(found)
        });
        return None;
    }
    given
}

/// Columns of a group under one of the names `keys`; −1, and null, is all of a row.
fn group_size(f: &mut Fields<'_>, keys: &[&str]) -> Option<Option<usize>> {
    let key = either(f, keys);
    if f.raw(key).is_some_and(|value| value.as_i64() == Some(-1)) {
        return Some(None);
    }
    f.maybe_integer(key, SIZES).map(|given| given.value().map(|size| size as usize))
}

fn of_gptq(f: &mut Fields<'_>) -> Option<gptq::Settings> {
    let bits = bits(f, &["bits", "wbits"], &gptq::BITS);
    let group = group_size(f, &["group_size", "groupsize"]);
    let act_order = f.boolean("desc_act", false);
    let formats = ["checkpoint_format", "format"].map(|key| one_of(f, key, &["gptq", "gptq_v2"]));
    let pack = one_of(f, "pack_dtype", &["int32"]);
    if f.raw("is_marlin_format") == Some(&Value::Bool(true)) {
        f.fault(Code::UnsupportedConfig, "is_marlin_format", |d| {
            d.message("weights that are arranged for Marlin's kernels cannot be read").expected("false")
        });
    }
    let is = |key: &str, format: &str| f.raw(key).and_then(Value::as_str) == Some(format);
    let second = is("checkpoint_format", "gptq_v2") || is("format", "gptq_v2");
    let dynamic = f.maybe_object("dynamic")?.value();
    let own_orders = dynamic.iter().flat_map(|dynamic| dynamic.values()).any(is_reordered);
    formats.into_iter().collect::<Option<Vec<()>>>()?;
    pack?;
    Some(gptq::Settings {
        bits: bits?,
        group: group?,
        first_format: !second,
        act_order: act_order? || own_orders,
        may_differ: dynamic.is_some(),
    })
}

/// Whether settings of some modules say that groups are of columns in another order.
fn is_reordered(settings: &Value) -> bool {
    settings.get("desc_act") == Some(&Value::Bool(true))
}

fn of_awq(f: &mut Fields<'_>) -> Option<awq::Settings> {
    let bits = bits(f, &["bits", "w_bit"], &[awq::BITS]);
    let group = group_size(f, &["group_size", "q_group_size"]);
    let version = one_of(f, "version", &["gemm"]);
    let backend = one_of(f, "backend", &["autoawq"]);
    bits?;
    version?;
    backend?;
    Some(awq::Settings { group: group? })
}

/// Two sizes, as `[128, 128]` or `"128x128"`.
fn block(f: &mut Fields<'_>, key: &str) -> Option<Option<[usize; 2]>> {
    let sizes: Vec<Option<u64>> = match f.raw(key) {
        None | Some(Value::Null) => return Some(None),
        Some(Value::Array(sizes)) => sizes.iter().map(Value::as_u64).collect(),
        Some(Value::String(text)) => text.split('x').map(|size| size.parse().ok()).collect(),
        Some(_) => Vec::new(),
    };
    match sizes[..] {
        [Some(rows), Some(columns)] if SIZES.contains(&rows) && SIZES.contains(&columns) => {
            Some(Some([rows as usize, columns as usize]))
        }
        _ => {
            let found = f.raw(key).map(json::show).unwrap_or_default();
            f.fault(Code::BadConfigValue, key, |d| d.expected("two sizes of a block").found(found));
            None
        }
    }
}

fn of_fp8(f: &mut Fields<'_>) -> Option<Option<[usize; 2]>> {
    let format = one_of(f, "fmt", &["e4m3", "float8_e4m3fn"]);
    let block = block(f, "weight_block_size");
    format?;
    block
}

fn of_bitsandbytes(f: &mut Fields<'_>) -> Option<()> {
    one_of(f, "bnb_4bit_quant_storage", &["uint8"])
}

/// Formats of compressed-tensors that can be read.
const FORMATS: [&str; 5] =
    ["pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision"];

/// Its format of weights that were rounded and are not packed.
const DENSE: &str = "dense";

fn compressed(f: &mut Fields<'_>) -> Option<Vec<compressed_tensors::Settings>> {
    one_of(f, "format", &[&FORMATS[..], &[DENSE]].concat())?;
    let format = f.raw("format").and_then(Value::as_str);
    if let Given::Value(sparsity) = f.maybe_object("sparsity_config")?
        && let Some(found) = sparsity.get("format").and_then(Value::as_str).filter(|found| *found != "dense")
    {
        f.fault(Code::UnsupportedConfig, "sparsity_config.format", |d| d.expected("dense").found(found));
        return None;
    }
    let Given::Value(groups) = f.maybe_object("config_groups")? else { return Some(Vec::new()) };
    if format.is_some_and(|format| format.eq_ignore_ascii_case(DENSE)) {
        return Some(Vec::new());
    }
    let mut settings = Vec::new();
    let inside = f.nested("config_groups", groups);
    for (name, group) in groups {
        let Some(group) = group.as_object() else {
            let key = format!("config_groups.{name}");
            f.fault(Code::BadConfigValue, &key, |d| d.expected("an object").found(json::show(group)));
            continue;
        };
        let mut entry = inside.nested(name, group);
        one_of(&mut entry, "format", &FORMATS);
        let own = entry.raw("format").and_then(Value::as_str);
        if let Some(Given::Value(weights)) = entry.maybe_object("weights") {
            let mut nested = entry.nested("weights", weights);
            settings.extend(of_group(&mut nested, weights, own.or(format)));
            f.faults.extend(nested.faults);
        }
        f.faults.extend(entry.faults);
    }
    f.faults.is_empty().then_some(settings)
}

/// The settings of one group.
fn of_group(
    f: &mut Fields<'_>,
    weights: &Map<String, Value>,
    format: Option<&str>,
) -> Option<compressed_tensors::Settings> {
    let ty = one_of(f, "type", &["int", "float"]);
    let is_float = weights.get("type").and_then(Value::as_str) == Some("float");
    let known: &[usize] = match (is_float, format) {
        (true, _) | (_, Some("int-quantized" | "naive-quantized")) => &[8],
        _ => &[2, 4, 8],
    };
    let bits = bits(f, &["num_bits"], known);
    let symmetric = f.boolean("symmetric", true);
    let act_order = act_order(f)?;
    let size = group_size(f, &["group_size"])?;
    let block = block(f, "block_structure")?;
    one_of(f, "strategy", &["tensor", "channel", "group", "block"])?;
    let strategy = f.raw("strategy").and_then(Value::as_str);
    let sharing = match (strategy.map(str::to_ascii_lowercase).as_deref(), size, block) {
        (Some("block"), _, Some(block)) => Sharing::Block(block),
        (Some("group") | None, Some(size), _) => Sharing::Group(size),
        (Some("tensor"), ..) | (None, None, None) => Sharing::Tensor,
        (Some("channel"), ..) => Sharing::Channel,
        _ => {
            f.fault(Code::InconsistentConfig, "strategy", |d| {
                d.expected("group_size for the strategy group, block_structure for block")
            });
            return None;
        }
    };
    ty?;
    let kind = match (is_float, format) {
        (true, _) => Kind::Float8,
        (false, Some("int-quantized" | "naive-quantized")) => Kind::Int8,
        _ => Kind::Packed(bits?),
    };
    bits?;
    Some(compressed_tensors::Settings { kind, sharing, symmetric: symmetric?, act_order })
}

/// Whether groups are of columns in another order. `weight` is about how they were found.
fn act_order(f: &mut Fields<'_>) -> Option<bool> {
    if let Some(Value::Bool(given)) = f.raw("actorder") {
        return Some(*given);
    }
    one_of(f, "actorder", &["group", "dynamic", "weight", "static"])?;
    let order = f.raw("actorder").and_then(Value::as_str).map(str::to_ascii_lowercase);
    Some(matches!(order.as_deref(), Some("group" | "dynamic")))
}
