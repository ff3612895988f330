use std::fs;

use llamac_plan::sentencepiece::{Piece, PieceKind};
use serde_json::{Value, json};

use super::super::Checkpoint;
use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

fn read(name: &str) -> TokenizerFiles {
    TokenizerFiles::read(&fixture(name)).unwrap()
}

fn file(files: &[(&str, Vec<u8>)], name: &str) -> Value {
    let (_, bytes) = files.iter().find(|(found, _)| *found == name).unwrap();
    serde_json::from_slice(bytes).unwrap()
}

/// The files of a folder with a `tokenizer.model` and, if given, its config.
fn written(model: &[u8], config: Option<&str>) -> Result<TokenizerFiles, Diagnostics> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(MODEL), model).unwrap();
    if let Some(config) = config {
        fs::write(folder.path().join(CONFIG), config).unwrap();
    }
    TokenizerFiles::read(folder.path())
}

#[test]
fn the_tokenizer_json_wins() {
    let stories = read("stories");
    assert!(stories.tokenizer.is_some() && stories.sentencepiece.is_none() && stories.pieces.is_none());
    let files = stories.hugging_face(None, None, &mut Vec::new()).unwrap();
    assert_eq!(files.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [JSON, CONFIG, SPECIAL]);
    assert_eq!(
        (files[0].1.as_slice(), files[1].1.as_slice()),
        (stories.tokenizer.as_deref().unwrap(), stories.config.as_deref().unwrap())
    );
    assert!(TokenizerFiles::default().hugging_face(None, None, &mut Vec::new()).unwrap().is_empty());
}

#[test]
fn a_sentencepiece_model_as_the_library_of_the_fixture_has_it() {
    let model = fs::read(fixture("stories").join(MODEL)).unwrap();
    let files = written(&model, Some(r#"{"legacy": true}"#)).unwrap();
    assert_eq!(
        (files.pieces, files.sentencepiece.as_ref(), files.tokenizer.is_none()),
        (Some(1024), Some(&model), true)
    );
    let mut warnings = Vec::new();
    let written = files.hugging_face(None, Some(512), &mut warnings).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let expected: Value = serde_json::from_slice(read("stories").tokenizer.as_deref().unwrap()).unwrap();
    let mut found = file(&written, JSON);
    // The merges of a piece have another order; those of different pieces have the same.
    let sorted = |value: &Value| {
        let mut merges: Vec<String> =
            value["model"]["merges"].as_array().unwrap().iter().map(Value::to_string).collect();
        merges.sort();
        merges
    };
    assert_eq!(sorted(&found), sorted(&expected));
    found["model"]["merges"] = expected["model"]["merges"].clone();
    assert_eq!(found, expected);
    assert_eq!(written[1], (MODEL, model));
}

#[test]
fn a_model_that_came_alone_gets_what_it_is_taken_for() {
    let model = fs::read(fixture("stories").join(MODEL)).unwrap();
    let alone = written(&model, None).unwrap();
    let files = alone.hugging_face(None, Some(512), &mut Vec::new()).unwrap();
    let config = file(&files, CONFIG);
    assert_eq!((&config["bos_token"], &config["model_max_length"]), (&json!("<s>"), &json!(512)));
    assert_eq!(file(&files, SPECIAL), json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}));
    // Read again, the config says what its absence did.
    let again = TokenizerFiles { config: Some(files[2].1.clone()), ..alone };
    let settings = |files: &TokenizerFiles| TokenizerSettings::read(|name| files.file(name), str::to_owned);
    assert_eq!(settings(&again).unwrap().spaces, TokenizerSettings::default().spaces);
    let rewritten = again.hugging_face(None, Some(512), &mut Vec::new()).unwrap();
    assert_eq!(file(&rewritten, JSON), file(&files, JSON));
}

