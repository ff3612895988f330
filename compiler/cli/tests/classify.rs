//! `llamac classify`, compared with the logits that transformers recorded.

mod support;

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use serde_json::Value;
use support::{arguments, copy, fixture, folder, llamac, redact, run};

/// The texts of a case of the story classifier, and the recorded logits of each.
fn golden(case: &str) -> (Vec<String>, Vec<Vec<f64>>) {
    let folder = fixture("stories-classifier");
    let index = std::fs::read(folder.join("golden.json")).expect("goldens");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let texts: Vec<String> = serde_json::from_value(index["texts"][case].clone()).expect("texts");
    let bytes = std::fs::read(folder.join("golden.safetensors")).expect("goldens");
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let view = tensors.tensor(&format!("{case}/logits")).expect("logits");
    let floats: Vec<f64> =
        view.data().as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect();
    (texts, floats.chunks(3).map(<[f64]>::to_vec).collect())
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    logits.iter().map(|x| x.exp() / sum).collect()
}

/// The scores of a line of `--json` by label, and the labels in their order.
fn scores(line: &str) -> (String, Vec<String>, BTreeMap<String, f64>) {
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line.as_object().expect("an object").keys().collect::<Vec<_>>(), ["scores", "text"]);
    let scores = line["scores"].as_array().expect("a list");
    let pairs = scores.iter().map(|score| {
        let label = score["label"].as_str().expect("a label");
        (label.to_owned(), score["score"].as_f64().expect("a number"))
    });
    let pairs: Vec<_> = pairs.collect();
    assert!(pairs.windows(2).all(|pair| pair[0].1 >= pair[1].1), "not the best first: {pairs:?}");
    let labels = pairs.iter().map(|(label, _)| label.clone()).collect();
    (line["text"].as_str().expect("a text").to_owned(), labels, pairs.into_iter().collect())
}

#[test]
fn scores_are_those_of_transformers() {
    let model = fixture("stories-classifier");
    let paths = [("model", model.as_path())];
    let (texts, logits) = golden("batch-right");
    assert!(texts.len() > 4);
    let found = run(arguments("classify {model} --json --compute f32", &paths).args(&texts), "").quiet();
    assert_eq!(found.lines().count(), texts.len());
    for ((line, text), logits) in found.lines().zip(&texts).zip(&logits) {
        let (found_text, labels, scores) = scores(line);
        assert_eq!((&found_text, labels.len()), (text, 3));
        for (label, expected) in ["sad", "calm", "happy"].iter().zip(softmax(logits)) {
            assert!(
                (scores[*label] - expected).abs() < 1e-5,
                "{text}: {label} {} not {expected}",
                scores[*label]
            );
        }
    }
    // The same bits for a text alone, in a batch, and from standard input.
    let alone: String = texts
        .iter()
        .map(|text| {
            run(arguments("classify {model} --json --compute f32 --threads 1", &paths).arg(text), "").quiet()
        })
        .collect();
    assert_eq!(alone, found);
    let piped =
        run(&mut arguments("classify {model} --json --compute f32 -", &paths), &(texts.join("\n") + "\n"))
            .quiet();
    assert_eq!(piped, found);
}

#[test]
fn people_get_a_table() {
    let model = fixture("stories-classifier");
    let paths = [("model", model.as_path())];
    let (texts, logits) = golden("single-00");
    let expected = softmax(&logits[0]);
    let found = run(arguments("classify {model} --compute f32", &paths).args(&texts), "").quiet();
    let rows: Vec<Vec<&str>> = found.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 3, "{found}");
    for row in &rows {
        let label = ["sad", "calm", "happy"].iter().position(|label| *label == row[0]).expect("a label");
        let score: f64 = row[1].parse().expect("a number");
        assert!((score - expected[label]).abs() < 1e-4, "{found}");
    }
    let two = run(arguments("classify {model} --compute f32", &paths).args([&texts[0], "Mia was sad."]), "")
        .quiet();
    let lines: Vec<&str> = two.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[4], lines[5]), (9, texts[0].as_str(), "", "Mia was sad."));
    assert!(lines[1].starts_with("  ") && lines[8].starts_with("  "), "{two}");
}

#[test]
fn the_problem_type_decides_what_scores_are() {
    let (texts, logits) = golden("single-01");
    let with = |problem_type: &str| {
        let folder = folder();
        copy("stories-classifier", folder.path());
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
        config["problem_type"] = problem_type.into();
        std::fs::write(&path, config.to_string()).expect("writes");
        let paths = [("model", folder.path())];
        let line = run(arguments("classify {model} --json --compute f32", &paths).args(&texts), "").quiet();
        let (_, _, scores) = scores(&line);
        ["sad", "calm", "happy"].map(|label| scores[label])
    };
    for (found, logit) in with("multi_label_classification").iter().zip(&logits[0]) {
        assert!((found - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-5);
    }
    for (found, logit) in with("regression").iter().zip(&logits[0]) {
        assert!((found - logit).abs() <= 1e-4 + 1e-4 * logit.abs());
    }
}

#[test]
fn what_cannot_be_classified_is_told() {
    let [stories, classifier, tiny] = ["stories", "stories-classifier", "tiny/seqcls-pad"].map(fixture);
    let paths = [("stories", &*stories), ("classifier", &*classifier), ("tiny", &*tiny)];
    let message = llamac("classify {stories} x", &paths).failure(3);
    insta::assert_snapshot!(redact(&message, &[]), @"
    error[E0403]: the model has another head
      --> fixtures/stories
       expected a classifier of texts (head `sequence-classification`)
       found    head `causal-lm`
       help: `llamac eval` computes what this head gives
    ");
    assert!(llamac("classify {tiny} x", &paths).failure(3).contains("E0405"));
    let long = "a ".repeat(600);
    let message = run(arguments("classify {classifier} short", &paths).args([&long, &long]), "").failure(5);
    assert!(message.contains("--> text 2\n") && message.contains("--> text 3\n"), "{message}");
    assert!(message.contains("at most 512 tokens"), "{message}");
    assert!(message.contains("help: shorten the text"), "{message}");
}
