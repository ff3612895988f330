//! `llamac perplexity` as a user meets it.

mod support;

use serde_json::Value;
use support::{Done, fixture, folder, llamac};

fn perplexity(line: &str) -> Done {
    llamac(line, &[("stories", &fixture("stories")), ("tiny", &fixture("tiny/gqa-f32"))])
}

fn json(line: &str) -> Value {
    let done = perplexity(line);
    assert_eq!(done.status, Some(0), "{}", done.stderr);
    serde_json::from_str(&done.stdout).expect("it is JSON")
}

#[test]
fn windows_and_lines_are_those_of_transformers() {
    let recorded = std::fs::read(fixture("stories/perplexity.json")).expect("the fixture records it");
    let recorded: Value = serde_json::from_slice(&recorded).expect("it is JSON");
    for (option, recorded) in [("", &recorded["windows"]), ("--lines", &recorded["lines"])] {
        let found =
            json(&format!("perplexity {{stories}} {{stories}}/heldout.txt --compute f32 --json {option}"));
        for count in ["scored_tokens", "sequences"] {
            assert_eq!(found[count], recorded[count]);
        }
        let [found, expected] = [&found, recorded].map(|v| v["perplexity"].as_f64().expect("a number"));
        assert!((found / expected - 1.0).abs() < 1e-5, "{found} instead of {expected}");
    }
}

#[test]
fn a_model_is_compared_with_another() {
    let folder = folder();
    let text = folder.path().join("text");
    std::fs::write(&text, "Mia had a red kite. She took her red kite to the beach.").expect("writes");
    let line = format!("perplexity {{stories}} {} --against {{stories}}", text.display());
    let found = json(&format!("{line} --json"));
    assert_eq!(found["against"]["perplexity_ratio"], 1.0);
    assert_eq!(found["against"]["top1_agreement"], 1.0);
    let shown = perplexity(&line).stdout;
    assert!(shown.starts_with("perplexity "), "{shown}");
    assert!(shown.contains("same top token          100.00 %\n"), "{shown}");
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let folder = folder();
    let text = folder.path().join("text");
    let file = text.display();
    for (content, line, code) in [
        (&b"\xff"[..], format!("perplexity {{stories}} {file}"), "E0001"),
        (b"", format!("perplexity {{stories}} {file}"), "E0001"),
        (b"x", format!("perplexity {{stories}} {file}.txt"), "E0200"),
        (b"x", format!("perplexity {{tiny}} {file}"), "E0405"),
        (b"Mia", format!("perplexity {{stories}} {file} --against {{tiny}}"), "E0001"),
        (b"Mia had a kite.", format!("perplexity {{stories}} {file} --context 1"), "invalid value"),
    ] {
        std::fs::write(&text, content).expect("writes");
        let done = perplexity(&line);
        assert_ne!(done.status, Some(0), "{line}");
        assert!(done.stderr.contains(code), "{line}: {}", done.stderr);
        assert!(done.stdout.is_empty());
    }
}
