//! `adapter_config.json` of a soft prompt.

use llamac_plan::PromptKind;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::super::Head;
use super::super::json::{self, Fields, Given};
use super::config::{self, SOFT_PROMPTS};

/// Sizes of a model, which is smaller than this.
const SIZES: std::ops::RangeInclusive<u64> = 1..=1 << 31;

/// What a configuration says of a soft prompt. Sizes that it does not give are those of the base.
#[derive(Debug)]
pub(super) struct PromptConfig {
    pub kind: PromptKind,
    /// Virtual tokens.
    pub tokens: usize,
    /// The width of a virtual token: of an embedding, or of a layer's keys.
    pub width: Option<usize>,
    /// Layers of the base.
    pub layers: Option<usize>,
    /// Heads of the base; of a prefix, those for keys.
    pub heads: Option<usize>,
    /// What the model was taught to do.
    pub task: Option<Head>,
}

/// Members that say how a prompt was trained.
const UNUSED: [&str; 18] = [
    "peft_version",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "modules_to_save",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
    "encoder_reparameterization_type",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_dropout",
    "init_weights",
    // What is saved went through the projection.
    "prefix_projection",
    "base_model_class",
    "parent_library",
];

/// Reads the configuration of a soft prompt; `file` names it in messages.
///
/// # Errors
/// All faults of the file, and what is no soft prompt by its name.
pub(super) fn parse(
    file: &str,
    bytes: &[u8],
    warnings: &mut Vec<String>,
) -> Result<PromptConfig, Diagnostics> {
    let map = json::object(file, bytes)?;
    let mut fields = Fields::new(file, &map);
    let f = &mut fields;
    let kind = kind(f)?;
    let tokens = f.maybe_integer("num_virtual_tokens", SIZES);
    let [width, layers, heads] = ["token_dim", "num_layers", "num_attention_heads"].map(|key| size(f, key));
    // Two are those of an encoder and a decoder.
    f.maybe_integer("num_transformer_submodules", 1..=1);
    let task = f.maybe_string("task_type").map(|given| given.value().and_then(config::task));
    if let Some(Given::Absent | Given::Null) = tokens {
        f.fault(Code::MissingConfigKey, "num_virtual_tokens", |d| d.expected("the number of virtual tokens"));
    }
    config::warn_of_strangers(f, &UNUSED, warnings);
    let faults = std::mem::take(&mut f.faults);
    match (tokens, width, layers, heads, task) {
        (Some(Given::Value(tokens)), Some(width), Some(layers), Some(heads), Some(task))
            if faults.is_empty() =>
        {
            Ok(PromptConfig { kind, tokens: tokens as usize, width, layers, heads, task })
        }
        _ => Err(faults),
    }
}

/// A size, if it is given.
fn size(fields: &mut Fields<'_>, key: &str) -> Option<Option<usize>> {
    Some(fields.maybe_integer(key, SIZES)?.value().map(|size| size as usize))
}

fn kind(fields: &mut Fields<'_>) -> Result<PromptKind, Diagnostics> {
    let name = config::kind(fields)?;
    let known = SOFT_PROMPTS.iter().find(|(known, _)| *known == name);
    known.map(|(_, kind)| *kind).ok_or_else(|| {
        let names: Vec<&str> = SOFT_PROMPTS.iter().map(|(name, _)| *name).collect();
        let fault = Diagnostic::new(Code::UnsupportedAdapter).at(fields.place("peft_type"));
        let fault = fault.expected(names.join(", ")).found(name);
        match name {
            "LORA" => fault.help("give it as --lora").into(),
            _ => fault.into(),
        }
    })
}