#[test]
fn a_size_of_the_first_models_has_its_tokenizer_beside_it() {
    let place = tempfile::tempdir().unwrap();
    let size = place.path().join("7B");
    fs::create_dir(&size).unwrap();
    let piece = |text: &str, kind| Piece { text: text.to_owned(), score: 0.0, kind };
    let model = SentencePieceModel::parse(&fs::read(fixture("stories").join(MODEL)).unwrap(), MODEL).unwrap();
    let pieces = vec![piece("<unk>", PieceKind::Unknown), piece("a", PieceKind::Normal)];
    let model = SentencePieceModel { pieces, bos: None, eos: None, byte_fallback: false, ..model };
    fs::write(place.path().join(MODEL), model.to_bytes()).unwrap();
    for name in ["consolidated.00.pth", PARAMS] {
        // No size, without the file of sizes.
        assert_eq!(TokenizerFiles::folder(&size), size);
        fs::copy(fixture("meta/llama1-f16-mp1").join(name), size.join(name)).unwrap();
    }
    let checkpoint = Checkpoint::open(&size, None).unwrap();
    assert_eq!(checkpoint.tokenizer.sentencepiece, Some(model.to_bytes()));
    assert!(checkpoint.tokenizer_path.join(MODEL).exists());
    // That of another model.
    fs::write(place.path().join(PARAMS), "{}").unwrap();
    assert_eq!(TokenizerFiles::folder(&size), size);
    fs::remove_file(place.path().join(PARAMS)).unwrap();
    fs::write(size.join(JSON), "{}").unwrap();
    assert_eq!(TokenizerFiles::folder(&size), size);
}

#[test]
fn flags_decide_what_is_put_around_a_text() {
    let model = fs::read(fixture("stories").join(MODEL)).unwrap();
    let single = |config: &str| {
        let files = written(&model, Some(config)).unwrap().hugging_face(None, None, &mut Vec::new()).unwrap();
        let single = file(&files, JSON)["post_processor"]["single"].clone();
        single
            .as_array()
            .unwrap()
            .iter()
            .map(|part| part.pointer("/SpecialToken/id").cloned().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    assert_eq!(single("{}"), [json!("<s>"), Value::Null]);
    assert_eq!(single(r#"{"add_bos_token": false, "add_eos_token": true}"#), [Value::Null, json!("</s>")]);
    assert_eq!(single(r#"{"bos_token": {"content": "</s>"}}"#), [json!("</s>"), Value::Null]);
}

#[test]
fn what_a_tokenizer_json_cannot_say_is_told() {
    let convert = |name: &str| {
        let mut warnings = Vec::new();
        let files = read(&format!("vocabularies/{name}")).hugging_face(None, None, &mut warnings);
        (files, warnings.join("\n"))
    };
    let (files, warnings) = convert("ties");
    assert!(
        files.is_ok() && warnings.contains("equal scores") && warnings.contains("steps of merging"),
        "{warnings}"
    );
    let (files, warnings) = convert("user-defined");
    let json = file(&files.unwrap(), JSON);
    assert_eq!(json["pre_tokenizer"]["pretokenizers"][2]["pattern"]["Regex"], "▁▁▁▁|foobar|日本|<sep>|foo");
    assert_eq!((&json["model"]["ignore_merges"], warnings.as_str()), (&json!(true), ""));
    assert!(convert("suffix").0.unwrap_err().to_string().contains("spaces stand behind words"));
}

#[test]
fn llama_3_becomes_a_tokenizer_json() {
    let files = read("vocabularies/llama3");
    assert_eq!((files.pieces, files.sentencepiece.is_none()), (Some(1157), true));
    let written = files.hugging_face(Some("<|eot_id|>"), Some(8192), &mut Vec::new()).unwrap();
    let json = file(&written, JSON);
    assert_eq!(json["added_tokens"].as_array().unwrap().len(), 256);
    assert_eq!(json["added_tokens"][9]["id"], 910);
    assert_eq!(json["model"]["vocab"]["Ġelephant"], 900);
    let config = file(&written, CONFIG);
    assert_eq!((&config["eos_token"], &config["model_max_length"]), (&json!("<|eot_id|>"), &json!(8192)));
}

#[test]
fn what_is_neither_is_refused_and_what_is_too_large_for_the_model() {
    for (bytes, found) in [(&b""[..], "an empty file"), (b"\x08\x01", "\\u{8}"), (b"<!DOCTYPE", "web page")] {
        let faults = written(bytes, None).unwrap_err().to_string();
        assert!(faults.contains(found) && faults.contains(MODEL), "{faults}");
    }
    let files = read("vocabularies/llama3");
    let mut warnings = Vec::new();
    assert!(files.check_vocabulary(1157, &mut warnings).is_ok() && warnings.is_empty());
    assert!(files.check_vocabulary(1158, &mut warnings).is_ok() && warnings[0].contains("1158: is it cut?"));
    let fault = files.check_vocabulary(1156, &mut warnings).unwrap_err().to_string();
    assert!(fault.contains("at most 1156 ids (vocab_size)") && fault.contains("found    1157"), "{fault}");
}
