//! `llamac tokenize`.

mod support;

use support::{arguments, fixture, folder, llamac, run};

#[test]
fn text_becomes_ids_and_pieces_and_comes_back() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    let json = llamac("tokenize {stories} Once --json", &paths).quiet();
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let pieces: Vec<&str> =
        value["pieces"].as_array().expect("a list").iter().filter_map(|p| p.as_str()).collect();
    assert_eq!((pieces[0], pieces[1..].concat().as_str()), ("<s>", "▁Once"));
    assert_eq!(value.as_object().expect("an object").keys().collect::<Vec<_>>(), ["ids", "pieces"]);
    let ids: Vec<u64> =
        value["ids"].as_array().expect("a list").iter().filter_map(|id| id.as_u64()).collect();
    assert_eq!(ids.len(), pieces.len());

    let table = llamac("tokenize {stories} Once", &paths).quiet();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected: Vec<[String; 2]> =
        ids.iter().zip(&pieces).map(|(id, p)| [id.to_string(), p.to_string()]).collect();
    assert_eq!(rows, expected);

    let list = ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let back = run(arguments("tokenize {stories} --decode", &paths).arg(&list), "").quiet();
    assert_eq!(back, "<s> Once\n");
    let back = run(arguments("tokenize {stories} --json --decode", &paths).arg(&list), "").quiet();
    let back: serde_json::Value = serde_json::from_str(&back).expect("JSON");
    assert_eq!((back["text"].as_str(), &back["ids"]), (Some("<s> Once"), &value["ids"]));
}

#[test]
fn standard_input_is_a_text() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    let piped = run(&mut arguments("tokenize {stories} -", &paths), "Once upon\n").quiet();
    let given = run(arguments("tokenize {stories}", &paths).arg("Once upon"), "").quiet();
    assert_eq!(piped, given);
    let dash = run(arguments("tokenize {stories}", &paths).arg("-dash"), "").quiet();
    assert!(dash.contains("<0x2D>"), "{dash}");
}

#[test]
fn a_folder_needs_nothing_but_a_tokenizer() {
    let folder = folder();
    let paths = [("folder", folder.path())];
    assert!(llamac("tokenize {folder} Once", &paths).failure(3).contains("E0405"));
    std::fs::copy(fixture("stories/tokenizer.model"), folder.path().join("tokenizer.model")).expect("a copy");
    let by_model = llamac("tokenize {folder} Once", &paths).quiet();
    std::fs::copy(fixture("stories/tokenizer.json"), folder.path().join("tokenizer.json")).expect("a copy");
    assert_eq!(llamac("tokenize {folder} Once", &paths).quiet(), by_model);
    assert!(by_model.contains("▁Once"));
    let llama3 = fixture("vocabularies/llama3");
    let ids = llamac("tokenize {llama3} Once<|eot_id|>", &[("llama3", llama3.as_path())]).quiet();
    assert!(ids.contains("<|begin_of_text|>") && ids.contains("<|eot_id|>"), "{ids}");
    std::fs::remove_file(folder.path().join("tokenizer.json")).expect("removes");
    std::fs::write(folder.path().join("tokenizer.model"), "neither").expect("writes");
    let message = llamac("tokenize {folder} Once", &paths).failure(3);
    assert!(message.contains("E0404") && message.contains("tokenizer.model") && message.contains("neither"));
    std::fs::write(folder.path().join("tokenizer.json"), "{}").expect("writes");
    let message = llamac("tokenize {folder} Once", &paths).failure(3);
    assert!(message.contains("E0404") && message.contains("tokenizer.json"), "{message}");
}

#[test]
fn a_compiled_model_carries_its_tokenizer() {
    let (folder, stories) = (folder(), fixture("stories"));
    let out = folder.path().join("stories.llamac");
    let paths = [("stories", stories.as_path()), ("out", out.as_path())];
    llamac("compile {stories} -o {out}", &paths).success();
    assert_eq!(
        llamac("tokenize {out} Once", &paths).quiet(),
        llamac("tokenize {stories} Once", &paths).quiet()
    );
}

#[test]
fn ids_outside_the_vocabulary_are_named() {
    let stories = fixture("stories");
    let message = llamac("tokenize {stories} --decode 1,99999", &[("stories", stories.as_path())]).failure(3);
    assert!(message.contains("E0400") && message.contains("99999"), "{message}");
}
