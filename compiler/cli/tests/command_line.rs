//! Arguments: help, mistakes, and what is not available yet.

mod support;

use insta::assert_snapshot;
use support::{arguments, command, fixture, llamac, run};

#[test]
fn help_and_version_are_results() {
    let help = llamac("--help", &[]).quiet();
    for command in [
        "compile",
        "eval",
        "run",
        "classify",
        "embed",
        "inspect",
        "tokenize",
        "verify",
        "print",
        "explain",
        "completions",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        assert!(llamac(&format!("{command} --help"), &[]).quiet().starts_with(|c: char| c.is_uppercase()));
    }
    assert_eq!(llamac("help", &[]).quiet(), help);
    assert!(llamac("help run", &[]).quiet().contains("--temperature"));
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
        "compile model -o out --weights q4,q8",
        "compile model -o out --weights q4,lm_head=q8,lm_head=f32",
        "compile model -o out --passes FuseQkv",
        "compile model -o out --emit png",
        "eval model --inputs in",
        "tokenize model",
        "classify model",
        "embed model x --pooling max",
        "tokenize model text --decode 1",
        "print colours",
        "completions csh",
        "verify",
        "print ops --message-format xml",
        "-q -v print ops",
    ] {
        let message = llamac(line, &[]).failure(2);
        assert!(message.contains("Usage") || message.contains("--help"), "{line}: {message}");
    }
    let tip = |line, tip| {
        let message = llamac(line, &[]).failure(2);
        assert!(message.contains(tip), "{message}");
    };
    tip("compile model -o out --weigths f32", "'--weights'");
    tip("compile model -o out --head causl-lm", "'causal-lm'");
    tip("compile model -o out --target natve", "'native'");
    tip("print pases", "'passes'");
    tip("verfy model", "'verify'");
    tip("run model Once", "the prompt is given with '-p'");
    tip("src -p Once", "'llamac run src -p TEXT'");
    tip(
        "run model --weights q4 -p Once",
        "'llamac compile CHECKPOINT --weights FORMAT -o FILE' stores others",
    );
}

