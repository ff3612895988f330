//! Every kind of tokenizer file, by way of the compiler, against the libraries that the files belong to
//! (`fixtures/vocabularies`). SentencePiece models as they are: `runtime/tests/vocabularies_golden.rs`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use llamac_compiler::source::TokenizerFiles;
use llamac_runtime::text::{Detokenizer, Tokenizer};
use serde::Deserialize;
use serde::de::DeserializeOwned;

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
    let file = |name: &str| files.iter().find(|(found, _)| *found == name).map(|(_, bytes)| bytes.as_slice());
    assert!(file("tokenizer.json").is_some());
    Tokenizer::from_files(file, str::to_owned).unwrap().unwrap()
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
    let model = fixtures().join(if name == "stories" { "" } else { "vocabularies" }).join(name);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(model.join("tokenizer.model"), folder.path().join("tokenizer.model")).unwrap();
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
