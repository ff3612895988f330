//! Arguments: help, mistakes, and what is not available yet.

mod support;

use insta::assert_snapshot;
use support::{arguments, command, fixture, llamac, run};

#[test]
fn help_and_version_are_results() {
    let help = llamac("--help", &[]).quiet();
    for command in ["compile", "eval", "run", "classify", "embed", "inspect", "tokenize", "print"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        assert!(llamac(&format!("{command} --help"), &[]).quiet().starts_with(|c: char| c.is_uppercase()));
    }
    assert_eq!(llamac("--version", &[]).quiet(), format!("llamac {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn mistakes_end_with_2_and_a_hint() {
    for line in [
        "",
        "sevre",
        "run",
        "run model",
        "run model -p a --ids 1",
        "run model --ids 1,x",
        "run model -p a -n 0",
        "run model -p a --top-k many",
        "run model -p a --threads 0",
        "compile model",
        "compile model -o out --stop-after FuseQkv",
        "compile model -o out --weights q5",
        "compile model -o out --passes FuseQkv",
        "compile model -o out --emit png",
        "eval model --inputs in",
        "tokenize model",
        "classify model",
        "embed model x --pooling max",
        "tokenize model text --decode 1",
        "print colours",
        "-q -v print ops",
    ] {
        let message = llamac(line, &[]).failure(2);
        assert!(message.contains("Usage") || message.contains("--help"), "{line}: {message}");
    }
    assert!(llamac("compile model -o out --weigths f32", &[]).failure(2).contains("'--weights'"));
}

#[test]
fn what_is_planned_ends_with_4_and_a_sentence() {
    let message = |line| llamac(line, &[]).failure(4);
    assert_snapshot!(message("serve --port 80"), @r#"
        error[E0002]: this option is not available yet
          --> llamac serve
           not in this version: a server
        "#);
    assert_snapshot!(message("compile model -o out --lora adapter"), @r#"
        error[E0002]: this option is not available yet
          --> --lora
           not in this version: merging adapters
           help: merge it with merge_and_unload() of peft and save the result
        "#);
    assert_snapshot!(message("compile model -o out --weights q4,lm_head=q8"), @r#"
        error[E0002]: this option is not available yet
          --> --weights q4,lm_head=q8
           not in this version: quantized weights
           help: use --weights bf16
        "#);
    assert_snapshot!(message("run model -p a --lookup 3"), @r#"
        error[E0002]: this option is not available yet
          --> --lookup
           not in this version: guessing tokens from the prompt
           help: leave it out: the text is the same
        "#);
    assert_snapshot!(message("run model -p a --compute int8"), @r#"
        error[E0002]: this option is not available yet
          --> --compute int8
           not in this version: narrower arithmetic
           help: use --compute f32
        "#);
}

#[test]
fn lists_name_what_there_is() {
    let list = |name| llamac(&format!("print {name}"), &[]).quiet();
    assert!(list("targets").starts_with("native"));
    assert_snapshot!(list("heads"), @r#"
        base                     LlamaModel
        causal-lm                LlamaForCausalLM
        sequence-classification  LlamaForSequenceClassification
        token-classification     LlamaForTokenClassification
        question-answering       LlamaForQuestionAnswering
        "#);
    assert_snapshot!(list("passes"), @r#"
        canonicalize       canonicalize  remove dead nodes, compute equal things once, simplify weight recipes
        fold-rope          fuse          one set of rotary angles for all layers, from constant frequencies
        fuse-qkv           fuse          queries, keys and values from one projection
        fuse-gate-up       fuse          gate and up from one projection, activation and product in one operation
        fuse-add-rms-norm  fuse          a residual sum and the norm of it in one operation
        legalize           legalize      only operations that the target can take
        "#);
    let ops = list("ops");
    for op in ["attention", "linear", "rms_norm", "add_rms_norm"] {
        assert!(ops.lines().any(|line| line.split_whitespace().next() == Some(op)), "{ops}");
    }
}

#[test]
fn colours_are_for_terminals_and_those_who_ask() {
    let line = "inspect nowhere";
    let plain = llamac(line, &[]).failure(3);
    let forced = run(arguments(line, &[]).env("CLICOLOR_FORCE", "1"), "").stderr;
    assert!(forced.contains("\u{1b}[") && forced.contains("error"), "{forced}");
    let refused = run(arguments(line, &[]).env("NO_COLOR", "1"), "").stderr;
    assert_eq!(refused, plain);
}

#[test]
fn an_unreadable_argument_is_no_panic() {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"bad\xff");
    let done = run(command().arg("inspect").arg(name), "");
    assert_eq!(done.status, Some(3), "{}", done.stderr);
    let done = run(command().args(["tokenize"]).arg(fixture("stories")).arg(name), "");
    assert_eq!(done.status, Some(2), "{}", done.stderr);
}

#[test]
fn a_full_disk_under_standard_output_is_reported() {
    let full = std::fs::File::create("/dev/full").expect("the device that is always full");
    let output = arguments("print ops", &[]).stdout(full).output().expect("the command runs");
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error[E0011]"));
}
