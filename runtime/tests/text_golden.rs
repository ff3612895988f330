//! The tokenizer, streams of text and stop strings against transformers' outputs (`fixtures/golden`).

use std::path::{Path, PathBuf};

use llamac_runtime::text::{Detokenizer, StopStrings, Tokenizer};
use proptest::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn golden<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read(fixtures().join("golden").join(name)).expect("a golden file");
    serde_json::from_slice(&text).expect("a golden file of this shape")
}

/// The tokenizer at `path` within the fixtures, with the configuration beside it.
fn tokenizer(path: &str) -> Tokenizer {
    let path = fixtures().join(path);
    let config = std::fs::read(path.with_file_name("tokenizer_config.json")).expect("tokenizer_config.json");
    let json = std::fs::read(path).expect("tokenizer.json");
    let tokenizer = Tokenizer::from_bytes(&json, "tokenizer.json").expect("a valid tokenizer");
    tokenizer.with_config(&config, "tokenizer_config.json").expect("a valid configuration")
}

#[derive(Deserialize)]
struct Tokenizers {
    tokenizers: Vec<Cases>,
}

#[derive(Deserialize)]
struct Cases {
    path: String,
    vocab_size: usize,
    encode: Vec<Encode>,
    decode: Vec<Decode>,
    stream: Vec<Stream>,
}

#[derive(Deserialize)]
struct Encode {
    text: String,
    ids: Vec<u32>,
    ids_special: Vec<u32>,
    pieces_special: Vec<String>,
    decoded: String,
    decoded_skip: String,
}

#[derive(Deserialize)]
struct Decode {
    ids: Vec<u32>,
    text: String,
    text_skip: String,
}

#[derive(Deserialize)]
struct Stream {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    text: String,
}

#[derive(Deserialize)]
struct Stops {
    tokenizer: String,
    cases: Vec<Stop>,
}

#[derive(Deserialize)]
struct Stop {
    name: String,
    stop_strings: Vec<String>,
    ids: Vec<u32>,
    stop_index: Option<usize>,
}

/// All that a stream says of `ids`.
fn said(mut stream: Detokenizer<'_>, ids: &[u32]) -> String {
    let mut text = String::new();
    for &id in ids {
        text += stream.push(id).expect("decodes");
    }
    text + stream.flush().expect("decodes")
}

#[test]
fn encodes_decodes_and_streams_as_transformers() {
    let golden: Tokenizers = golden("tokenizer.json");
    assert_eq!(golden.tokenizers.len(), 4);
    for cases in &golden.tokenizers {
        let (t, path) = (tokenizer(&cases.path), &cases.path);
        assert_eq!(t.vocab_size(), cases.vocab_size, "{path}");
        for c in &cases.encode {
            let text = &c.text;
            assert_eq!(t.encode(text, false).expect("encodes"), c.ids, "{path}: {text:?}");
            assert_eq!(t.encode(text, true).expect("encodes"), c.ids_special, "{path}: {text:?}");
            let pieces = t.pieces(&c.ids_special).expect("known");
            // transformers shows an added token with the spaces that it swallowed; the vocabulary has none.
            let shown = c.pieces_special.iter().map(|p| p.trim_matches(' '));
            assert!(pieces.iter().eq(shown), "{path}: {text:?}: {pieces:?}");
            assert_eq!(t.decode(&c.ids_special, false).expect("decodes"), c.decoded, "{path}: {text:?}");
            assert_eq!(t.decode(&c.ids_special, true).expect("decodes"), c.decoded_skip, "{path}: {text:?}");
        }
        for c in &cases.decode {
            assert_eq!(t.decode(&c.ids, false).expect("decodes"), c.text, "{path}: {:?}", c.ids);
            assert_eq!(t.decode(&c.ids, true).expect("decodes"), c.text_skip, "{path}: {:?}", c.ids);
            assert_eq!(said(Detokenizer::new(&t, false), &c.ids), c.text, "{path}: {:?}", c.ids);
            assert_eq!(said(Detokenizer::new(&t, true), &c.ids), c.text_skip, "{path}: {:?}", c.ids);
        }
        for c in &cases.stream {
            let stream = Detokenizer::after(&t, true, &c.prompt).expect("decodes");
            assert_eq!(said(stream, &c.ids), c.text, "{path}: {:?} then {:?}", c.prompt, c.ids);
        }
    }
}

#[test]
fn stops_where_transformers_stops() {
    let golden: Stops = golden("stop.json");
    let t = tokenizer(&golden.tokenizer);
    assert!(golden.cases.len() >= 14);
    for c in &golden.cases {
        let mut stop = StopStrings::new(&t, &c.stop_strings).expect("stop strings");
        let at = c.ids.iter().position(|&id| stop.push(id).expect("bytes"));
        assert_eq!(at, c.stop_index, "{}", c.name);
        // The same, with the start of the text as a prompt.
        let Some(index) = c.stop_index else { continue };
        let mut stop = StopStrings::new(&t, &c.stop_strings).expect("stop strings");
        stop.prompt(&c.ids[..index]).expect("bytes");
        assert!(stop.push(c.ids[index]).expect("bytes"), "{}", c.name);
    }
}

fn random_stream(path: &str, ids: &[u32]) {
    let t = tokenizer(path);
    let ids: Vec<u32> = ids.iter().map(|id| id % (t.vocab_size() as u32 + 3)).collect();
    for skip in [true, false] {
        let mut stream = Detokenizer::new(&t, skip);
        let mut text = String::new();
        let whole = t.decode(&ids, skip).expect("decodes");
        for &id in &ids {
            text += stream.push(id).expect("decodes");
            assert!(whole.starts_with(&text), "{text:?} is no start of {whole:?}");
        }
        text += stream.flush().expect("decodes");
        assert_eq!(text, whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_add_up_to_the_decoding(
        path in prop::sample::select(vec![
            "stories/tokenizer.json",
            "tokenizers/metaspace-first/tokenizer.json",
            "tokenizers/llama3-bytelevel/tokenizer.json",
            "tokenizers/gpt2-digits/tokenizer.json",
        ]),
        ids in prop::collection::vec(0u32..1000, 0..160),
    ) {
        random_stream(path, &ids);
    }
}
