//! The `tokenizer.json` of byte-level pieces: how texts are cut into words before pairs are merged, and the steps around
//! it, which are the same for all.

use llamac_plan::tokenizer::template;
use serde_json::{Value, json};

use super::json::{Added, Bpe, TokenizerJson};

/// How Llama 3 cuts a text.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text is cut before pairs are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source) enum ByteLevel {
    /// Llama 3's pattern. A word that is a piece is not merged from its parts.
    Llama3,
    /// GPT-2's pattern.
    Gpt2,
    /// GPT-2's pattern, and every digit by itself.
    Digits,
}

impl ByteLevel {
    /// The one that llama.cpp calls `name`, if it is one of these.
    pub(in crate::source) fn by_name(name: &str) -> Option<Self> {
        match name {
            "llama-bpe" | "llama-v3" | "llama3" | "smaug-bpe" | "dbrx" => Some(Self::Llama3),
            "gpt-2" | "mpt" | "olmo" | "jais" => Some(Self::Gpt2),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => Some(Self::Digits),
            _ => None,
        }
    }

    fn pre_tokenizer(self) -> Value {
        match self {
            Self::Llama3 => {
                let split = json!({
                    "type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": false,
                });
                json!({"type": "Sequence", "pretokenizers": [split, byte_level(true, false)]})
            }
            Self::Gpt2 => byte_level(true, true),
            Self::Digits => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true, true)]})
            }
        }
    }
}

fn byte_level(trim_offsets: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim_offsets, "use_regex": use_regex})
}

/// The file of `model`, whose texts are cut by `split`, opened by `bos` and ended by `eos`, where they are given.
pub(super) fn file<'a>(
    split: ByteLevel,
    mut model: Bpe<'a>,
    bos: Option<&Added>,
    eos: Option<&Added>,
    added_tokens: Vec<Added>,
) -> TokenizerJson<'a> {
    model.ignore_merges = split == ByteLevel::Llama3;
    let template = template(bos.map(Added::named), eos.map(Added::named));
    TokenizerJson {
        version: "1.0",
        truncation: (),
        padding: (),
        normalizer: json!(null),
        pre_tokenizer: split.pre_tokenizer(),
        post_processor: json!({"type": "Sequence", "processors": [byte_level(false, false), template]}),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        added_tokens,
        model,
    }
}
