//! `--message-format json`: everything on standard error is JSON, an object a line, and says what people are told.

mod support;

use serde_json::Value;
use support::{copy, fixture, folder, llamac};

/// The objects of standard error, which holds nothing else.
#[track_caller]
fn objects(stderr: &str) -> Vec<Value> {
    let parse =
        |line: &str| -> Value { serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")) };
    let objects: Vec<Value> = stderr.lines().map(parse).collect();
    let fields = ["at", "code", "expected", "found", "help", "message", "severity", "title", "type"];
    for object in &objects {
        let keys: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, fields, "{object}");
        assert_eq!(object["type"], "diagnostic");
    }
    objects
}

#[test]
fn faults_have_the_parts_that_people_see() {
    let folder = folder();
    copy("tiny/gqa-f32", folder.path());
    let path = folder.path().join("config.json");
    let config = std::fs::read_to_string(&path).expect("a file");
    // A key that is misspelled, and with it all that follows from it.
    std::fs::write(&path, config.replace("num_key_value_heads", "num_key_value_head")).expect("writes");
    let paths = [("model", folder.path())];
    let people = llamac("inspect {model}", &paths);
    let done = llamac("inspect {model} --message-format json", &paths);
    assert_eq!((done.status, done.stdout.as_str()), (Some(3), ""));
    let objects = objects(&done.stderr);
    assert_eq!(objects[0]["severity"], "warning");
    assert_eq!(
        objects[0]["message"],
        "config.json: num_key_value_head means nothing; did you mean num_key_value_heads?"
    );
    let mut shown = format!("warning: {}\n", objects[0]["message"].as_str().expect("a text"));
    for fault in &objects[1..] {
        assert_eq!((fault["severity"].as_str(), fault["code"].as_str()), (Some("error"), Some("E0203")));
        shown += &format!("error[E0203]: {}\n", fault["title"].as_str().expect("a title"));
        for (key, label) in [
            ("at", "  --> "),
            ("message", "   "),
            ("expected", "   expected "),
            ("found", "   found    "),
            ("help", "   help: "),
        ] {
            if let Some(text) = fault[key].as_str() {
                shown += &format!("{label}{text}\n");
            }
        }
    }
    assert_eq!(people.stderr, format!("{shown}\nTo learn more: llamac explain E0203\n"));
}

#[test]
fn notes_remarks_and_the_log_are_objects_too() {
    let (folder, tiny) = (folder(), fixture("tiny/gqa-f32"));
    let paths = [("tiny", tiny.as_path()), ("out", folder.path())];
    let done = llamac("--message-format=json compile {tiny} -o {out}/model --remarks -vv", &paths);
    assert_eq!((done.status, done.stdout.as_str()), (Some(0), ""));
    let objects = objects(&done.stderr);
    let of = |severity: &str, part: &str| {
        let mut matching = objects.iter().filter(|object| object["severity"] == severity);
        matching.any(|object| object["message"].as_str().expect("a text").contains(part))
    };
    assert!(of("note", "model: ") && of("note", "pass fuse-qkv took"), "{}", done.stderr);
    assert!(of("remark", "FuseQkv applied 2 times"), "{}", done.stderr);
    // Results stay what they are.
    let plain = llamac("run {tiny} --ids 1,2 -n 2", &paths).quiet();
    assert_eq!(llamac("run {tiny} --ids 1,2 -n 2 --message-format json", &paths).quiet(), plain);
    assert_eq!(llamac("run {tiny} --ids 1,2 -n 2 --message-format human", &paths).quiet(), plain);
}

#[test]
fn mistakes_in_the_command_line_are_objects_too() {
    for (line, status, code, part) in [
        ("--message-format json", 2, "E0001", "requires a subcommand"),
        ("rn model --message-format json", 2, "E0001", "unrecognized subcommand 'rn'"),
        ("--message-format json run model -p a --top-k many", 2, "E0001", "invalid value 'many'"),
        ("run model -p a --message-format=json --chat", 4, "E0002", "not in this version"),
        ("explain 999 --message-format json", 2, "E0001", "no such code"),
    ] {
        let done = llamac(line, &[]);
        assert_eq!((done.status, done.stdout.as_str()), (Some(status), ""), "{line}");
        let objects = objects(&done.stderr);
        assert_eq!((objects.len(), objects[0]["code"].as_str()), (1, Some(code)), "{line}");
        let message = objects[0]["message"].as_str().expect("a text");
        assert!(message.contains(part) && !message.starts_with("error"), "{message}");
    }
    // Help is a result.
    assert!(llamac("--message-format json run --help", &[]).quiet().starts_with("Continue a prompt"));
}
