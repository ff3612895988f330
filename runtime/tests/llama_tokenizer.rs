//! What transformers' `LlamaTokenizer` and `LlamaTokenizerFast` do around encoding, with the story model's
//! `tokenizer.model` (bos 1, eos 2) and `tokenizer.json`.

use std::path::{Path, PathBuf};

use llamac_runtime::diagnostic::Code;
use llamac_runtime::text::{Detokenizer, Tokenizer};

const CONFIG: &str = "tokenizer_config.json";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

/// The story model's SentencePiece model with a `tokenizer_config.json`.
fn model(config: &str) -> Tokenizer {
    let bytes = std::fs::read(fixture("stories/tokenizer.model")).expect("a model");
    let tokenizer = Tokenizer::from_sentencepiece(&bytes, "tokenizer.model").expect("a model");
    tokenizer.with_config(config.as_bytes(), CONFIG).expect("a config")
}

fn json() -> Tokenizer {
    let bytes = std::fs::read(fixture("stories/tokenizer.json")).expect("a tokenizer");
    Tokenizer::from_bytes(&bytes, "tokenizer.json").expect("a tokenizer")
}

/// The pieces of a text, joined by blanks.
fn pieces(tokenizer: &Tokenizer, text: &str) -> String {
    tokenizer.pieces(&tokenizer.encode(text, false).expect("encodes")).expect("known").join(" ")
}

#[test]
fn legacy_puts_a_space_before_each_part_of_a_text() {
    let (legacy, newer, none) =
        (model(r#"{"legacy": true}"#), model("{}"), model(r#"{"add_prefix_space": false}"#));
    for (text, expected) in [
        ("Once", ["▁Once", "▁Once", "O nce"]),
        ("Once</s>Once", ["▁Once </s> ▁Once", "▁Once </s> O nce", "O nce </s> O nce"]),
        ("<s>Once", ["<s> ▁Once", "<s> O nce", "<s> O nce"]),
        ("Once <s>.", ["▁Once ▁ <s> ▁ .", "▁Once ▁ <s> .", "O nce ▁ <s> ."]),
        ("", ["", "", ""]),
    ] {
        let found = [&legacy, &newer, &none].map(|tokenizer| pieces(tokenizer, text));
        assert_eq!(found, expected, "{text:?}");
    }
    // A space of the text comes after that of the tokenizer, as SentencePiece has it.
    for text in [" Once", "  Once", " "] {
        let ordinary = newer.encode_ordinary(text).expect("encodes");
        assert_eq!(newer.encode(text, false).expect("encodes"), ordinary, "{text:?}");
        assert_eq!(pieces(&legacy, text), pieces(&json(), text), "{text:?}");
    }
    // The names of special tokens are text where all is text.
    assert!(!newer.encode_ordinary("<s>").expect("encodes").contains(&1));
}

#[test]
fn the_space_before_a_first_word_is_dropped_and_no_other() {
    let tokenizer = model("{}");
    let ids = tokenizer.encode("Once upon a Banana", true).expect("encodes");
    assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), "Once upon a Banana");
    assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), "<s> Once upon a Banana");
    // A part of a text loses its space, a stream does not.
    let upon = ids.len() - tokenizer.encode(" upon a Banana", false).expect("encodes").len();
    assert_eq!(tokenizer.decode(&ids[upon + 1..], true).expect("decodes").chars().next(), Some('u'));
    let mut stream = Detokenizer::after(&tokenizer, true, &ids[..upon + 1]).expect("decodes");
    let text: String =
        ids[upon + 1..].iter().map(|&id| stream.push(id).expect("decodes").to_owned()).collect();
    assert_eq!(text + stream.flush().expect("decodes"), " upon a Banana");
    // Without a space before texts there is none to drop.
    let none = model(r#"{"add_prefix_space": false}"#);
    assert_eq!(none.decode(&ids[1..], true).expect("decodes"), " Once upon a Banana");
}

