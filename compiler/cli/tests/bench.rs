//! `llamac bench` as a user and a program meet it. How fast anything is, is not tested.

mod support;

use insta::assert_snapshot;
use serde_json::{Value, json};
use support::{fixture, folder, llamac, redact};

#[test]
fn every_run_is_reported_with_its_fraction_of_the_limits() {
    let line = "bench {tiny} -p 7 -n 3 -d 0,5 -b 1,4 -r 2 --threads 2 --json";
    let found: Value = serde_json::from_str(&llamac(line, &[("tiny", &fixture("tiny/gqa-f32"))]).success())
        .expect("it is JSON");
    assert_eq!(
        (&found["head"], &found["weights"], &found["threads"]),
        (&"causal-lm".into(), &"f32".into(), &2.into())
    );
    let results = found["results"].as_array().expect("results");
    let run = |v: &Value| {
        let number = |key: &str| v[key].as_u64().unwrap_or_else(|| panic!("{key} in {v}"));
        (v["test"].as_str().expect("a name").to_owned(), number("n"), number("depth"), number("batch"))
    };
    let runs: Vec<_> = results.iter().map(run).collect();
    let expected = [("pp", 7, 0, 1), ("tg", 3, 0, 1), ("tg", 3, 0, 4), ("tg", 3, 5, 1), ("tg", 3, 5, 4)];
    assert_eq!(runs, expected.map(|(test, n, depth, batch)| (test.to_owned(), n, depth, batch)));
    for result in results {
        for key in ["tok_s", "limit_fraction"] {
            assert!(result[key].as_f64().is_some_and(|x| x > 0.0), "{result}");
        }
    }
    for limit in ["read_gb_s", "f32_gflop_s"] {
        assert!(found["limits"][limit].as_f64().is_some_and(|x| x > 0.0), "{found}");
    }
    assert!(found["load_ms"].as_f64().is_some_and(|x| x > 0.0));
}

#[test]
fn a_profile_tells_modules_and_a_trace_every_step() {
    let folder = folder();
    let trace = folder.path().join("trace.json");
    let paths = [("tiny", &*fixture("tiny/gqa-f32")), ("trace", &*trace)];
    let table =
        llamac("bench {tiny} -p 6 -n 2 -d 1,0 -b 2,1 -r 1 --profile --trace {trace} -q", &paths).success();
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    for start in [
        &["prompt", "of", "6", "0", "1"][..],
        &["decode", "2", "1", "2"],
        &["limits:", "read"],
        &["prompt", "of", "6,", "depth", "0,", "batch", "1"],
        &["decode", "2,", "depth", "1,", "batch", "2"],
        &["model.layers.~.self_attn.{q,k,v}_proj", "linear", "2"],
    ] {
        assert!(words.iter().any(|line| line.starts_with(start)), "{start:?} in:\n{table}");
    }
    let events: Vec<Value> =
        serde_json::from_slice(&std::fs::read(&trace).expect("a trace")).expect("it is JSON");
    let line = "bench {tiny} -p 0 -n 2 -d 1,0 -b 2,1 -r 1 --profile --json";
    let found: Value = serde_json::from_str(&llamac(line, &paths).success()).expect("it is JSON");
    let parts = found["profile"].as_array().expect("a profile");
    let run = |part: &Value| ["test", "n", "depth", "batch"].map(|key| part[key].clone());
    assert!(
        !parts.is_empty()
            && parts.iter().all(|part| run(part) == [json!("tg"), json!(2), json!(1), json!(2)])
    );
    let of = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    // Once for the prompt, once for each token.
    assert_eq!(of("model.layers.1.mlp.down_proj"), 3);
    assert!(events.iter().all(|event| event["ph"] == "X" && event["dur"].as_f64().is_some()));
}

#[test]
fn what_cannot_be_measured_is_told_by_its_arguments() {
    let paths = [("tiny", &*fixture("tiny/gqa-f32")), ("classifier", &*fixture("tiny/seqcls-pad"))];
    let message = |line, status| redact(&llamac(line, &paths).failure(status), &[]);
    assert_snapshot!(message("bench {tiny} -p 0 -n 0", 2), @"
    error[E0001]: invalid argument
      --> -p 0 -n 0
       expected tokens to read (`-p`) or to decode (`-n`)
       found    none of either
    ");
    assert_snapshot!(message("bench {classifier} -p 0", 2), @"
    error[E0001]: invalid argument
      --> -p 0
       expected tokens to read
       found    none
       help: fixtures/tiny/seqcls-pad: head `sequence-classification` decodes nothing; it reads prompts
    ");
    // More slots than can be counted; what is asked for is all caches together.
    assert_snapshot!(message("bench {tiny} -p 6 -n 1 -d 0,4294967295 -b 1,3", 5), @"
    error[E0012]: not enough memory
       the caches of 9 sequences of up to 4294967296 tokens, 6291457 MiB together, do not fit into memory
       help: ask for fewer sequences (`-b`), for shorter contexts (`-d`), or for a smaller cache (`--kv int8`)
    ");
}

#[test]
fn a_head_without_tokens_only_reads() {
    let line = "bench {tiny} -p 5 -n 3 -r 1 -d 0 -b 1 --json";
    let found: Value =
        serde_json::from_str(&llamac(line, &[("tiny", &fixture("tiny/seqcls-pad"))]).success())
            .expect("it is JSON");
    assert_eq!(found["results"].as_array().map(Vec::len), Some(1));
}
