//! `llamac run`: text from a prompt.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{arguments, fixture, folder, interruptible, llamac, names, redact, run};

/// The parsed lines of `--json`: tokens, and what came last.
fn lines(json: &str) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let done = lines.pop().expect("a last line");
    (lines, done)
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn a_story_is_told() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    let prompt = "Once upon a time";
    let text = run(arguments("run {stories} -p", &paths).arg(prompt), "").quiet();
    let json = run(arguments("run {stories} --json -p", &paths).arg(prompt), "").quiet();
    let (tokens, done) = lines(&json);
    assert!(text.len() > 100, "{text}");
    assert_eq!(text, format!("{prompt}{}\n", done["text"].as_str().expect("a text")));

    for token in &tokens {
        assert_eq!((keys(token), token["type"].as_str()), (vec!["id", "text", "type"], Some("token")));
    }
    let fields = ["decode_ms", "prefill_ms", "prompt_tokens", "reason", "text", "tokens", "type"];
    assert_eq!((keys(&done), done["type"].as_str()), (fields.to_vec(), Some("done")));
    assert_eq!(done["reason"], "eos");
    let ids: Vec<&Value> = tokens.iter().map(|token| &token["id"]).collect();
    assert_eq!(ids, done["tokens"].as_array().expect("a list").iter().collect::<Vec<_>>());
    let parts: String = tokens.iter().filter_map(|token| token["text"].as_str()).collect();
    assert_eq!(parts, done["text"].as_str().expect("a text"));
    assert!(done["prefill_ms"].as_f64().expect("a number") > 0.0);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    let tell = |options: &str| {
        let line = format!("run {{stories}} -p Once -n 30 --json {options}");
        lines(&llamac(&line, &paths).quiet()).1["tokens"].clone()
    };
    let greedy = tell("");
    assert_eq!(greedy, tell("--temperature 0 --seed 7 --top-p 0.5"));
    assert_eq!(greedy, tell("--top-k 1"));
    let sampled = tell("--temperature 1.5 --seed 7");
    assert_eq!(sampled, tell("--temperature 1.5 --seed 7"));
    assert_ne!(sampled, tell("--temperature 1.5 --seed 8"));
}

#[test]
fn guesses_are_told_and_change_nothing() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    let line = "run {stories} -p Mia -n 60";
    let tell = |options: &str| lines(&llamac(&format!("{line} --json {options}"), &paths).quiet()).1;
    let (alone, guessing) = (tell(""), tell("--lookup 4"));
    assert_eq!(alone["tokens"], guessing["tokens"]);
    assert_eq!((&alone["guessed"], &alone["guessed_right"]), (&Value::Null, &Value::Null));
    let [guessed, right] = ["guessed", "guessed_right"].map(|key| guessing[key].as_u64().expect(key));
    assert!(0 < right && right < guessed, "{right} of {guessed}");
    let done = llamac(&format!("{line} --lookup 4 -v"), &paths);
    assert!(done.stderr.contains(&format!("; {right} of {guessed} guesses were right\n")), "{}", done.stderr);
    assert!(!llamac(&format!("{line} -v"), &paths).stderr.contains("guesses"));
}

#[test]
fn length_and_stop_strings_end_a_story() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    let (tokens, done) = lines(&llamac("run {stories} -p Once -n 5 --json", &paths).quiet());
    assert_eq!((tokens.len(), done["reason"].as_str()), (5, Some("length")));
    let line = "run {stories} -p Once --stop zzz --stop .";
    let (_, done) = lines(&llamac(&format!("{line} --json"), &paths).quiet());
    let text = done["text"].as_str().expect("a text");
    assert_eq!((done["reason"].as_str(), text.find('.')), (Some("stop"), Some(text.len() - 1)), "{text}");
    assert_eq!(llamac(line, &paths).quiet(), format!("Once{text}\n"));
}

#[test]
fn a_model_without_a_tokenizer_speaks_in_ids() {
    let tiny = fixture("tiny/gqa-f32");
    let paths = [("tiny", tiny.as_path())];
    let golden = std::fs::read(tiny.join("golden.json")).expect("goldens");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let greedy = golden["greedy"].as_array().expect("a list").iter().find(|g| g["attention_mask"].is_null());
    let greedy = greedy.expect("a case without padding");
    let list = |value: &Value| {
        let row = value[0].as_array().expect("a row");
        row.iter().map(|id| id.as_u64().expect("an id").to_string()).collect::<Vec<_>>().join(",")
    };
    let (prompt, expected) = (list(&greedy["prompt"]), list(&greedy["tokens"]));
    let n = greedy["max_new_tokens"].as_u64().expect("a number");
    let line = format!("run {{tiny}} --ids {prompt} -n {n}");
    assert_eq!(llamac(&line, &paths).quiet(), format!("{expected}\n"));
    let (tokens, done) = lines(&llamac(&format!("{line} --json"), &paths).quiet());
    assert_eq!(done["prompt_tokens"], prompt.split(',').count());
    assert_eq!((tokens.len(), done["text"].as_str()), (expected.split(',').count(), Some("")));

    assert!(llamac("run {tiny} -p Once", &paths).failure(3).contains("E0405"));
    assert!(llamac(&format!("{line} --stop a"), &paths).failure(3).contains("E0405"));
}