#[test]
fn special_tokens_are_built_around_sequences_and_told_from_them() {
    for mut tokenizer in
        [model("{}"), json().with_config(br#"{"bos_token": "<s>", "eos_token": "</s>"}"#, CONFIG).unwrap()]
    {
        let (a, b) = ([7, 8], [9]);
        let build = |t: &Tokenizer, b| t.build_inputs_with_special_tokens(&a, b).expect("builds");
        let mask = |t: &Tokenizer, b| t.get_special_tokens_mask(&a, b).expect("a mask");
        let kinds = |t: &Tokenizer, b| t.create_token_type_ids_from_sequences(&a, b).expect("kinds");
        assert_eq!(build(&tokenizer, None), [1, 7, 8]);
        assert_eq!(build(&tokenizer, Some(&b)), [1, 7, 8, 1, 9]);
        assert_eq!(mask(&tokenizer, Some(&b)), [1, 0, 0, 1, 0]);
        assert_eq!(kinds(&tokenizer, Some(&b)), [0, 0, 0, 1, 1]);
        assert_eq!(kinds(&tokenizer, None), [0, 0, 0]);
        tokenizer.update_post_processor(true, true).expect("there are both");
        assert_eq!(build(&tokenizer, None), [1, 7, 8, 2]);
        assert_eq!(build(&tokenizer, Some(&b)), [1, 7, 8, 2, 1, 9, 2]);
        assert_eq!(mask(&tokenizer, Some(&b)), [1, 0, 0, 1, 1, 0, 1]);
        assert_eq!(kinds(&tokenizer, Some(&b)), [0, 0, 0, 0, 1, 1, 1]);
        let once = tokenizer.encode("Once", true).expect("encodes");
        assert_eq!((once.first(), once.last()), (Some(&1), Some(&2)));
        tokenizer.update_post_processor(false, false).expect("none is needed");
        assert_eq!(build(&tokenizer, Some(&b)), [7, 8, 9]);
        assert_eq!(mask(&tokenizer, None), [0, 0]);
        assert_eq!(tokenizer.special_tokens_mask_of(&[1, 7, 2, 9_999]), [1, 0, 1, 0]);
        assert_eq!((tokenizer.bos_token(), tokenizer.eos_token()), (Some("<s>"), Some("</s>")));
    }
    let mut unnamed = json();
    let fault = unnamed.update_post_processor(false, true).expect_err("nobody named an eos token");
    assert_eq!((fault.code, fault.at.as_deref()), (Code::BadTokenizer, Some("tokenizer.json: eos_token")));
}

#[test]
fn flags_of_the_config_are_for_models_that_say_nothing_of_it() {
    let ids = |config: &str| model(config).encode("Once", true).expect("encodes");
    let once = model("{}").encode("Once", false).expect("encodes");
    assert_eq!(ids("{}"), [&[1], &once[..]].concat());
    assert_eq!(ids(r#"{"add_bos_token": false, "add_eos_token": true}"#), [&once[..], &[2]].concat());
    assert_eq!(ids(r#"{"bos_token": {"content": "</s>"}}"#), [&[2], &once[..]].concat());
    let config = br#"{"add_bos_token": false, "add_eos_token": true, "eos_token": "</s>"}"#;
    let literal = json().with_config(config, CONFIG).expect("a config");
    assert_eq!(literal.encode("Once", true).expect("encodes"), [&[1], &once[..]].concat());
}

#[test]
fn tokens_may_follow_on_the_vocabulary() {
    let config = |id: u32| {
        format!(r#"{{"added_tokens_decoder": {{"{id}": {{"content": "[PAD]", "special": true}}}}}}"#)
    };
    let tokenizer = model(&config(1024));
    assert_eq!((tokenizer.token_to_id("[PAD]"), tokenizer.vocab_size()), (Some(1024), 1025));
    assert_eq!(pieces(&tokenizer, "Once[PAD]"), "▁Once [PAD]");
    assert_eq!(tokenizer.decode(&[1024], true).expect("decodes"), "");
    let faults = model("{}").with_config(config(1030).as_bytes(), CONFIG).expect_err("a gap");
    let fault = faults.iter().next().expect("one");
    assert_eq!(fault.at.as_deref(), Some("tokenizer_config.json: added_tokens_decoder: \"[PAD]\""));
    assert_eq!(fault.found.as_deref(), Some("id 1030"));
}

#[test]
fn the_vocabulary_is_saved_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    for (tokenizer, prefix, name) in
        [(model("{}"), None, "tokenizer.model"), (json(), Some("x"), "x-tokenizer.json")]
    {
        let path = tokenizer.save_vocabulary(folder.path(), prefix).expect("writes");
        assert_eq!(path, folder.path().join(name));
        let source = fixture("stories").join(name.trim_start_matches("x-"));
        assert_eq!(std::fs::read(path).expect("reads"), std::fs::read(source).expect("reads"));
    }
    let fault = json().save_vocabulary(&folder.path().join("none"), None).expect_err("no such folder");
    assert_eq!(fault.code, Code::Io);
}
