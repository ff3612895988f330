//! `llamac embed`, compared with the hidden states that transformers recorded.

mod support;

use serde::Deserialize;
use serde_json::Value;
use support::{arguments, fixture, folder, llamac, run};

#[derive(Deserialize)]
struct Golden {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    text: String,
    mean: Vec<f32>,
    last: Vec<f32>,
    mean_normalized: Vec<f32>,
    /// Of the first text.
    tokens: Option<Vec<Vec<f32>>>,
}

fn golden() -> Vec<Entry> {
    let bytes = std::fs::read(fixture("embeddings/golden.json")).expect("goldens");
    let golden: Golden = serde_json::from_slice(&bytes).expect("JSON");
    assert!(golden.entries.len() > 2);
    golden.entries
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-4 + 1e-4 * expected.abs(), "{found}, not {expected}");
    }
}

fn numbers(line: &str) -> Vec<f32> {
    line.split(' ').map(|number| number.parse().expect("a number")).collect()
}

#[test]
fn embeddings_are_those_of_transformers() {
    let (folder, stories) = (folder(), fixture("stories"));
    let compiled = folder.path().join("stories.llamac");
    let paths = [("stories", &*stories), ("compiled", &*compiled)];
    llamac("compile {stories} -o {compiled} --head base", &paths).success();
    let golden = golden();
    let texts: Vec<&str> = golden.iter().map(|entry| entry.text.as_str()).collect();
    type Expected = fn(&Entry) -> &[f32];
    let cases: [(&str, Expected); 3] = [
        ("", |entry| &entry.mean),
        ("--pooling last", |entry| &entry.last),
        ("--pooling mean --normalize", |entry| &entry.mean_normalized),
    ];
    for (options, expected) in cases {
        let line = format!("embed {{stories}} --compute f32 {options}");
        let found = run(arguments(&line, &paths).args(&texts), "").quiet();
        assert_eq!(found.lines().count(), texts.len());
        for (line, entry) in found.lines().zip(&golden) {
            assert_close(&numbers(line), expected(entry));
        }
        // The same bits from a model without the head, from standard input, and as JSON.
        let line = format!("embed {{compiled}} --compute f32 --threads 1 {options} -");
        let piped = run(&mut arguments(&line, &paths), &texts.join("\n")).quiet();
        assert_eq!(piped, found);
        let line = format!("embed {{stories}} --compute f32 --json {options}");
        let json = run(arguments(&line, &paths).args(&texts), "").quiet();
        for ((json, plain), text) in json.lines().zip(found.lines()).zip(&texts) {
            let value: Value = serde_json::from_str(json).expect("JSON");
            assert_eq!(value["text"], **text);
            let embedding: Vec<f32> = serde_json::from_value(value["embedding"].clone()).expect("numbers");
            assert_eq!(embedding, numbers(plain));
        }
    }
}

#[test]
fn without_pooling_every_token_has_a_vector() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    let golden = golden();
    let tokens = golden[0].tokens.as_ref().expect("tokens of the first text");
    let texts = [&golden[0].text, &golden[1].text];
    let found =
        run(arguments("embed {stories} --compute f32 --pooling none", &paths).args(texts), "").quiet();
    let (first, second) = found.split_once("\n\n").expect("an empty line between texts");
    assert_eq!(first.lines().count(), tokens.len());
    for (line, expected) in first.lines().zip(tokens) {
        assert_close(&numbers(line), expected);
    }
    assert_close(&numbers(second.lines().last().expect("a line")), &golden[1].last);
    let json =
        run(arguments("embed {stories} --compute f32 --pooling none --json", &paths).arg(texts[0]), "")
            .quiet();
    let value: Value = serde_json::from_str(&json).expect("JSON");
    let rows: Vec<Vec<f32>> = serde_json::from_value(value["embedding"].clone()).expect("rows of numbers");
    assert_eq!(rows, first.lines().map(numbers).collect::<Vec<_>>());
}

#[test]
fn many_texts_and_none() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    // More tokens than one batch takes.
    let texts = "Mia had a red kite.\n".repeat(400);
    let found = run(&mut arguments("embed {stories} -", &paths), &texts).quiet();
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.len(), 400);
    assert!(lines.iter().all(|line| *line == lines[0]));
    assert_eq!(run(&mut arguments("embed {stories} -", &paths), "").quiet(), "");
    let long = "a ".repeat(600);
    let message = run(arguments("embed {stories} short", &paths).arg(&long), "").failure(5);
    assert!(message.contains("--> text 2\n") && message.contains("E0401"), "{message}");
}

#[test]
fn any_head_has_hidden_states() {
    let classifier = fixture("stories-classifier");
    let found = llamac("embed {model} Once", &[("model", classifier.as_path())]).quiet();
    assert_eq!(numbers(found.trim_end()).len(), 128);
}
