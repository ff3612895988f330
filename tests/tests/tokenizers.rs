//! Every kind of tokenizer file, by way of the compiler, against the libraries that the files belong to
//! (`fixtures/vocabularies`). SentencePiece models as they are: `runtime/tests/vocabularies_golden.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use llamac_compiler::source::TokenizerFiles;
use llamac_runtime::text::{Detokenizer, Tokenizer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn golden<T: DeserializeOwned>(name: &str) -> T {
    let mut json = Vec::new();
    let file = File::open(fixtures().join("vocabularies").join(name)).unwrap();
    GzDecoder::new(file).read_to_end(&mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[derive(Deserialize)]
struct Golden {
    /// Of each text, the ids.
    encode: Vec<Vec<u32>>,
    /// Lists of ids with their text.
    decode: Vec<(Vec<u32>, String)>,
    /// Texts, by number, that have other ids where special tokens in them are such.
    #[serde(default)]
    special: Vec<(usize, Vec<u32>)>,
}

/// The tokenizer.json that a Hugging Face directory gets for a tokenizer.model.
fn converted(folder: &Path) -> Tokenizer {
    let files = TokenizerFiles::read(folder).unwrap();
    let files = files.hugging_face(None, None, &mut Vec::new()).unwrap();
    let json = files.iter().find(|(name, _)| *name == "tokenizer.json");
    // By itself: who reads nothing else reads all.
    let file = |name: &str| json.filter(|(found, _)| *found == name).map(|(_, bytes)| bytes.as_slice());
    Tokenizer::from_files(file, str::to_owned).unwrap().unwrap()
}

/// The tokenizer of a folder as it is.
fn opened(folder: &Path) -> Tokenizer {
    let files = TokenizerFiles::read(folder).unwrap();
    Tokenizer::from_files(|name| files.file(name), str::to_owned).unwrap().unwrap()
}

/// A folder with the `tokenizer.model` of a vocabulary and other files.
fn folder_of(vocabulary: &str, files: &BTreeMap<String, Value>) -> TempDir {
    let model = fixtures().join(if vocabulary == "stories" { "" } else { "vocabularies" }).join(vocabulary);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(model.join("tokenizer.model"), folder.path().join("tokenizer.model")).unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

#[test]
fn llama_3_as_tiktoken() {
    let texts: Vec<String> = golden("texts.json.gz");
    let golden: Golden = golden("llama3/golden.json.gz");
    let tokenizer = converted(&fixtures().join("vocabularies/llama3"));
    for (text, ids) in texts.iter().zip(&golden.encode) {
        let shown: String = text.chars().take(200).collect();
        assert_eq!(&tokenizer.encode_ordinary(text).unwrap(), ids, "{shown:?}");
    }
    assert!(golden.special.len() > 100);
    for (text, ids) in &golden.special {
        assert_eq!(&tokenizer.encode(&texts[*text], false).unwrap(), ids, "{:?}", texts[*text]);
    }
    for (ids, text) in &golden.decode {
        assert_eq!(&tokenizer.decode(ids, false).unwrap(), text, "{ids:?}");
        let mut stream = Detokenizer::new(&tokenizer, false);
        let mut streamed = String::new();
        for &id in ids {
            streamed += stream.push(id).unwrap();
        }
        assert_eq!(&(streamed + stream.flush().unwrap()), text, "{ids:?}, streamed");
    }
    let bos = tokenizer.encode("a", true).unwrap()[0];
    assert_eq!(tokenizer.pieces(&[bos]).unwrap(), ["<|begin_of_text|>"]);
}

/// How many texts a tokenizer.json made of a SentencePiece model encodes otherwise than SentencePiece. Decoding is
/// compared but for bytes: the tokenizers library gives up a run that is not UTF-8, and strips a first space also where
/// it is spelled as a byte.
fn as_sentencepiece(name: &str, texts: &[String]) -> usize {
    let legacy = BTreeMap::from([("tokenizer_config.json".to_owned(), json!({"legacy": true}))]);
    let folder = folder_of(name, &legacy);
    let golden: Golden = golden(&format!("{name}/golden.json.gz"));
    let tokenizer = converted(folder.path());
    let mut differ = 0;
    for (text, ids) in texts.iter().zip(&golden.encode) {
        differ += usize::from(&tokenizer.encode_ordinary(text).unwrap() != ids);
    }
    let same = |(_, text): &&(Vec<u32>, String)| !text.contains(['\u{FFFD}', '\u{2047}']);
    for (ids, text) in golden.decode.iter().filter(same) {
        let spelled = tokenizer.pieces(ids).unwrap().contains(&"<0x20>".to_owned());
        if !spelled {
            assert_eq!(&tokenizer.decode(ids, true).unwrap(), text, "{ids:?}");
        }
    }
    differ
}

#[test]
fn a_tokenizer_json_made_of_sentencepiece_encodes_the_same() {
    let texts: Vec<String> = golden("texts.json.gz");
    assert_eq!(as_sentencepiece("stories", &texts), 0);
    // Right behind a user-defined piece, the name of a special token or of a byte is that token in a tokenizer.json.
    assert_eq!(as_sentencepiece("user-defined", &texts), 8);
}

#[derive(Deserialize)]
struct Folders {
    texts: Vec<String>,
    folders: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// What is beside the `tokenizer.model`.
    files: BTreeMap<String, Value>,
    /// Of each text, the ids.
    encode: Vec<Vec<u32>>,
    /// The text of these, without special tokens.
    decode: Vec<String>,
}

#[test]
fn the_files_beside_a_model_are_read_and_written_as_transformers_has_them() {
    let json = std::fs::read(fixtures().join("vocabularies/folders.json")).unwrap();
    let Folders { texts, folders } = serde_json::from_slice(&json).unwrap();
    assert!(folders.len() > 10 && texts.len() > 15);
    for Case { name, files, encode, decode } in &folders {
        let folder = folder_of("stories", files);
        for (what, tokenizer) in
            [("as it is", opened(folder.path())), ("converted", converted(folder.path()))]
        {
            for ((text, ids), decoded) in texts.iter().zip(encode).zip(decode) {
                assert_eq!(&tokenizer.encode(text, true).unwrap(), ids, "{name}, {what}: {text:?}");
                assert_eq!(&tokenizer.decode(ids, true).unwrap(), decoded, "{name}, {what}: {text:?}");
            }
        }
    }
}

/// How many of `texts`, with and without special tokens in them, a conversion encodes otherwise than its source, with
/// files beside it that say all there is to say of spaces and tokens.
fn differ(vocabulary: &str, texts: &[String]) -> usize {
    let size = opened(folder_of(vocabulary, &BTreeMap::new()).path()).vocab_size();
    let token =
        |content: &str, special: bool| json!({"content": content, "special": special, "lstrip": !special});
    let decoder =
        json!({(size.to_string()): token("[PAD]", true), ((size + 1).to_string()): token("kite", false)});
    let mut count = 0;
    for config in [
        json!({}),
        json!({"legacy": true, "add_eos_token": true}),
        json!({"add_prefix_space": false, "bos_token": "[PAD]", "added_tokens_decoder": decoder}),
        json!({"legacy": false, "additional_special_tokens": ["the"], "added_tokens_decoder": decoder}),
        json!({"legacy": true, "added_tokens_decoder": decoder}),
    ] {
        let files = BTreeMap::from([("tokenizer_config.json".to_owned(), config)]);
        let folder = folder_of(vocabulary, &files);
        let (source, conversion) = (opened(folder.path()), converted(folder.path()));
        for (text, other) in texts.iter().zip(texts.iter().skip(1)) {
            for text in [text, &format!("{text}</s>{other}"), &format!("<s>{text} [PAD]{other}")] {
                let (expected, found) =
                    (source.encode(text, true).unwrap(), conversion.encode(text, true).unwrap());
                count += usize::from(expected != found);
            }
        }
    }
    count
}

#[test]
fn a_conversion_encodes_as_its_source() {
    let texts: Vec<String> = golden("texts.json.gz");
    let mut texts: Vec<String> = texts.into_iter().filter(|text| text.len() < 1000).step_by(5).collect();
    assert_eq!(differ("stories", &texts), 0);
    // The name of a byte, where it is all that is between two tokens, is that byte in the tokenizer.json of this one.
    texts.retain(|text| !text.contains("<0x"));
    assert!(texts.len() > 800);
    assert_eq!(differ("user-defined", &texts), 0);
}