#[test]
fn a_compiled_model_says_what_its_checkpoint_says() {
    let (folder, stories) = (folder(), fixture("stories"));
    let out = folder.path().join("stories.llamac");
    let paths = [("stories", stories.as_path()), ("out", out.as_path())];
    llamac("compile {stories} -o {out}", &paths).success();
    let expected = llamac("run {stories} -p Once -n 40", &paths).quiet();
    for options in ["", "--threads 1", "--compute bf16", "--kv f32"] {
        assert_eq!(
            llamac(&format!("run {{out}} -p Once -n 40 {options}"), &paths).quiet(),
            expected,
            "{options}"
        );
    }
}

#[test]
fn a_prompt_may_come_from_standard_input() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    let piped = run(&mut arguments("run {stories} -n 5 -p -", &paths), "Once\n").quiet();
    assert_eq!(piped, llamac("run {stories} -n 5 -p Once", &paths).quiet());
    let done = run(&mut arguments("run {stories} -n 5 -v -p -", &paths), "Once\n");
    assert!(done.stderr.contains("tokens/s") && done.stdout == piped, "{done:?}");
}

#[test]
fn settings_out_of_range_are_refused_together() {
    let stories = fixture("stories");
    let line = "run {stories} -p Once --temperature -1 --top-p 2 --repetition-penalty 0";
    let message = llamac(line, &[("stories", stories.as_path())]).failure(2);
    assert_eq!(message.matches("error[E0406]").count(), 3, "{message}");
}

#[test]
fn other_heads_have_no_text() {
    let classifier = fixture("tiny/seqcls-pad");
    let message = llamac("run {model} --ids 1,2", &[("model", classifier.as_path())]).failure(3);
    assert!(message.contains("E0403") && message.contains("sequence-classification"), "{message}");
}

#[test]
fn an_interrupted_story_leaves_nothing_behind() {
    let (folder, stories) = (folder(), fixture("stories"));
    let mut command =
        interruptible("run {stories} -n 100000 --temperature 1 -p Once", &[("stories", &stories)]);
    command.env("TMPDIR", folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut first = [0; 4];
    child.stdout.take().expect("a pipe").read_exact(&mut first).expect("a beginning");
    assert_eq!(&first, b"Once");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    // Either it was killed, or it noticed first that nobody reads any more.
    assert!(output.status.signal() == Some(2) || output.status.success(), "{:?}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn temporary_files_need_a_folder() {
    let (folder, tiny) = (folder(), fixture("tiny/gqa-f32"));
    let none = folder.path().join("none");
    let done = run(arguments("run {tiny} --ids 1", &[("tiny", &tiny)]).env("TMPDIR", &none), "");
    insta::assert_snapshot!(redact(&done.failure(1), &[("none", &none)]), @"
    error[E0010]: a file operation failed
      --> none
       the folder for temporary files does not exist
       help: choose another folder for temporary files with TMPDIR
    ");
}

#[test]
fn a_prompt_may_be_empty_and_may_not_be_too_long() {
    let stories = fixture("stories");
    let paths = [("stories", stories.as_path())];
    let empty = run(arguments("run {stories} -n 5 -p", &paths).arg(""), "").quiet();
    assert_eq!(run(arguments("run {stories} -n 5 --ids", &paths).arg(""), "").quiet(), empty);
    let long = run(arguments("run {stories} -p", &paths).arg("Once upon a time ".repeat(200)), "");
    insta::assert_snapshot!(long.failure(5), @"
    error[E0401]: the context is full
       expected a prompt of less than 512 tokens
       found    802 tokens
       help: shorten the prompt; the model's context has to hold the answer, too
    ");
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let stories = fixture("stories");
    let mut command =
        arguments("run {stories} -n 200 --json --temperature 1 -p Once", &[("stories", &stories)]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let mut message = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut message).expect("UTF-8");
    let status = child.wait().expect("it ends");
    assert_eq!((status.code(), message.as_str()), (Some(0), ""));
    assert!(line.starts_with("{\"type\":\"token\""), "{line}");
}

#[test]
fn a_full_context_is_told() {
    let (folder, stories) = (folder(), fixture("stories"));
    let paths = [("stories", &*stories), ("model", &*folder.path().join("model"))];
    llamac("-q compile {stories} -o {model} --max-context 10", &paths).quiet();
    let done = llamac("run {model} -p Once -n 50 --json", &paths);
    assert_eq!(done.stderr, "warning: the context of 10 tokens is full\n");
    let (_, last) = lines(&done.success());
    assert_eq!(last["reason"], "length");
    llamac("run {model} -p Once -n 3 --json", &paths).quiet();
}

/// The story model in blocks of 8 and 4 bits, its text that of numpy's greedy tokens (`fixtures/scripts/make_gguf.py`).
#[test]
fn a_gguf_file_tells_a_story() {
    let stories = fixture("gguf/stories");
    let golden = std::fs::read(stories.join("golden.json")).expect("a file");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let expected = &golden["greedy"][0]["tokens"][0];
    let model = stories.join("model.gguf");
    let prompt = "Once upon a time, there was a brave girl named Zoe.";
    let tell = |model: &std::path::Path| {
        run(arguments("run {model} -n 60 --json -p", &[("model", model)]).arg(prompt), "").quiet()
    };
    let (_, done) = lines(&tell(&model));
    assert_eq!(&done["tokens"], expected);
    let place = folder();
    let compiled = place.path().join("model.llamac");
    llamac("-q compile {model} -o {out}", &[("model", &model), ("out", &compiled)]).quiet();
    assert_eq!(lines(&tell(&compiled)).1["tokens"], *expected);
}
