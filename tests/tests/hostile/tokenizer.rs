//! Damaged tokenizers.

use std::fs;
use std::path::Path;

use llamac_compiler::source::TokenizerFiles;
use llamac_runtime::diagnostic::{Code, Diagnostics};
use llamac_runtime::text::Tokenizer;

use super::limits::{limited, within};
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

/// Both kinds of `tokenizer.model`, the longest special features among them.
const MODELS: [&str; 5] = [
    "stories",
    "vocabularies/user-defined",
    "vocabularies/ties",
    "vocabularies/words",
    "vocabularies/llama3",
];

/// What is wrong with a `tokenizer.model` is told with its name.
fn told(faults: &Diagnostics) {
    assert!(!faults.is_empty() && faults.iter().count() <= 42);
    for fault in faults.iter() {
        let codes = [Code::BadTokenizer, Code::UnsupportedModel, Code::BadJson];
        assert!(codes.contains(&fault.code), "{fault}");
        assert!(fault.at.as_deref().is_some_and(|at| at.contains("tokenizer.model")), "{fault}");
    }
}

/// Reads a folder with a `tokenizer.model`, uses what opens, and writes it for Hugging Face.
fn model_used(folder: &Path, model: &[u8]) -> bool {
    fs::write(folder.join("tokenizer.model"), model).unwrap();
    let files = match limited(model.len(), || TokenizerFiles::read(folder)) {
        Ok(files) => files,
        Err(faults) => {
            told(&faults);
            return false;
        }
    };
    let place = |name: &str| format!("tokenizer.model: {name}");
    match limited(model.len(), || Tokenizer::from_files(|name| files.file(name), place)) {
        Err(faults) => told(&faults),
        Ok(tokenizer) => limited(model.len(), || {
            let tokenizer = tokenizer.unwrap();
            let text = "  Mia had a red kite.\n  foobar<sep>ﬁA 中文 🙂 12345 <s></s> \u{0} aaaaaaaa";
            let ids = tokenizer.encode(text, true).unwrap();
            assert!(tokenizer.decode(&ids, true).is_ok() && tokenizer.encode_ordinary(text).is_ok());
            let _ = tokenizer.decode(&[0, 7, 259, 260, 1023, 70_000], false);
        }),
    }
    if let Err(faults) = limited(model.len(), || files.hugging_face(None, None, &mut Vec::new())) {
        told(&faults);
    }
    true
}

#[test]
fn truncated_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        let model = read(name, "tokenizer.model");
        for i in 0..64 {
            let used = model_used(folder.path(), &model[..i * model.len() / 64]);
            // Between two lines a file of lines has no end of its own.
            assert!(!used || name == "vocabularies/llama3", "{name}: {i}");
        }
        assert!(model_used(folder.path(), &model), "{name}");
    }
}

#[test]
fn flipped_bits_of_models_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(24);
    for name in MODELS {
        let mut model = read(name, "tokenizer.model");
        let end = model.len();
        // What is behind the pieces says how they are used.
        for _ in 0..150 {
            random.flip(&mut model, end, |model, _| {
                model_used(folder.path(), model);
            });
            let tail = end.saturating_sub(400);
            let mut behind = model.clone();
            random.flip(&mut behind[tail..], end - tail, |flipped, _| {
                let flipped = [&model[..tail], flipped].concat();
                model_used(folder.path(), &flipped);
            });
        }
    }
}

#[test]
fn junk_of_any_size_is_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let piece = |text: &[u8], score: f32| {
        field(1, &[field(1, text), vec![0x15], score.to_le_bytes().to_vec()].concat())
    };
    let unknown = field(1, &[field(1, b"<unk>"), vec![0x18, 2]].concat());
    let specs = [field(2, &[0x18, 2]), field(3, &[])].concat();
    let (nan, a) = (piece(b"a", f32::NAN), piece(b"a", 0.0));
    for model in [
        // A cycle of empty fields, of pieces without text, of one piece, of specs.
        [0x0a, 0].repeat(1 << 20),
        [0x0a, 2, 0x0a, 0].repeat(1 << 18),
        a.repeat(1 << 16),
        specs.repeat(1 << 16),
        // 2^31 bytes of pieces that are not there; a length of 64 bits; groups; a number that never ends.
        b"\x0a\xff\xff\xff\xff\x07".to_vec(),
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(),
        [0x0b].repeat(1 << 20),
        [&[0x0a][..], &[0xff; 1 << 20]].concat(),
        [unknown.clone(), nan, specs.clone()].concat(),
        [unknown.clone(), a.repeat(2), specs.clone()].concat(),
        // Lines without end, and ranks out of reach.
        [&b"IQ== 0\n"[..], &[b'A'; 1 << 22]].concat(),
        b"IQ== 0\n".repeat(1 << 18),
        b"IQ== 0\nIg== 4294967295\nIw== 2147483648\nJA== -1\n".to_vec(),
    ] {
        assert!(!model_used(folder.path(), &model), "{:?}", &model[..model.len().min(40)]);
    }
    // Pieces of which each is a part of the next: encoding and writing end soon, or are refused.
    let chain: Vec<u8> = (1..100).flat_map(|n| piece(&[b'a'].repeat(n), -(n as f32))).collect();
    assert!(model_used(folder.path(), &[unknown, chain, specs].concat()));
}

#[test]
fn long_lines_end_soon() {
    for name in MODELS {
        let files =
            TokenizerFiles::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name));
        let files = files.unwrap();
        let tokenizer = Tokenizer::from_files(|name| files.file(name), str::to_owned).unwrap().unwrap();
        for part in ["a", " ", "foobar", "漢", "<s>", "lalala "] {
            let line = part.repeat(1_000_000 / part.len());
            // Symbols and candidates take some hundred bytes for each of the text.
            within(512 << 20, || tokenizer.encode(&line, true).unwrap());
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
