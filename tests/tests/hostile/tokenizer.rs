//! Damaged tokenizers.

use std::fs;
use std::path::Path;

use llamac_runtime::diagnostic::Code;
use llamac_runtime::text::Tokenizer;

use super::limits::limited;
use super::random::{Random, splice};

const FOLDERS: [&str; 4] =
    ["stories", "tokenizers/llama3-bytelevel", "tokenizers/gpt2-digits", "tokenizers/metaspace-first"];

fn read(folder: &str, file: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(folder).join(file)).unwrap()
}

/// Reads a tokenizer and uses it; what is wrong with it is told with its file.
fn used(json: &[u8]) -> bool {
    let tokenizer = match limited(json.len(), || Tokenizer::from_bytes(json, "tokenizer.json")) {
        Ok(tokenizer) => tokenizer,
        Err(faults) => {
            assert!(!faults.is_empty());
            let told = |at: &str| at == "tokenizer.json" || at.starts_with("tokenizer.json: ");
            let all = |code, at: Option<&str>| code == Code::BadTokenizer && at.is_some_and(told);
            assert!(faults.iter().all(|f| all(f.code, f.at.as_deref())), "{faults}");
            return false;
        }
    };
    let text = "Mia had a red kite.\n  Ünïcödé 中文 🙂 12345 <s></s> \u{0}";
    limited(json.len(), || {
        let ids = tokenizer.encode(text, true).unwrap_or_else(|_| vec![0, 1, 2, 3, 500]);
        let _ = tokenizer.decode(&ids, true);
        let _ = tokenizer.decode(&[0, 7, 259, 260, 1023, 70_000], false);
    });
    true
}

