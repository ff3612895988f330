//! `llamac compile`: one file, whole or not at all, and every stop on the way.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use insta::assert_snapshot;
use support::{arguments, copy, fixture, folder, interruptible, llamac, names};

#[test]
fn a_checkpoint_becomes_one_file_with_the_same_bytes_every_time() {
    let (folder, stories) = (folder(), fixture("stories"));
    let paths = [("stories", stories.as_path()), ("folder", folder.path())];
    let done = llamac("compile {stories} -o {folder}/a --threads 1", &paths);
    assert_eq!((done.status, done.stdout.as_str()), (Some(0), ""));
    let summary = done.stderr.strip_prefix(&format!("{}/a: ", folder.path().display())).expect("a summary");
    assert!(summary.contains(" MiB, compiled in ") && summary.lines().count() == 1, "{summary}");
    assert_eq!(llamac("-q compile {stories} -o {folder}/b --threads 2", &paths).quiet(), "");
    let [a, b] = ["a", "b"].map(|name| std::fs::read(folder.path().join(name)).expect("a file"));
    assert!(a == b, "two compilations differ");
    assert_eq!(names(folder.path()), ["a", "b"]);
    // Other tools can list it.
    let tensors = safetensors::SafeTensors::deserialize(&a).expect("a safetensors file");
    assert!(tensors.names().contains(&"files/config.json"));
}

#[test]
fn what_is_not_multiplied_in_integers_is_told() {
    let (folder, stories) = (folder(), fixture("stories"));
    let text = folder.path().join("text");
    std::fs::write(&text, "Mia had a red kite.").expect("writes");
    let (mixed, quantized) = (folder.path().join("mixed"), folder.path().join("quantized"));
    let paths = [("stories", &*stories), ("mixed", &*mixed), ("quantized", &*quantized), ("text", &*text)];
    let told = |line: &str| {
        let done = llamac(line, &paths);
        assert_eq!(done.status, Some(0), "{}", done.stderr);
        let said =
            done.stderr.lines().find_map(|line| line.split_once(": --compute int8 is for quantized weights"));
        said.map(|(path, rest)| format!("{}{rest}", path.replace(folder.path().to_str().expect("UTF-8"), "")))
    };
    let others = "; not multiplied in integers: 4 matrices of bf16, 1 matrix of f32";
    let weights = "--weights q4,down_proj=bf16,lm_head=f32";
    let told_of = |path: &str| Some(format!("{path}{others}"));
    let compiled = told(&format!("compile {{stories}} -o {{mixed}} {weights} --compute int8"));
    assert_eq!(compiled, told_of(stories.to_str().expect("UTF-8")));
    // What the model was compiled for is told once.
    assert_eq!(told("run {mixed} -p Mia -n 1"), None);
    for line in [
        "run {mixed} -p Mia -n 1",
        "bench {mixed} -p 2 -n 0 -r 1",
        "perplexity {mixed} {text}",
        "embed {mixed} Mia",
    ] {
        assert_eq!(told(&format!("{line} --compute int8")), told_of("/mixed"), "{line}");
        assert_eq!(told(&format!("{line} --compute bf16")), None, "{line}");
    }
    assert_eq!(told("compile {stories} -o {quantized} --weights q4 --compute int8"), None);
    assert_eq!(told("run {quantized} -p Mia -n 1 --compute int8"), None);
}

#[test]
fn an_output_is_replaced_by_a_finished_one_only() {
    let (folder, tiny) = (folder(), fixture("tiny/gqa-f32"));
    let out = folder.path().join("out");
    let paths = [("tiny", tiny.as_path()), ("out", out.as_path()), ("folder", folder.path())];
    let older = r#"12345678{"__metadata__":{"format":"llamac","version":"0"}, and half of it"#;
    std::fs::write(&out, older).expect("writes");
    let broken = folder.path().join("broken");
    std::fs::create_dir(&broken).expect("a folder");
    copy("tiny/gqa-f32", &broken);
    let weights = broken.join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("a file");
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).expect("writes");
    let message = llamac("compile {folder}/broken -o {out}", &paths).failure(3);
    assert!(message.contains("model.safetensors"), "{message}");
    assert_eq!(std::fs::read_to_string(&out).expect("a file"), older);
    llamac("compile {tiny} -o {out}", &paths).success();
    assert!(std::fs::read(&out).expect("a file").len() > 1000);
    assert_eq!(names(folder.path()), ["broken", "out"]);
}

