//! The parts of a `tokenizer.json`, looked at one by one: what the `tokenizers` crate does not check, and which part
//! is wrong where the crate only says that something is.

use llamac_plan::sentencepiece::CharsMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PaddingParams, PostProcessorWrapper,
    PreTokenizerWrapper, TruncationParams,
};

use super::guard::guard;

/// The members of the file that mean something.
#[derive(Deserialize)]
pub(super) struct Parts<'a> {
    #[serde(borrow)]
    truncation: Option<&'a RawValue>,
    #[serde(borrow)]
    padding: Option<&'a RawValue>,
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
}

/// The member at fault, and what is wrong with it.
#[derive(Debug)]
pub(super) struct PartFault {
    /// Its key.
    pub key: &'static str,
    /// A sentence.
    pub why: String,
}

/// How many times longer a part of the file may make a text. Tokenizers of LLaMA need 3, for a space.
const MOST_GROWTH: usize = 256;

/// What the crate would trust: a table of characters that says it is larger than it is, for which it takes memory, and
/// tables and chains that make a text longer and longer.
pub(super) fn check(parts: &Parts<'_>) -> Result<(), PartFault> {
    let chains = [
        ("normalizer", parts.normalizer),
        ("pre_tokenizer", parts.pre_tokenizer),
        ("decoder", parts.decoder),
    ];
    for (key, part) in chains {
        let fault = |why: String| PartFault { key, why };
        let Some(part) = part else { continue };
        let part = serde_json::from_str(part.get()).map_err(|e| fault(e.to_string()))?;
        if growth(&part).map_err(fault)? > MOST_GROWTH {
            return Err(fault(format!("it may make a text more than {MOST_GROWTH} times longer")));
        }
    }
    Ok(())
}

/// How many times longer a chain may make a text: the product of what its members may.
///
/// # Errors
/// What is wrong with a table of characters.
fn growth(value: &Value) -> Result<usize, String> {
    let product = |mut members: &mut dyn Iterator<Item = &Value>| {
        Iterator::try_fold(&mut members, 1, |all: usize, member| Ok(all.saturating_mul(growth(member)?)))
    };
    match value {
        Value::Array(items) => product(&mut items.iter()),
        Value::Object(members) => {
            if let Some(table) = members.get("precompiled_charsmap").and_then(Value::as_str) {
                return table_growth(table);
            }
            match (members.get("pattern"), members.get("content").and_then(Value::as_str)) {
                (Some(pattern), Some(content)) => {
                    // An expression matches any length; an empty match leaves what is there, too.
                    let pattern = pattern.get("String").and_then(Value::as_str).map_or(0, str::len);
                    Ok(if pattern == 0 { content.len() + 1 } else { content.len().div_ceil(pattern).max(1) })
                }
                // A byte becomes a character of up to two.
                _ if members.contains_key("trim_offsets") || value["type"] == "ByteLevel" => Ok(2),
                _ => product(&mut members.values()),
            }
        }
        _ => Ok(1),
    }
}

/// As [`growth`], of a table of characters in base64. What cannot be decoded, the crate refuses.
fn table_growth(text: &str) -> Result<usize, String> {
    let Ok(blob) = base64::decode(text) else { return Ok(1) };
    Ok(CharsMap::parse(&blob)?.map_or(1, |map| map.growth()))
}

/// The first part that the crate does not take by itself.
pub(super) fn faulty(parts: &Parts<'_>) -> Option<PartFault> {
    fault::<TruncationParams>("truncation", parts.truncation)
        .or_else(|| fault::<PaddingParams>("padding", parts.padding))
        .or_else(|| fault::<Vec<AddedToken>>("added_tokens", parts.added_tokens))
        .or_else(|| fault::<NormalizerWrapper>("normalizer", parts.normalizer))
        .or_else(|| fault::<PreTokenizerWrapper>("pre_tokenizer", parts.pre_tokenizer))
        .or_else(|| fault::<PostProcessorWrapper>("post_processor", parts.post_processor))
        .or_else(|| fault::<DecoderWrapper>("decoder", parts.decoder))
        .or_else(|| fault::<ModelWrapper>("model", parts.model))
}

fn fault<T: DeserializeOwned>(key: &'static str, part: Option<&RawValue>) -> Option<PartFault> {
    let text = part?.get();
    let read = guard(|| serde_json::from_str::<T>(text).map_err(|e| e.to_string().into()));
    read.err().map(|why| PartFault { key, why })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::llama_json;
    use super::*;

    #[test]
    fn the_part_at_fault_is_named() {
        for (key, value) in [
            ("truncation", json!({"max_length": -1})),
            ("padding", json!("left")),
            ("added_tokens", json!([{"id": 1}])),
            ("normalizer", json!({"type": "Lowercased"})),
            ("pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"})),
            ("post_processor", json!(7)),
            ("decoder", json!({"type": "Strip"})),
            ("model", json!({"type": "BPE", "vocab": {"a": -1}, "merges": []})),
        ] {
            let mut json = llama_json();
            json[key] = value;
            let text = json.to_string();
            let parts: Parts<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!(faulty(&parts).map(|fault| fault.key), Some(key));
        }
        let text = llama_json().to_string();
        assert!(faulty(&serde_json::from_str(&text).unwrap()).is_none());
    }

    #[test]
    fn what_makes_texts_longer_and_longer_is_refused() {
        let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let double = replace(json!({"String": "a"}), "aa");
        let chain =
            |part: &Value, n: usize, members: &str| json!({"type": "Sequence", members: vec![part; n]});
        for (part, times) in [
            (json!(null), 1),
            (replace(json!({"String": " "}), "▁"), 3),
            (replace(json!({"String": "``"}), "\""), 1),
            (replace(json!({"Regex": " {2,}"}), " "), 2),
            (chain(&double, 8, "normalizers"), 256),
            (chain(&double, 34, "decoders"), 1 << 34),
            (chain(&chain(&double, 40, "normalizers"), 2, "normalizers"), usize::MAX),
            (chain(&json!({"type": "ByteLevel"}), 10, "pretokenizers"), 1024),
        ] {
            assert_eq!(growth(&part), Ok(times), "{part}");
        }
        for (key, members) in [("normalizer", "normalizers"), ("decoder", "decoders")] {
            let mut json = llama_json();
            json[key] = chain(&double, 34, members);
            let text = json.to_string();
            let fault = check(&serde_json::from_str(&text).unwrap()).unwrap_err();
            assert_eq!((fault.key, &*fault.why), (key, "it may make a text more than 256 times longer"));
        }
    }

    #[test]
    fn tables_of_characters_are_whole_and_their_texts_short() {
        let table = |blob: &[u8]| json!({"normalizers": [{"precompiled_charsmap": base64::encode(blob)}]});
        let texts = |length| table(&[&[0; 4][..], &vec![b'b'; length], b"\0"].concat());
        assert_eq!(growth(&texts(33)), Ok(33));
        assert_eq!(growth(&json!([texts(33), texts(8)])), Ok(264));
        assert_eq!(growth(&json!([{"precompiled_charsmap": "????"}, table(&[])])), Ok(1));
        for (faulty, why) in [
            (table(&[5, 0, 0, 0, 0, 0, 0, 0]), "is cut"),
            (table(&[0xff; 5]), "is cut"),
            (texts(1 << 21), "a text of more than 256 bytes"),
        ] {
            assert!(growth(&faulty).is_err_and(|text| text.contains(why)));
        }
    }
}