#[test]
fn what_is_planned_ends_with_4_and_a_sentence() {
    let message = |line| llamac(line, &[]).failure(4);
    assert_snapshot!(message("serve --port 80"), @r#"
        error[E0002]: this option is not available yet
          --> llamac serve
           not in this version: a server
        "#);
    assert_snapshot!(message("run model --chat"), @"
    error[E0002]: this option is not available yet
      --> --chat
       not in this version: chat templates
       help: write the template out in the prompt (`-p`)
    ");
    assert_snapshot!(message("compile model -o out --emit svg,report"), @"
    error[E0002]: this option is not available yet
      --> --emit report
       not in this version: reports
       help: use --remarks, or `llamac inspect`
    ");
}

#[test]
fn every_code_is_explained() {
    let list = llamac("explain", &[]).quiet();
    for line in list.lines() {
        let (code, title) = line.split_once("  ").expect("two columns");
        let text = llamac(&format!("explain {code}"), &[]).quiet();
        assert!(text.starts_with(&format!("{code}: {title} (exit status ")), "{text}");
        assert!(text.contains("\nCure: ") && !text.contains("**"), "{text}");
    }
    assert!(list.starts_with("E0001  invalid argument\n") && list.lines().count() > 30, "{list}");
    let shape = llamac("explain E0203", &[]).quiet();
    for spelling in ["e203", "203"] {
        assert_eq!(llamac(&format!("explain {spelling}"), &[]).quiet(), shape);
    }
    let both = llamac("explain 203 302", &[]).quiet();
    assert_eq!(both, format!("{shape}\n{}", llamac("explain 302", &[]).quiet()));
    assert_snapshot!(shape, @"
    E0203: tensor has the wrong shape (exit status 3)

    A tensor is there, but its sizes are not those that the configuration gives. The message says which
    keys each expected size comes from, and which value would fit.

    Cause: a configuration of another size of the same model, or `num_key_value_heads` missing or
    wrong in a model with grouped attention, or a vocabulary that was extended without its `vocab_size`.

    Cure: correct the key that the message names, if the weights are right.
    ");
    assert_snapshot!(llamac("explain E0212 shape 203", &[]).failure(2), @"
    error[E0001]: invalid argument
      --> explain E0212
       there is no such code
       help: did you mean E0211 (the shards of a checkpoint disagree)?
    error[E0001]: invalid argument
      --> explain shape
       there is no such code
       help: `llamac explain` lists the codes
    ");
    let painted = run(arguments("explain 203", &[]).env("CLICOLOR_FORCE", "1"), "").quiet();
    assert!(
        painted.contains("\u{1b}[1mCause\u{1b}[0m: ") && painted.contains("m`num_key_value_heads`\u{1b}")
    );
}

#[test]
fn a_report_ends_with_where_to_learn_more() {
    let report = llamac("inspect nowhere", &[]).stderr;
    assert_eq!(report.lines().last(), Some("To learn more: llamac explain E0100"));
    let report = llamac("-q inspect nowhere", &[]).stderr;
    assert!(!report.contains("explain") && report.starts_with("error[E0100]"), "{report}");
}

#[test]
fn shells_complete_the_command() {
    for (shell, part) in [
        ("bash", "complete -F _llamac"),
        ("zsh", "#compdef llamac"),
        ("fish", "complete -c llamac"),
        ("elvish", "edit:completion:arg-completer[llamac]"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = llamac(&format!("completions {shell}"), &[]).quiet();
        assert!(script.contains(part) && script.contains("no-check"), "{shell}");
    }
    // What bash makes of it.
    let script = llamac("completions bash", &[]).quiet();
    let ask = r#"COMP_WORDS=(llamac "$@"); COMP_CWORD=$#; _llamac llamac "${@: -1}" "${@: -2:1}"; echo "${COMPREPLY[*]}""#;
    let complete = |words: &[&str]| {
        let mut bash = std::process::Command::new("bash");
        bash.args(["--norc", "-c", &format!("{script}\n{ask}"), "bash"]).args(words);
        run(&mut bash, "").quiet()
    };
    assert_eq!(complete(&["comp"]), "compile completions\n");
    assert_eq!(complete(&["run", "--message-format", "j"]), "json\n");
    assert_eq!(complete(&["compile", "--weights", "f"]), "f32 f16\n");
    assert_eq!(complete(&["verify", "--thr"]), "--threads\n");
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
    assert_snapshot!(list("passes"), @"
    canonicalize       canonicalize  remove dead nodes, compute equal things once, simplify weight recipes
    merge-lora         assign        what --lora adapters add, in the weights of their modules
    assign-schemes     assign        how each weight is stored, as --weights says
    fold-rope          fuse          one set of rotary angles for all layers, from constant frequencies
    fuse-qkv           fuse          queries, keys and values from one projection
    fuse-gate-up       fuse          gate and up from one projection, activation and product in one operation
    fuse-add-rms-norm  fuse          a residual sum and the norm of it in one operation
    legalize           legalize      only operations that the target can take
    ");
    let ops = list("ops");
    for op in ["attention", "linear", "rms_norm", "add_rms_norm"] {
        assert!(ops.lines().any(|line| line.split_whitespace().next() == Some(op)), "{ops}");
    }
}

#[test]
fn colours_are_for_terminals_and_those_who_ask() {
    let line = "inspect nowhere";
    let plain = llamac(line, &[]).stderr;
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
    for line in ["print ops", "--help", "--version"] {
        let full = std::fs::File::create("/dev/full").expect("the device that is always full");
        let output = arguments(line, &[]).stdout(full).output().expect("the command runs");
        assert_eq!(output.status.code(), Some(5), "{line}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("error[E0011]"), "{line}");
    }
}

#[test]
fn numbers_are_told_their_range() {
    for (line, why) in [
        ("run model -p a -n 0", "expected a whole number, at least 1"),
        ("run model -p a -n -1", "expected a whole number, at least 1"),
        ("run model -p a --top-k -1", "expected a whole number from 0 to 4294967295"),
        ("run model -p a --seed -1", "expected a whole number, at least 0"),
        ("run model -p a --threads -1", "expected a whole number from 1 to 1024"),
        ("run model --ids -1", "`-1` is not a token id"),
        ("run model --ids 1,,2", "a token id is missing"),
        ("tokenize model --decode -1", "`-1` is not a token id"),
        ("eval model --inputs a --outputs b --keep -1", "expected a whole number from 1"),
        ("compile model -o out --max-context -1", "expected a whole number, at least 1"),
    ] {
        let message = llamac(line, &[]).failure(2);
        assert!(message.contains(why), "{line}: {message}");
    }
    let tiny = fixture("tiny/gqa-f32");
    for value in ["nan", "inf", "-1", "1e-41"] {
        let line = format!("run {{tiny}} --ids 1 --temperature {value}");
        let message = llamac(&line, &[("tiny", &tiny)]).failure(2);
        assert!(message.contains("--> --temperature\n   expected a number above 0"), "{message}");
    }
}
