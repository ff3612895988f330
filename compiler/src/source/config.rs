//! `config.json`, normalised once: every spelling that LLaMA checkpoints have used becomes one [`Config`].
//!
//! Types, defaults and rules are those of transformers' `LlamaConfig`, except where it leaves a mistake for later:
//! sizes have upper bounds, and grouped heads must divide. Nothing here looks at tensors, or says how they are quantized.

use std::ops::RangeInclusive;

use llamac_ir::{Activation, Real};
use llamac_plan::diagnostic::{Code, Diagnostics};
use serde_json::Value;

use super::bounds;
use super::json::{self, Fields, Given};
use super::labels::{self, Labels};
use super::rope::{self, Rope};
use super::suggest::did_you_mean;

/// The description of a LLaMA model, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; they divide the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// The function of the feed-forward block.
    pub activation: Activation,
    /// Added to the mean square before its root.
    pub rms_norm_eps: Real,
    /// Rotary position embedding.
    pub rope: Rope,
    /// The context length that the model is meant for.
    pub max_position_embeddings: u64,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
    /// Whether the three feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether the output embedding is meant to be the input embedding.
    pub tie_word_embeddings: bool,
    /// The token that fills up a batch, and that pooling for classification skips.
    pub pad_token_id: Option<u32>,
    /// The token that opens a sequence.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    /// Names of the classes of a classification head, in the order of its rows.
    pub labels: Vec<String>,
    /// Whether a token classifier's scores have a bias.
    pub token_classification_bias: bool,
    /// What a classification head's scores mean: `regression`, `single_label_classification` or
    /// `multi_label_classification`.
    pub problem_type: Option<String>,
    /// Names of the Python classes that the checkpoint was saved from.
    pub architectures: Vec<String>,
    /// The dtype that the checkpoint says it has; each tensor's own is what counts.
    pub dtype: Option<String>,
    /// Keys of sizes that the file does not give: their values are defaults.
    pub absent: Vec<&'static str>,
}

/// Keys of the sizes that tensors are compared with.
const SIZES: [&str; 7] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
];

impl Config {
    /// Parses the bytes of a configuration; `file` names it in messages. What is odd, but has one meaning, goes to
    /// `warnings`.
    ///
    /// # Errors
    /// All faults of the file together: wrong JSON, wrong types, missing keys, values out of range or against each
    /// other, and what llamac does not support.
    pub fn parse(file: &str, bytes: &[u8], warnings: &mut Vec<String>) -> Result<Self, Diagnostics> {
        let map = json::object(file, bytes)?;
        let mut fields = Fields::new(file, &map);
        let f = &mut fields;

        let architectures =
            f.maybe_list("architectures", "a list of strings", |v| v.as_str().map(str::to_owned));
        let architectures = architectures.map(|given| given.value().unwrap_or_default());
        if !is_llama(f, architectures.as_deref().unwrap_or_default()) {
            return Err(fields.faults);
        }
        refuse_variants(f);

        let vocab_size = size(f, "vocab_size", bounds::VOCAB, 32000);
        let hidden_size = size(f, "hidden_size", bounds::WIDTH, 4096);
        let intermediate_size = size(f, "intermediate_size", bounds::INTERMEDIATE, 11008);
        let num_hidden_layers = size(f, "num_hidden_layers", bounds::LAYERS, 32);
        let heads = size(f, "num_attention_heads", bounds::HEADS, 32);
        let kv_heads = f.maybe_integer("num_key_value_heads", bounds::HEADS).map(Given::value);
        let kv_heads = kv_heads.and_then(|given| given.map(|n| n as usize).or(heads));
        let head_dim = head_dim(f, hidden_size, heads);
        if let (Some(heads), Some(kv_heads)) = (heads, kv_heads)
            && heads % kv_heads != 0
        {
            f.fault(Code::InconsistentConfig, "num_key_value_heads", |d| {
                d.expected(format!("a divisor of num_attention_heads {heads}")).found(kv_heads.to_string())
            });
        }
        let activation = activation(f);
        let eps = f.number("rms_norm_eps", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x), 1e-6);
        let positions = f.integer("max_position_embeddings", bounds::POSITIONS, 2048);
        let rope = rope::read(f, positions, head_dim, warnings);

        let attention_bias = f.boolean("attention_bias", false);
        let mlp_bias = f.boolean("mlp_bias", false);
        let tie_word_embeddings = f.boolean("tie_word_embeddings", false);
        let pad = f.token("pad_token_id").map(Given::value);
        let bos = f.token("bos_token_id").map(|given| given.or_default(1));
        let eos = f.tokens("eos_token_id").map(|given| given.or_default(vec![2]).unwrap_or_default());
        let labels = labels::read(f, warnings);
        let token_classification_bias = f.boolean("token_classification_bias", true);
        // Late versions write `dtype`, earlier ones `torch_dtype`.
        let (dtype, torch_dtype) = (f.maybe_string("dtype"), f.maybe_string("torch_dtype"));
        let dtype = dtype.and_then(Given::value).or(torch_dtype.and_then(Given::value)).map(str::to_owned);