#[test]
fn truncated_files_are_refused() {
    for folder in FOLDERS {
        let json = read(folder, "tokenizer.json");
        let end = json.trim_ascii_end().len();
        assert!((0..64).all(|i| !used(&json[..i * end / 64])), "{folder}");
        assert!(used(&json), "{folder}");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let mut random = Random(21);
    for folder in FOLDERS {
        let mut json = read(folder, "tokenizer.json");
        // What is around the vocabulary says how the tokenizer works: as many cases as for all of the file.
        let around = json.windows(7).position(|w| w == b"\"vocab\"").unwrap();
        for end in [around, json.len()] {
            for _ in 0..1000 {
                random.flip(&mut json, end, |json, _| {
                    used(json);
                });
            }
        }
    }
}

#[test]
fn spliced_numbers_and_words_never_panic() {
    let mut random = Random(22);
    for folder in FOLDERS {
        let json = read(folder, "tokenizer.json");
        let around = json.windows(7).position(|w| w == b"\"vocab\"").unwrap();
        for _ in 0..400 {
            used(&splice(&mut random, &json, around));
        }
    }
}

#[test]
fn damaged_configurations_of_tokenizers_never_panic() {
    let mut random = Random(23);
    for folder in FOLDERS {
        let json = read(folder, "tokenizer.json");
        let mut config = read(folder, "tokenizer_config.json");
        let end = config.len();
        let with = |config: &[u8]| {
            let tokenizer = Tokenizer::from_bytes(&json, "tokenizer.json").unwrap();
            match limited(config.len(), || tokenizer.with_config(config, "tokenizer_config.json")) {
                Ok(tokenizer) => {
                    let _ = tokenizer.encode("Mia <s>", true).map(|ids| tokenizer.decode(&ids, true));
                    true
                }
                Err(faults) => {
                    let at = |at: Option<&str>| at.is_some_and(|at| at.starts_with("tokenizer_config.json"));
                    assert!(faults.iter().all(|f| f.code == Code::BadTokenizer && at(f.at.as_deref())));
                    false
                }
            }
        };
        for i in 0..64 {
            assert!(!with(&config[..i * config.trim_ascii_end().len() / 64]));
        }
        for _ in 0..100 {
            with(&splice(&mut random, &config, end));
            random.flip(&mut config, end, |config, _| {
                with(config);
            });
        }
    }
}

/// A pipeline with one part replaced. Numbers in it are sizes and counts that the file makes up.
#[test]
fn made_up_sizes_take_no_memory_and_no_time() {
    let json: serde_json::Value = serde_json::from_slice(&read("stories", "tokenizer.json")).unwrap();
    // Each of the chain doubles a text.
    let double = [r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#; 34].join(",");
    let doubles = |members| format!(r#"{{"type":"Sequence","{members}":[{double}]}}"#);
    for (key, part) in [
        ("normalizer", &*doubles("normalizers")),
        ("decoder", &doubles("decoders")),
        (
            "padding",
            r#"{"strategy":{"Fixed":1000000000000},"direction":"Left","pad_to_multiple_of":4611686018427387904,"pad_id":0,"pad_type_id":0,"pad_token":"x"}"#,
        ),
        (
            "truncation",
            r#"{"direction":"Right","max_length":0,"strategy":"LongestFirst","stride":18446744073709551615}"#,
        ),
        (
            "decoder",
            r#"{"type":"Strip","content":" ","start":18446744073709551615,"stop":18446744073709551615}"#,
        ),
        ("decoder", r#"{"type":"Strip","content":" ","start":1000000000000,"stop":0}"#),
        ("normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"/////w=="}"#),
        ("normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"AAAAgAAAAAA="}"#),
        ("normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"BAAAAP////8A"}"#),
        ("normalizer", r#"{"type":"Replace","pattern":{"Regex":"(a*)*b"},"content":"x"}"#),
        (
            "normalizer",
            r#"{"type":"Replace","pattern":{"Regex":"(((a{1000}){1000}){1000}){1000}"},"content":"x"}"#,
        ),
        ("normalizer", r#"{"type":"Replace","pattern":{"String":""},"content":"x"}"#),
        ("normalizer", r#"{"type":"Prepend","prepend":""}"#),
        (
            "pre_tokenizer",
            r#"{"type":"Split","pattern":{"Regex":"(\\s|\\w|.)*?"},"behavior":"Isolated","invert":true}"#,
        ),
        (
            "pre_tokenizer",
            r#"{"type":"Split","pattern":{"Regex":"(?=(.*.*.*.*.*x))"},"behavior":"Isolated","invert":false}"#,
        ),
        ("pre_tokenizer", r#"{"type":"FixedLength","length":0}"#),
        ("pre_tokenizer", r#"{"type":"FixedLength","length":18446744073709551615}"#),
        (
            "model",
            r#"{"type":"WordPiece","vocab":{"a":4294967295,"[UNK]":0},"unk_token":"[UNK]","continuing_subword_prefix":"","max_input_chars_per_word":18446744073709551615}"#,
        ),
        ("model", r#"{"type":"Unigram","unk_id":0,"vocab":[["",0.0],["a",1e308]],"byte_fallback":true}"#),
        ("model", r#"{"type":"Unigram","unk_id":99,"vocab":[["a",0.0]]}"#),
        ("model", r#"{"type":"Unigram","unk_id":null,"vocab":[]}"#),
        ("model", r#"{"type":"BPE","vocab":{"a":4294967295},"merges":[["a","a"]]}"#),
        ("model", r#"{"type":"BPE","vocab":{"":0},"merges":[["",""]]}"#),
        ("model", r#"{"type":"BPE","vocab":{"a":0,"aa":0},"merges":[["a","a"]],"dropout":2.0}"#),
        ("model", r#"{"type":"WordLevel","vocab":{"a":4294967295},"unk_token":""}"#),
        (
            "added_tokens",
            r#"[{"id":4294967295,"content":"","single_word":false,"lstrip":true,"rstrip":true,"normalized":true,"special":true}]"#,
        ),
        (
            "added_tokens",
            r#"[{"id":3000000000,"content":"Mia","single_word":false,"lstrip":true,"rstrip":true,"normalized":true,"special":true}]"#,
        ),
        (
            "post_processor",
            r#"{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":4294967295}},{"Sequence":{"id":"B","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[4294967295],"tokens":["<s>"]}}}"#,
        ),
        (
            "post_processor",
            r#"{"type":"RobertaProcessing","sep":["",4294967295],"cls":["",0],"trim_offsets":true,"add_prefix_space":true}"#,
        ),
    ] {
        let mut json = json.clone();
        json[key] = serde_json::from_str(part).unwrap();
        used(json.to_string().as_bytes());
    }
}
