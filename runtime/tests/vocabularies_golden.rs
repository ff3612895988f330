//! SentencePiece models against SentencePiece itself: 5,000 texts and as many lists of ids for each
//! (`fixtures/vocabularies`).

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use llamac_runtime::text::{Detokenizer, Tokenizer};
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn golden<T: DeserializeOwned>(name: &str) -> T {
    let file = std::fs::File::open(fixtures().join("vocabularies").join(name)).expect("a golden file");
    let mut json = Vec::new();
    GzDecoder::new(file).read_to_end(&mut json).expect("a compressed file");
    serde_json::from_slice(&json).expect("a golden file of this shape")
}

#[derive(Deserialize)]
struct Golden {
    /// Of each text, the ids.
    encode: Vec<Vec<u32>>,
    /// Lists of ids with their text.
    decode: Vec<(Vec<u32>, String)>,
}

fn model(name: &str) -> Vec<u8> {
    let folder = if name == "stories" { name.to_owned() } else { format!("vocabularies/{name}") };
    std::fs::read(fixtures().join(folder).join("tokenizer.model")).expect("a model")
}

fn as_sentencepiece(name: &str) {
    let texts: Vec<String> = golden("texts.json.gz");
    let golden: Golden = golden(&format!("{name}/golden.json.gz"));
    assert_eq!((texts.len(), golden.encode.len(), golden.decode.len()), (5000, 5000, 5000));
    let tokenizer = Tokenizer::from_sentencepiece(&model(name), "tokenizer.model").expect("a model");
    for (text, ids) in texts.iter().zip(&golden.encode) {
        let found = tokenizer.encode_ordinary(text).expect("encodes");
        let shown: String = text.chars().take(200).collect();
        assert_eq!(&found, ids, "{shown:?}");
    }
    for (ids, text) in &golden.decode {
        assert_eq!(&tokenizer.decode(ids, true).expect("decodes"), text, "{ids:?}");
        let mut stream = Detokenizer::new(&tokenizer, true);
        let mut streamed = String::new();
        for &id in ids {
            streamed += stream.push(id).expect("decodes");
        }
        assert_eq!(&(streamed + stream.flush().expect("decodes")), text, "{ids:?}, streamed");
        for prompt in [ids.len() / 3, ids.len() / 2, ids.len().saturating_sub(1)] {
            continued(&tokenizer, ids, prompt, text);
        }
    }
}

/// A stream after the first `prompt` of `ids` goes on where their text ends; a character that they begin is replaced.
fn continued(tokenizer: &Tokenizer, ids: &[u32], prompt: usize, text: &str) {
    let (before, behind) = ids.split_at(prompt);
    let mut stream = Detokenizer::after(tokenizer, true, before).expect("decodes");
    let mut new = String::new();
    for &id in behind {
        new += stream.push(id).expect("decodes");
    }
    new += stream.flush().expect("decodes");
    let shown = tokenizer.decode(before, true).expect("decodes");
    let kept = text.strip_suffix(&new).expect("the end of the text");
    if text.starts_with(&shown) {
        assert_eq!(kept, shown, "{before:?} then {behind:?}");
    } else {
        let replaced = shown.strip_prefix(kept).expect("the start of what was shown");
        assert!(replaced.chars().all(|c| c == '\u{FFFD}'), "{before:?} then {behind:?}");
    }
}

#[test]
fn as_llama_2_has_it() {
    as_sentencepiece("stories");
}

#[test]
fn user_defined_pieces_are_never_cut() {
    as_sentencepiece("user-defined");
}

#[test]
fn equal_scores_and_unused_pieces() {
    as_sentencepiece("ties");
}

#[test]
fn characters_are_replaced_and_spaces_dropped() {
    as_sentencepiece("words");
}

#[test]
fn spaces_may_stand_behind_words() {
    as_sentencepiece("suffix");
}