#[test]
fn an_output_has_a_place_of_its_own() {
    let folder = folder();
    copy("tiny/gqa-f32", folder.path());
    let before = names(folder.path());
    let paths = [("folder", folder.path())];
    let message = |line: &str, status| redacted(&llamac(line, &paths).failure(status), folder.path());
    assert_snapshot!(message("compile {folder} -o {folder}", 1), @r#"
        error[E0010]: a file operation failed
          --> folder
           this is a folder: only a file can be replaced
           help: name a file (`model.llamac`)
        "#);
    assert_snapshot!(message("compile {folder} -o {folder}/none/out", 1), @r#"
        error[E0010]: a file operation failed
          --> folder/none/out
           the folder `folder/none` does not exist
           help: mkdir -p folder/none
        "#);
    assert_snapshot!(message("compile {folder} -o {folder}/model.safetensors", 2), @r#"
        error[E0001]: invalid argument
          --> folder/model.safetensors
           there is a file here already, which is not a compiled model
           help: give the output another name, or remove the file first
        "#);
    assert_eq!(names(folder.path()), before);
    // A compiled model may be replaced.
    llamac("compile {folder} -o {folder}/model.llamac", &paths).success();
    llamac("compile {folder} -o {folder}/model.llamac", &paths).success();
}

#[test]
fn an_output_replaces_older_outputs_of_its_kind_only() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("ckpt")).expect("a folder");
    copy("tiny/gqa-f32", &at("ckpt"));
    std::fs::write(at("ckpt/weights.bin"), "of any name").expect("writes");
    std::fs::write(at("notes.txt"), "precious").expect("writes");
    std::os::unix::fs::symlink("ckpt/model.safetensors", at("link.llamac")).expect("a link");
    std::os::unix::fs::symlink("nowhere", at("dangling")).expect("a link");
    let content = || {
        let mut files =
            ["notes.txt", "ckpt/config.json", "ckpt/model.safetensors", "ckpt/weights.bin"].map(at).to_vec();
        files.retain(|path| path.is_file());
        let read = files.iter().map(|path| std::fs::read(path).expect("a file")).collect::<Vec<_>>();
        (names(folder.path()), names(&at("ckpt")), read)
    };
    let (before, paths) = (content(), [("f", folder.path())]);
    for (outputs, status, why) in [
        (
            "-o {f}/link.llamac",
            2,
            "link.llamac\n   there is a file here already, which is not a compiled model",
        ),
        ("-o {f}/notes.txt", 2, "there is a file here already"),
        ("-o {f}/ckpt/weights.bin", 2, "there is a file here already"),
        ("-o {f}/new --emit ir={f}/notes.txt", 2, "there is a file here already, which is not a graph"),
        ("--emit svg={f}/ckpt/config.json", 2, "there is a file here already"),
        ("-o {f}/new --emit dot={f}/none/graph", 1, "mkdir -p"),
        ("-o {f}/new --emit ir={f}/./new", 2, "two outputs have this path"),
        ("--emit ir={f}/new,dot={f}/new", 2, "two outputs have this path"),
        ("-o {f}/new --dump-ir {f}/new", 2, "two outputs have this path"),
        ("--target onnx -o {f}/new --emit ir={f}/new", 2, "two outputs have this path"),
        ("-o -", 2, "an output is a file, never standard output"),
        ("-o {f}/new/", 1, "it ends with a slash"),
        ("-o {f}/dangling", 1, "this link points to nothing"),
    ] {
        let message = llamac(&format!("compile {{f}}/ckpt {outputs}"), &paths).failure(status);
        assert!(message.contains(why), "{outputs}: {message}");
        assert!(content() == before, "{outputs}");
    }
    // A graph replaces a graph.
    for form in ["ir", "dot"] {
        llamac(&format!("compile {{f}}/ckpt --emit {form}={{f}}/graph"), &paths).quiet();
    }
    assert!(std::fs::read_to_string(at("graph")).expect("a file").starts_with("digraph"));
}

fn redacted(text: &str, folder: &Path) -> String {
    support::redact(text, &[("folder", folder)])
}

#[test]
fn the_graph_is_printed_where_told() {
    let (folder, tiny) = (folder(), fixture("tiny/gqa-f32"));
    let paths = [("tiny", tiny.as_path()), ("folder", folder.path())];
    let graph = llamac("compile {tiny} --emit ir", &paths).quiet();
    assert!(graph.starts_with("graph<") && graph.contains("add_rms_norm"), "{graph}");
    assert_eq!(llamac("inspect {tiny} --graph", &paths).quiet(), graph);
    let input = llamac("compile {tiny} --stop-after input", &paths).quiet();
    assert!(input.contains("rope ") && !input.contains("gated"), "{input}");
    let both = llamac("compile {tiny} --print-after fuse-qkv,fuse-gate-up", &paths).quiet();
    assert_eq!(both.matches("graph<").count(), 2);
    assert!(!llamac("compile {tiny} --emit ir --passes -fuse-gate-up", &paths).quiet().contains("gated"));
    let message = llamac("compile {tiny} --print-after fuse-qvk", &paths).failure(2);
    assert!(message.contains("did you mean fuse-qkv"), "{message}");

    let line = "compile {tiny} --emit ir={folder}/a.ir,dot={folder}/a.dot,svg={folder}/a.svg --dump-ir {folder}/dump";
    assert_eq!(llamac(line, &paths).quiet(), "");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
    assert_eq!(read("a.ir"), graph);
    assert!(read("a.dot").starts_with("digraph") && read("a.svg").contains("<svg"));
    assert!(names(&folder.path().join("dump")).len() >= 6);
}

#[test]
fn remarks_tell_what_fired_and_what_missed() {
    let tiny = fixture("tiny/gqa-f32");
    let done = llamac("compile {tiny} --remarks", &[("tiny", tiny.as_path())]);
    assert_eq!((done.status, done.stdout.as_str()), (Some(0), ""));
    assert!(done.stderr.contains("FuseQkv applied"), "{}", done.stderr);
    assert!(done.stderr.lines().all(|line| line.starts_with("remark: ")), "{}", done.stderr);
    let explained = llamac("compile {tiny} --stop-after fuse-qkv -vv", &[("tiny", tiny.as_path())]);
    assert!(explained.stderr.contains("pass fuse-qkv took"), "{}", explained.stderr);
}

#[test]
fn weights_and_head_are_a_choice() {
    let (folder, stories) = (folder(), fixture("stories"));
    let paths = [("stories", stories.as_path()), ("out", folder.path())];
    let inspect = |options: &str| {
        llamac(&format!("-q compile {{stories}} -o {{out}}/model {options}"), &paths).quiet();
        let json = llamac("inspect {out}/model --json", &paths).quiet();
        serde_json::from_str::<serde_json::Value>(&json).expect("JSON")
    };
    let dtypes = |value: &serde_json::Value| {
        let groups = value["weights"].as_array().expect("a list").clone();
        groups.iter().map(|group| group["dtype"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let plain = inspect("");
    assert!(dtypes(&plain).contains(&"bf16".to_owned()), "{plain}");
    assert_eq!((plain["head"].as_str(), plain["kv"].as_str()), (Some("causal-lm"), Some("f32")));
    let other = inspect("--weights f32 --head base --kv bf16 --max-context 100");
    assert_eq!(dtypes(&other), ["f32"]);
    assert_eq!((other["head"].as_str(), other["kv"].as_str()), (Some("base"), Some("bf16")));
    assert_eq!(other["shape"]["max_context"], 100);
}

#[test]
fn a_head_that_is_not_there_is_no_random_head() {
    let base = fixture("tiny/base-bare");
    let message = llamac("compile {base} --emit ir --head causal-lm", &[("base", base.as_path())]).failure(3);
    assert!(message.contains("error[E0206]"), "{message}");
}

/// In a name space of its own a test may have a disk of its own; where the system forbids that, there is none to fill.
#[test]
fn a_full_disk_and_a_read_only_one_are_told() {
    let (folder, stories) = (folder(), fixture("stories"));
    let on = |options: &str, line: &str| {
        let script = format!(
            "d=$1; mount -t tmpfs -o {options} none $d || exit 99; shift; \"$@\"; s=$?; ls $d; exit $s"
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        command.arg(folder.path()).arg(env!("CARGO_BIN_EXE_llamac"));
        let paths = [("stories", stories.as_path()), ("disk", folder.path())];
        command.args(arguments(line, &paths).get_args()).env("TMPDIR", folder.path());
        let done = support::run(&mut command, "");
        (done.status != Some(99) && !done.stderr.starts_with("unshare")).then_some(done)
    };
    let message = |options: &str, line: &str, status| {
        on(options, line).map(|done| redacted(&done.failure(status), folder.path()))
    };
    if on("size=1m", "--version").is_none() {
        return;
    }
    assert_snapshot!(message("size=1m", "compile {stories} -o {disk}/out", 5).expect("a disk"), @"
    error[E0011]: no space left on the device
      --> folder/out
       help: free some space, or write to another disk
    ");
    assert_snapshot!(message("size=1m", "run {stories} -p Once", 5).expect("a disk"), @"
    error[E0011]: no space left on the device
      --> folder
       help: free some space, or choose another folder for temporary files with TMPDIR
    ");
    assert_snapshot!(message("ro", "compile {stories} -o {disk}/out", 1).expect("a disk"), @"
    error[E0010]: a file operation failed
      --> folder/out
       the folder `folder` cannot be written to: read-only filesystem or storage medium
       help: choose another folder
    ");
    assert_snapshot!(message("ro", "run {stories} -p Once", 1).expect("a disk"), @"
    error[E0010]: a file operation failed
      --> folder
       it cannot be written to: read-only file system
       help: choose another folder for temporary files with TMPDIR
    ");
}

#[test]
fn a_compiled_model_is_no_checkpoint() {
    let (folder, tiny) = (folder(), fixture("tiny/gqa-f32"));
    let paths = [("tiny", tiny.as_path()), ("out", folder.path())];
    llamac("compile {tiny} -o {out}/a.llamac", &paths).success();
    let message = llamac("compile {out}/a.llamac -o {out}/b.llamac", &paths).failure(2);
    assert_snapshot!(redacted(&message, folder.path()), @"
    error[E0001]: invalid argument
      --> folder/a.llamac
       expected a checkpoint's directory
       found    a compiled model
       help: run it: llamac run folder/a.llamac -p TEXT
    ");
    assert_eq!(names(folder.path()), ["a.llamac"]);
}

#[test]
fn an_interrupted_compilation_leaves_nothing_or_all() {
    let (folder, stories) = (folder(), fixture("stories"));
    let paths = [("stories", stories.as_path()), ("folder", folder.path())];
    let mut interrupted = 0;
    for delay in 0..30 {
        let mut command = interruptible("compile {stories} -o {folder}/out -q", &paths);
        let mut child = command.stdout(Stdio::null()).spawn().expect("the command starts");
        std::thread::sleep(Duration::from_millis(delay));
        let interrupt =
            Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
        interrupt.expect("kill runs");
        // A shell reports death by signal 2 as 130.
        let status = child.wait().expect("it ends");
        assert!(status.success() || status.signal() == Some(2), "{status}");
        interrupted += usize::from(!status.success());
        match &names(folder.path())[..] {
            [] => assert!(!status.success()),
            [out] => {
                assert_eq!(out, "out");
                llamac("inspect {folder}/out", &paths).quiet();
                std::fs::remove_file(folder.path().join("out")).expect("it is there");
            }
            more => panic!("{more:?}"),
        }
    }
    assert!(interrupted > 0);
}

#[test]
fn what_the_model_will_not_do_is_warned_about() {
    let folder = folder();
    copy("stories", folder.path());
    let warnings = |options: &str| {
        let done = llamac(&format!("compile {{f}} -o {{f}}/out {options}"), &[("f", folder.path())]);
        let warnings = done.stderr.lines().filter(|line| line.starts_with("warning"));
        redacted(&warnings.collect::<Vec<_>>().join("\n"), folder.path())
    };
    assert_eq!(warnings("--max-context 512"), "");
    assert_snapshot!(warnings("--max-context 1000"), @"warning: --max-context 1000 is beyond the model's own context of 512 tokens, which stays");
    let tokenizer = folder.path().join("tokenizer.json");
    let bytes = std::fs::read(&tokenizer).expect("a file");
    std::fs::write(&tokenizer, &bytes[..bytes.len() / 2]).expect("writes");
    let cut = warnings("");
    assert!(
        cut.contains("tokenizer.json: invalid tokenizer: ") && cut.ends_with("will refuse the model"),
        "{cut}"
    );
    std::fs::remove_file(&tokenizer).expect("a file");
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"bos_token": 5"#).expect("writes");
    let broken = warnings("");
    assert!(
        broken.contains("tokenizer_config.json: invalid tokenizer: ")
            && broken.ends_with("will refuse the model"),
        "{broken}"
    );
}

#[test]
fn a_dump_has_a_folder_of_its_own() {
    let folder = folder();
    let dump = folder.path().join("dump");
    std::fs::create_dir(folder.path().join("ckpt")).expect("a folder");
    copy("tiny/gqa-f32", &folder.path().join("ckpt"));
    let before = names(&folder.path().join("ckpt"));
    let paths = [("f", folder.path())];
    llamac("compile {f}/ckpt --dump-ir {f}/dump", &paths).quiet();
    assert!(names(&dump).contains(&"01-canonicalize.diff".to_owned()), "{:?}", names(&dump));
    llamac("compile {f}/ckpt --dump-ir {f}/dump --stop-after input", &paths).success();
    assert_eq!(names(&dump), ["00-input.ir"]);
    let message = |line: &str| redacted(&llamac(line, &paths).failure(2), folder.path());
    assert_snapshot!(message("compile {f}/ckpt --dump-ir {f}/ckpt"), @"
    error[E0001]: invalid argument
      --> --dump-ir folder/ckpt
       the folder holds golden.json, which is not of a dump
       help: give the dump a folder of its own
    ");
    assert_snapshot!(message("compile {f}/ckpt --dump-ir {f}/dump/00-input.ir"), @"
    error[E0001]: invalid argument
      --> --dump-ir folder/dump/00-input.ir
       this is no folder, and a dump is one
       help: give the dump a folder of its own
    ");
    assert_eq!(names(&folder.path().join("ckpt")), before);
}