        f.warn_of_misspellings(warnings);
        let faults = fields.faults;
        if !faults.is_empty() {
            return Err(faults);
        }
        // A reader is empty only where it recorded a fault, so that none is empty here.
        let config = (|| {
            let Labels { names, problem_type } = labels?;
            Some(Self {
                vocab_size: vocab_size?,
                hidden_size: hidden_size?,
                intermediate_size: intermediate_size?,
                num_hidden_layers: num_hidden_layers?,
                num_attention_heads: heads?,
                num_key_value_heads: kv_heads?,
                head_dim: head_dim?,
                activation: activation?,
                rms_norm_eps: Real::new(eps?),
                rope: rope?,
                max_position_embeddings: positions?,
                attention_bias: attention_bias?,
                mlp_bias: mlp_bias?,
                tie_word_embeddings: tie_word_embeddings?,
                pad_token_id: pad?,
                bos_token_id: bos?,
                eos_token_ids: eos?,
                labels: names,
                token_classification_bias: token_classification_bias?,
                problem_type,
                architectures: architectures?,
                dtype,
                absent: SIZES.into_iter().filter(|key| map.get(*key).is_none_or(Value::is_null)).collect(),
            })
        })();
        let config = config.expect("each reader that is empty recorded a fault");
        config.warn_of_tokens(file, warnings);
        Ok(config)
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Token ids outside the vocabulary never match; transformers warns of them too.
    fn warn_of_tokens(&self, file: &str, warnings: &mut Vec<String>) {
        let named = [("pad_token_id", self.pad_token_id), ("bos_token_id", self.bos_token_id)];
        let named = named.into_iter().filter_map(|(key, id)| Some((key, id?)));
        for (key, id) in named.chain(self.eos_token_ids.iter().map(|id| ("eos_token_id", *id))) {
            if id as usize >= self.vocab_size {
                warnings.push(format!("{file}: {key} is {id}, but vocab_size is {}", self.vocab_size));
            }
        }
    }
}

fn size(fields: &mut Fields<'_>, key: &str, range: RangeInclusive<u64>, default: u64) -> Option<usize> {
    fields.integer(key, range, default).map(|n| n as usize)
}

/// Whether this is a LLaMA at all; if not, its other members mean something else and are not looked at.
fn is_llama(fields: &mut Fields<'_>, architectures: &[String]) -> bool {
    let llama_class = |name: &String| name.to_ascii_lowercase().starts_with("llama");
    match fields.maybe_string("model_type") {
        None => false,
        Some(Given::Value("llama")) => true,
        Some(Given::Value(other)) => {
            let found = match architectures.first() {
                Some(class) => format!("\"{other}\" ({class})"),
                None => format!("\"{other}\""),
            };
            fields.fault(Code::UnsupportedModel, "model_type", |d| {
                d.expected("\"llama\"").found(found).help("llamac compiles models of the LLaMA architecture")
            });
            false
        }
        Some(_) if architectures.iter().any(llama_class) => true,
        Some(_) => {
            let help = match fields.misspelling("model_type") {
                Some(near) => format!("should {near} be model_type?"),
                None => "is this the config.json of a model? add \"model_type\": \"llama\" if it is a LLaMA"
                    .to_owned(),
            };
            fields.fault(Code::MissingConfigKey, "model_type", |d| d.expected("\"llama\"").help(help));
            false
        }
    }
}

/// Members that change the mathematics in ways that the model builder does not know.
fn refuse_variants(fields: &mut Fields<'_>) {
    if fields.maybe_boolean("is_causal") == Some(Given::Value(false)) {
        fields.fault(Code::UnsupportedConfig, "is_causal", |d| d.expected("true").found("false"));
    }
    let factor = fields.maybe_number("partial_rotary_factor", "a number", |_| true);
    rope::refuse_partial_rotation(fields, factor);
}

/// Checks that heads divide the width, as transformers does even where `head_dim` is given.
fn head_dim(fields: &mut Fields<'_>, hidden: Option<usize>, heads: Option<usize>) -> Option<usize> {
    let given = fields.maybe_integer("head_dim", bounds::HEAD_DIM);
    let (hidden, heads) = (hidden?, heads?);
    if hidden % heads != 0 {
        fields.fault(Code::InconsistentConfig, "num_attention_heads", |d| {
            d.expected(format!("a divisor of hidden_size {hidden}")).found(heads.to_string())
        });
    }
    let head_dim = match given?.value() {
        Some(given) => given as usize,
        None if hidden % heads != 0 => return None,
        None => hidden / heads,
    };
    if head_dim % 2 != 0 {
        fields.fault(Code::InconsistentConfig, "head_dim", |d| {
            d.expected("an even number: rotary embeddings turn pairs").found(format!(
                "{head_dim}  (head_dim is hidden_size {hidden} / num_attention_heads {heads} if it is not given)"
            ))
        });
        return None;
    }
    Some(head_dim)
}

/// The activation functions by the names that configurations use.
const ACTIVATIONS: [(&str, Activation); 7] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
];

fn activation(fields: &mut Fields<'_>) -> Option<Activation> {
    let name = match fields.maybe_string("hidden_act")? {
        Given::Absent => "silu",
        Given::Value(name) => name,
        Given::Null => {
            fields.fault(Code::BadConfigValue, "hidden_act", |d| {
                d.expected("a string").found(Value::Null.to_string())
            });
            return None;
        }
    };
    let known = ACTIVATIONS.into_iter().find(|(known, _)| *known == name).map(|(_, activation)| activation);
    if known.is_none() {
        let names = ACTIVATIONS.map(|(name, _)| name);
        fields.fault(Code::UnsupportedConfig, "hidden_act", |d| {
            let d = d.expected(format!("one of {}", names.join(", "))).found(name);
            did_you_mean(d, name, names)
        });
    }
    known
}

#[cfg(test)]
mod tests;
