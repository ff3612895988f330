//! `generation_config.json`: how a model wants to be decoded.
//!
//! Only what the runtime implements is read. Where the file exists it decides alone, as in transformers; where it does
//! not, the token ids come from `config.json` and the rest are transformers' defaults.

use llamac_plan::GenerationDefaults;
use llamac_plan::diagnostic::Diagnostics;

use super::config::Config;
use super::json::{self, Fields, Given};

/// transformers' default of `max_length`. It counts as unset there, even where a file says it: generation then stops
/// after 20 new tokens, not at 20 tokens.
const UNSET_MAX_LENGTH: u64 = 20;

/// Counts of tokens and the `k` of top-k sampling.
const COUNT: u64 = 1 << 40;

/// Members that change what transformers generates and that llamac does not follow, with the values that switch them
/// off beside null.
const NOT_FOLLOWED: [(&str, &[f64]); 20] = [
    ("num_beams", &[1.0]),
    ("num_return_sequences", &[1.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("typical_p", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("top_h", &[]),
    ("guidance_scale", &[1.0]),
    ("max_time", &[]),
    ("stop_strings", &[]),
    ("bad_words_ids", &[]),
    ("sequence_bias", &[]),
    ("suppress_tokens", &[]),
    ("begin_suppress_tokens", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("exponential_decay_length_penalty", &[]),
];

/// Reads the decoding defaults: from `bytes`, the content of the file named `file`, or from `config` where there is no
/// such file. A `config` that is faulty itself is none: the file's own faults are found without it.
///
/// # Errors
/// All faults of the file together.
pub fn parse(
    file: &str,
    bytes: Option<&[u8]>,
    config: Option<&Config>,
    warnings: &mut Vec<String>,
) -> Result<GenerationDefaults, Diagnostics> {
    let defaults = GenerationDefaults::default();
    let Some(bytes) = bytes else {
        return Ok(match config {
            None => defaults,
            Some(config) => GenerationDefaults {
                bos_token_id: config.bos_token_id,
                eos_token_ids: config.eos_token_ids.clone(),
                pad_token_id: config.pad_token_id,
                ..defaults
            },
        });
    };
    let map = json::object(file, bytes)?;
    for (key, off) in NOT_FOLLOWED {
        let set = map
            .get(key)
            .filter(|value| !value.is_null() && !value.as_f64().is_some_and(|x| off.contains(&x)));
        if let Some(value) = set {
            warnings.push(format!("{file}: {key} = {value} is not followed"));
        }
    }
    let mut fields = Fields::new(file, &map);
    let read = read(&mut fields);
    fields.warn_of_misspellings(warnings);
    let Some(mut read) = read.filter(|_| fields.faults.is_empty()) else { return Err(fields.faults) };
    if read.do_sample && read.temperature == 0.0 {
        warnings.push(format!("{file}: temperature is 0, which is read as do_sample false"));
        read.do_sample = false;
    }
    if read.temperature == 0.0 {
        read.temperature = defaults.temperature;
    }
    if let Some(config) = config
        && read.eos_token_ids.is_empty()
        && !config.eos_token_ids.is_empty()
    {
        let ids = &config.eos_token_ids;
        warnings.push(format!(
            "{file} names no eos_token_id, so that only length ends a generation; config.json has {ids:?}"
        ));
    }
    Ok(read)
}

fn read(fields: &mut Fields<'_>) -> Option<GenerationDefaults> {
    let defaults = GenerationDefaults::default();
    let probability = |x: f64| (0.0..=1.0).contains(&x);
    let do_sample = fields.maybe_boolean("do_sample");
    let temperature =
        fields.maybe_number("temperature", "a number from 0 to 1000", |x| (0.0..=1e3).contains(&x));
    let top_k = fields.maybe_integer("top_k", 0..=COUNT);
    let top_p = fields.maybe_number("top_p", "a number from 0 to 1", probability);
    let min_p = fields.maybe_number("min_p", "a number from 0 to 1, or null", probability);
    let penalty = fields
        .maybe_number("repetition_penalty", "a number above 0, up to 1000", |x| (1e-3..=1e3).contains(&x));
    let max_new_tokens = fields.maybe_integer("max_new_tokens", 1..=COUNT);
    let max_length = fields.maybe_integer("max_length", 1..=COUNT);
    let bos = fields.token("bos_token_id");
    let eos = fields.tokens("eos_token_id");
    let pad = fields.token("pad_token_id");
    let or = |given: Given<f64>, default: f32| given.value().map_or(default, |x| x as f32);
    Some(GenerationDefaults {
        do_sample: do_sample?.value().unwrap_or(defaults.do_sample),
        temperature: or(temperature?, defaults.temperature),
        top_k: top_k?.value().map_or(defaults.top_k, |k| u32::try_from(k).unwrap_or(u32::MAX)),
        top_p: or(top_p?, defaults.top_p),
        min_p: min_p?.value().map(|x| x as f32),
        repetition_penalty: or(penalty?, defaults.repetition_penalty),
        max_new_tokens: max_new_tokens?.value(),
        max_length: max_length?.value().filter(|length| *length != UNSET_MAX_LENGTH),
        bos_token_id: bos?.value(),
        eos_token_ids: eos?.value().unwrap_or_default(),
        pad_token_id: pad?.value(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(extra: &serde_json::Value) -> Config {
        let mut json = json!({"model_type": "llama", "pad_token_id": 7});
        json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        Config::parse("config.json", json.to_string().as_bytes(), &mut Vec::new()).unwrap()
    }

    fn read(json: &serde_json::Value) -> (Result<GenerationDefaults, Diagnostics>, Vec<String>) {
        let mut warnings = Vec::new();
        let config = config(&json!({"eos_token_id": 9}));
        let read =
            parse("generation_config.json", Some(json.to_string().as_bytes()), Some(&config), &mut warnings);
        (read, warnings)
    }

    #[test]
    fn without_a_file_the_token_ids_come_from_the_configuration() {
        let config = config(&json!({"eos_token_id": [3, 4]}));
        let read = parse("generation_config.json", None, Some(&config), &mut Vec::new()).unwrap();
        assert_eq!((read.bos_token_id, read.pad_token_id), (Some(1), Some(7)));
        assert_eq!(read.eos_token_ids, [3, 4]);
        assert_eq!((read.do_sample, read.top_k, read.max_length), (false, 50, None));
    }

    #[test]
    fn the_file_wins_and_decides_alone() {
        let (read, warnings) = read(&json!({
            "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": null, "min_p": 0.05,
            "eos_token_id": [128001, 128009], "max_length": 4096, "max_new_tokens": 5, "unknown": [1],
            "repetition_penalty": 1.1,
        }));
        let read = read.unwrap();
        assert_eq!(
            read,
            GenerationDefaults {
                do_sample: true,
                temperature: 0.6,
                top_k: 50,
                top_p: 0.9,
                min_p: Some(0.05),
                repetition_penalty: 1.1,
                max_new_tokens: Some(5),
                max_length: Some(4096),
                bos_token_id: None,
                eos_token_ids: vec![128001, 128009],
                pad_token_id: None,
            }
        );
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_transformers_takes_for_unset_is_unset() {
        let (defaults, warnings) =
            read(&json!({"max_length": 20, "temperature": null, "eos_token_id": null}));
        assert_eq!(defaults.unwrap(), GenerationDefaults::default());
        assert!(warnings[0].contains("config.json has [9]"), "{warnings:?}");
        let (greedy, warnings) = read(&json!({"do_sample": true, "temperature": 0.0, "eos_token_id": 1}));
        assert!(!greedy.unwrap().do_sample);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn what_is_not_followed_is_told() {
        let off = json!({"num_beams": 1, "no_repeat_ngram_size": 0, "min_length": 0, "stop_strings": null, "eos_token_id": 1});
        assert!(read(&off).1.is_empty());
        let on = json!({"num_beams": 4, "stop_strings": ["x"], "suppress_tokens": [5], "eos_token_id": 1});
        let (_, warnings) = read(&on);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].contains("num_beams = 4"));
    }

    #[test]
    fn a_misspelled_key_is_told() {
        let (_, warnings) = read(&json!({"temprature": 0.6, "do_sampel": true, "eos_token_id": 1}));
        assert_eq!(
            warnings,
            [
                "generation_config.json: do_sampel means nothing; did you mean do_sample?",
                "generation_config.json: temprature means nothing; did you mean temperature?",
            ]
        );
    }

    #[test]
    fn faults_come_together() {
        let (read, _) = read(&json!({
            "do_sample": 1, "temperature": -1.0, "top_k": -5, "top_p": 1.5, "min_p": "a", "repetition_penalty": 0,
            "max_new_tokens": 0, "max_length": 1.5, "bos_token_id": "x", "eos_token_id": {}, "pad_token_id": 1.5,
        }));
        assert_eq!(read.unwrap_err().iter().count(), 11);
    }
}
