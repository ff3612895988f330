//! `llamac compile --target onnx…`: a directory, whole or not at all, with the files that loaders look for.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use insta::assert_snapshot;
use support::{copy, fixture, folder, interruptible, llamac, names};

/// The content of a file.
fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn an_export_has_the_same_bytes_every_time() {
    let (folder, stories) = (folder(), fixture("stories"));
    let paths = [("stories", stories.as_path()), ("folder", folder.path())];
    for target in ["onnx", "onnx-std", "onnx-ort"] {
        let line = format!("compile {{stories}} --target {target} -o {{folder}}/");
        let done = llamac(&format!("{line}a --threads 1"), &paths);
        assert_eq!((done.status, done.stdout.as_str()), (Some(0), ""), "{}", done.stderr);
        let summary =
            done.stderr.strip_prefix(&format!("{}/a: ", folder.path().display())).expect("a summary");
        assert!(summary.contains("MiB, ") && summary.contains(" nodes, exported in "), "{summary}");
        assert_eq!(llamac(&format!("-q {line}b --threads 2"), &paths).quiet(), "");
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        let files = names(&a);
        assert_eq!(files, names(&b));
        for file in &files {
            assert!(read(&a, file) == read(&b, file), "{target}: {file} differs");
        }
        let model = String::from_utf8_lossy(&read(&a, "model.onnx")).into_owned();
        assert!(model.contains(target) && model.contains("/model/layers.3/self_attn/qkv_proj/MatMul"));
        let fixtures = stories.parent().and_then(Path::to_str).expect("a path");
        assert!(!model.contains(fixtures), "the model tells where it was made");
    }
    assert_eq!(names(folder.path()), ["a", "b"]);
}

#[test]
fn layouts_have_the_files_that_loaders_look_for() {
    let (folder, stories) = (folder(), fixture("stories"));
    let paths = [("stories", stories.as_path()), ("folder", folder.path())];
    let files = |options: &str| {
        // Each replaces the one before it.
        let target = if options.contains("--target") { "" } else { "--target onnx" };
        llamac(&format!("-q compile {{stories}} {target} -o {{folder}}/out {options}"), &paths).quiet();
        names(&folder.path().join("out"))
    };
    let config = || read(&folder.path().join("out"), "config.json");
    let tokenizer = ["special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"];
    let flat =
        ["config.json", "generation_config.json", "genai_config.json", "model.onnx", "model.onnx.data"];
    let sorted = |parts: &[&[&str]]| {
        let mut all: Vec<String> = parts.concat().into_iter().map(str::to_owned).collect();
        all.sort();
        all
    };
    assert_eq!(files(""), sorted(&[&flat, &tokenizer]));
    assert_eq!(config(), read(&stories, "config.json"));
    assert_eq!(read(&folder.path().join("out"), "tokenizer.model"), read(&stories, "tokenizer.model"));
    assert_eq!(files("--layout genai"), sorted(&[&flat[2..], &tokenizer]));
    assert_eq!(files("--layout transformers.js"), sorted(&[&flat[..2], &["onnx"], &tokenizer]));
    assert_eq!(names(&folder.path().join("out/onnx")), ["model.onnx", "model.onnx_data"]);
    let js = |dtype: &str| format!(r#"{{"dtype":"{dtype}","use_external_data_format":true}}"#);
    assert!(String::from_utf8_lossy(&config()).contains(&js("fp32")));
    assert_eq!(
        files("--layout transformers.js --target onnx-ort --weights q4"),
        sorted(&[&flat[..2], &["onnx"], &tokenizer])
    );
    assert_eq!(names(&folder.path().join("out/onnx")), ["model_q4.onnx", "model_q4.onnx_data"]);
    assert!(String::from_utf8_lossy(&config()).contains(&js("q4")));
    // Nobody but onnxruntime-genai needs what only decoders have.
    assert_eq!(files("--head base"), sorted(&[&flat[..2], &flat[3..], &tokenizer]));
    assert!(String::from_utf8_lossy(&config()).contains(r#""architectures": ["LlamaModel"]"#));
    assert_eq!(files("--logits keep"), sorted(&[&flat[..2], &flat[3..], &tokenizer]));
}

#[test]
fn a_tokenizer_model_gets_a_tokenizer_json() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let paths = [("folder", folder.path())];
    let lines = "-q compile {folder}/ckpt --target onnx -o {folder}/out";
    std::fs::create_dir(at("ckpt")).expect("a folder");
    copy("stories", &at("ckpt"));
    std::fs::remove_file(at("ckpt/tokenizer.json")).expect("a file");
    for layout in ["flat", "genai", "transformers.js"] {
        llamac(&format!("{lines} --layout {layout}"), &paths).quiet();
        let files = names(&at("out"));
        for file in ["tokenizer.json", "tokenizer_config.json", "tokenizer.model"] {
            assert!(files.contains(&file.to_owned()), "{layout}: {files:?}");
        }
    }
    assert_eq!(read(&at("out"), "tokenizer.model"), read(&at("ckpt"), "tokenizer.model"));
    assert_eq!(read(&at("out"), "tokenizer_config.json"), read(&at("ckpt"), "tokenizer_config.json"));
    // The export reads its tokenizer.json, the checkpoint its SentencePiece model, the fixture the file of its library.
    let stories = fixture("stories");
    let text = std::fs::read_to_string(stories.join("heldout.txt")).expect("a text");
    let texts =
        [text.lines().next().expect("a line"), "", "  two  spaces", "naïve 日本語 🦙", "tab\tand\nline"];
    for text in texts {
        let ids = |model: &Path| {
            let mut command = support::command();
            support::run(command.args(["tokenize", "--json"]).arg(model).args(["--", text]), "").quiet()
        };
        let found = ids(&at("out"));
        assert_eq!(found, ids(&at("ckpt")), "{text:?}");
        assert_eq!(found, ids(&stories), "{text:?}");
    }
    std::fs::copy(fixture("vocabularies/suffix/tokenizer.model"), at("ckpt/tokenizer.model"))
        .expect("a copy");
    let message = llamac("compile {folder}/ckpt --target onnx -o {folder}/other", &paths).failure(4);
    assert!(message.contains("spaces stand behind words"), "{message}");
    assert_eq!(names(folder.path()), ["ckpt", "out"]);
}

/// It has the name of a SentencePiece model, as which nobody shall read it.
#[test]
fn the_tokenizer_of_llama_3_gets_another_name() {
    let folder = folder();
    support::zeros(folder.path(), 1157);
    let vocabulary = fixture("vocabularies/llama3");
    std::fs::copy(vocabulary.join("tokenizer.model"), folder.path().join("tokenizer.model")).expect("a copy");
    let paths = [("folder", folder.path())];
    llamac("-q compile {folder} --target onnx -o {folder}/out", &paths).quiet();
    let out = folder.path().join("out");
    let files = names(&out);
    assert!(files.iter().any(|name| name == "tokenizer_config.json"), "{files:?}");
    assert!(!files.iter().any(|name| name == "tokenizer.model"), "{files:?}");
    let ids = |model: &Path| {
        let line = "tokenize {model} --json -- <|begin_of_text|>An_elephant,_naïve_日本語_1234";
        llamac(line, &[("model", model)]).quiet()
    };
    assert_eq!(ids(&out), ids(&vocabulary));
}

#[test]
fn weights_are_used_where_they_are() {
    let folder = folder();
    copy("tiny/gqa-f32", folder.path());
    let paths = [("folder", folder.path())];
    let (before, weights) = (names(folder.path()), read(folder.path(), "model.safetensors"));
    for target in ["onnx", "onnx-std", "onnx-ort"] {
        let line = format!("-q compile {{folder}} --target {target} -o {{folder}} --external-data reference");
        assert_eq!(llamac(&line, &paths).quiet(), "");
        let model = read(folder.path(), "model.onnx");
        assert!(model.len() < 40_000 && String::from_utf8_lossy(&model).contains("model.safetensors"));
    }
    let mut after = before.clone();
    after.extend(["genai_config.json", "model.onnx"].map(str::to_owned));
    after.sort();
    assert_eq!(names(folder.path()), after);
    assert_eq!(read(folder.path(), "model.safetensors"), weights);
    // It is still a checkpoint.
    llamac("-q compile {folder} --emit ir", &paths).quiet();
}

#[test]
fn the_configuration_of_genai_in_a_checkpoint_is_replaced_only_if_it_is_ours() {
    let folder = folder();
    copy("tiny/gqa-f32", folder.path());
    let path = folder.path().join("genai_config.json");
    let paths = [("folder", folder.path())];
    let export = |options: &str| {
        let line =
            format!("compile {{folder}} --target onnx -o {{folder}} --external-data reference {options}");
        let done = llamac(&line, &paths);
        assert_eq!(done.status, Some(0), "{}", done.stderr);
        done.stderr
    };
    let stays = "is not as llamac wrote it: it stays";
    for foreign in [r#"{"mine":1}"#, "no JSON"] {
        std::fs::write(&path, foreign).expect("writes");
        // A model of llamac's is there the second time.
        for _ in 0..2 {
            assert!(export("").contains(stays));
            assert_eq!(read(folder.path(), "genai_config.json"), foreign.as_bytes());
        }
        assert!(export("--head base").contains(stays));
        assert_eq!(read(folder.path(), "genai_config.json"), foreign.as_bytes());
    }
    std::fs::remove_file(&path).expect("it is there");
    assert!(!export("").contains(stays));
    let ours = read(folder.path(), "genai_config.json");
    assert!(!export("--max-context 20").contains(stays));
    assert!(read(folder.path(), "genai_config.json") != ours, "it follows the options");
    // It does not go with a model that has no logits.
    assert!(!export("--head base").contains(stays));
    assert!(!path.exists());
    assert!(!export("").contains(stays));
    assert_eq!(read(folder.path(), "genai_config.json"), ours);
    let changed = String::from_utf8_lossy(&ours).replace("llama", "phi");
    std::fs::write(&path, &changed).expect("writes");
    assert!(export("--max-context 20").contains(stays));
    assert_eq!(read(folder.path(), "genai_config.json"), changed.as_bytes());
}

#[test]
fn a_hard_link_is_told() {
    let (folder, other) = (folder(), folder());
    copy("tiny/gqa-f32", folder.path());
    let weights = folder.path().join("model.safetensors");
    std::fs::hard_link(&weights, other.path().join("link")).expect("a link");
    let line = "compile {folder} --target onnx -o {folder} --external-data reference";
    let done = llamac(line, &[("folder", folder.path())]);
    assert_eq!(done.status, Some(0));
    assert!(done.stderr.contains("model.safetensors is a hard link"), "{}", done.stderr);
}

#[test]
fn padding_that_a_classifier_cannot_tell_is_told() {
    let (folder, tiny) = (folder(), fixture("tiny"));
    let told = |name: &str, options: &str| {
        let line = format!("compile {{tiny}}/{name} --target onnx -o {{folder}}/out {options}");
        let done = llamac(&line, &[("tiny", tiny.as_path()), ("folder", folder.path())]);
        assert_eq!(done.status, Some(0), "{}", done.stderr);
        done.stderr.contains("classifies by the last position of each row")
    };
    assert!(told("seqcls-no-pad", ""));
    assert!(told("seqcls-pad", "--inputs embeds"));
    assert!(!told("seqcls-pad", "") && !told("tokcls-no-bias", "") && !told("mlp-bias", "--inputs embeds"));
}

#[test]
fn logits_are_a_choice_of_language_models_alone() {
    let (folder, tiny) = (folder(), fixture("tiny"));
    let paths = [("tiny", tiny.as_path()), ("folder", folder.path())];
    for (options, head) in [
        ("seqcls-pad --logits last", "sequence-classification"),
        ("gqa-f32 --head base --logits all", "base"),
    ] {
        let message = llamac(&format!("compile --target onnx -o {{folder}}/out {{tiny}}/{options}"), &paths);
        let message = message.failure(2);
        assert!(message.contains("--logits") && message.contains(&format!("the head {head}")), "{message}");
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn every_layout_can_be_inspected() {
    let (folder, stories) = (folder(), fixture("stories"));
    let paths = [("stories", stories.as_path()), ("folder", folder.path())];
    for (weights, name) in [("f16", "model_fp16"), ("q8", "model_quantized"), ("q4", "model_q4")] {
        let target = if weights == "f16" { "onnx" } else { "onnx-ort" };
        let line = format!("-q compile {{stories}} --target {target} --weights {weights} -o {{folder}}/out");
        llamac(&format!("{line} --layout transformers.js"), &paths).quiet();
        let found = llamac("inspect {folder}/out", &paths).quiet();
        assert!(found.contains(&format!("{name}.onnx")), "{found}");
    }
}

#[test]
fn weights_are_copied_as_they_are() {
    let (folder, sharded) = (folder(), fixture("tiny/sharded-bf16"));
    let paths = [("sharded", sharded.as_path()), ("folder", folder.path())];
    llamac("-q compile {sharded} --target onnx -o {folder}/out --external-data copy", &paths).quiet();
    let out = folder.path().join("out");
    for name in names(&sharded).iter().filter(|name| name.starts_with("model")) {
        assert_eq!(read(&out, name), read(&sharded, name), "{name}");
    }
    llamac("-q compile {folder}/out --target onnx -o {folder}/out --external-data reference", &paths).quiet();
    assert!(!names(&out).contains(&"model.onnx.data".to_owned()));
}

#[test]
fn an_export_has_a_place_of_its_own() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    for name in ["ckpt", "links", "full"] {
        std::fs::create_dir(at(name)).expect("a folder");
    }
    copy("tiny/gqa-f32", &at("ckpt"));
    std::fs::copy(at("ckpt/config.json"), at("links/config.json")).expect("a copy");
    std::os::unix::fs::symlink("../ckpt/model.safetensors", at("links/model.safetensors")).expect("a link");
    std::fs::write(at("full/notes.txt"), "precious").expect("writes");
    std::fs::write(at("file"), "precious").expect("writes");
    let before = names(folder.path());
    let paths = [("folder", folder.path())];
    let message = |line: &str| {
        let message = llamac(&format!("compile --target onnx {line}"), &paths);
        support::redact(&message.stderr, &[("DIR", folder.path())])
    };
    assert_snapshot!(message("{folder}/ckpt -o {folder}/full"), @"
    error[E0001]: invalid argument
      --> DIR/full
       the folder is not empty, and DIR/full/notes.txt is not of an export: it is not replaced
       help: give the output a folder of its own

    To learn more: llamac explain E0001
    ");
    assert_snapshot!(message("{folder}/ckpt -o {folder}/ckpt"), @"
    error[E0001]: invalid argument
      --> DIR/ckpt
       this is the checkpoint itself
       help: give the output a folder of its own, or use the weights here with --external-data reference

    To learn more: llamac explain E0001
    ");
    assert_snapshot!(message("{folder}/ckpt -o {folder}/file"), @"
    error[E0010]: a file operation failed
      --> DIR/file
       this is no folder, and the output is one
       help: give the output a folder of its own

    To learn more: llamac explain E0010
    ");
    assert_snapshot!(message("{folder}/ckpt -o {folder}/none/out"), @"
    error[E0010]: a file operation failed
      --> DIR/none/out
       the folder `DIR/none` does not exist
       help: mkdir -p DIR/none

    To learn more: llamac explain E0010
    ");
    assert_snapshot!(message("{folder}/ckpt -o {folder}/none/.."), @"
    error[E0010]: a file operation failed
      --> DIR/none/..
       this is no name for a folder
       help: give the output a folder of its own

    To learn more: llamac explain E0010
    ");
    assert_snapshot!(message("{folder}/ckpt -o {folder}/other --external-data reference"), @"
    error[E0001]: invalid argument
      --> --external-data reference
       the output has to be the checkpoint's own directory, DIR/ckpt
       help: use --external-data copy, or file

    To learn more: llamac explain E0001
    ");
    assert_snapshot!(message("{folder}/links -o {folder}/links --external-data reference"), @"
    error[E0001]: invalid argument
      --> --external-data reference
       DIR/links/model.safetensors is a link, which runtimes do not follow
       help: use --external-data copy, or file

    To learn more: llamac explain E0001
    ");
    assert_snapshot!(message("{folder}/ckpt -o {folder}/out --external-data copy --layout transformers.js"), @"
    error[E0001]: invalid argument
      --> --external-data copy
       transformers.js has the model in a folder of its own, away from the files of the checkpoint
       help: use --layout flat, or --external-data file

    To learn more: llamac explain E0001
    ");
    assert_snapshot!(message("{folder}/ckpt -o {folder}/out --layout genai --head base"), @"
    error[E0001]: invalid argument
      --> --layout genai
       onnxruntime-genai runs causal language models with a cache, and feeds no other inputs than theirs
       found    a model of input_ids, attention_mask, …
       help: use --layout flat

    To learn more: llamac explain E0001
    ");
    assert_snapshot!(message("{folder}/ckpt -o {folder}/out --kv f16"), @"
    error[E0001]: invalid argument
      --> --kv
       expected f32 in ONNX output
       help: leave it out

    To learn more: llamac explain E0001
    ");
    assert_eq!(names(folder.path()), before);
    assert_eq!(names(&at("full")), ["notes.txt"]);
    std::fs::write(at("ckpt/model.onnx"), "somebody else's").expect("writes");
    assert_snapshot!(message("{folder}/ckpt -o {folder}/ckpt --external-data reference"), @"
    error[E0001]: invalid argument
      --> --external-data reference
       DIR/ckpt/model.onnx was not made by llamac: it is not replaced
       help: move it away, or use --external-data copy with another folder

    To learn more: llamac explain E0001
    ");
    assert_eq!(read(&at("ckpt"), "model.onnx"), b"somebody else's");
}

#[test]
fn weights_that_cannot_be_used_are_named() {
    let folder = folder();
    copy("stories", folder.path());
    let line = "compile {folder} --target onnx -o {folder} --external-data reference --weights f32";
    let message = llamac(line, &[("folder", folder.path())]).failure(2);
    assert_snapshot!(message.trim_end(), @"
    error[E0001]: invalid argument
      --> --external-data reference
       the checkpoint does not store as the graph takes it: @lm_head.weight
       expected f32
       found    bf16
       help: keep the checkpoint's dtype with --weights as-is, or write weights with --external-data file
    ");
    assert!(!names(folder.path()).contains(&"model.onnx".to_owned()));
}

#[test]
fn options_of_onnx_are_for_onnx() {
    let tiny = fixture("tiny/gqa-f32");
    let line =
        "compile {tiny} --emit ir --layout flat --external-data file --logits last --inputs ids --no-cache";
    let message = llamac(line, &[("tiny", tiny.as_path())]).failure(2);
    assert_eq!(message.matches("the option is for ONNX output").count(), 5, "{message}");
}

#[test]
fn graphs_of_every_target_are_shown() {
    let (folder, tiny) = (folder(), fixture("tiny/gqa-f32"));
    let paths = [("tiny", tiny.as_path()), ("folder", folder.path())];
    for (target, mark) in
        [("onnx", "softmax"), ("onnx-std", "append_attention"), ("onnx-ort", "group_query_attention")]
    {
        let show = |options: &str| llamac(&format!("compile {{tiny}} --target {target} {options}"), &paths);
        assert!(show("--emit ir").quiet().contains(mark));
        let input = show("--print-after input --stop-after input").quiet();
        assert!(input.contains("attention ") && !input.contains(mark), "{input}");
        let line = format!("--emit dot={{folder}}/{target}.dot,svg={{folder}}/{target}.svg");
        assert_eq!(show(&line).quiet(), "");
        assert!(show("--remarks").stderr.contains("FuseQkv applied 2 times"));
    }
    assert_eq!(names(folder.path()).len(), 6);
}

/// Whether the disk is full or files may not grow is the same to who writes.
#[test]
fn an_export_for_which_there_is_no_room_leaves_nothing() {
    let (folder, stories) = (folder(), fixture("stories"));
    let paths = [("stories", stories.as_path()), ("folder", folder.path())];
    let mut room = Vec::new();
    for kibibytes in [0, 20, 100, 1000, 4000, 100_000] {
        let line = "compile {stories} --target onnx -o {folder}/out";
        let command = support::arguments(line, &paths);
        // Beyond the limit the system sends a signal, which kills whoever does not ignore it.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", kibibytes * 2);
        let mut limited = Command::new("sh");
        limited.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
        let done = support::run(&mut limited, "");
        if done.status == Some(0) {
            room.push(kibibytes);
            assert_eq!(names(folder.path()), ["out"]);
        } else {
            let message = done.failure(5);
            assert!(message.contains("/out") && message.contains("help: "), "{kibibytes}: {message}");
            assert!(names(folder.path()).is_empty(), "{kibibytes}: {:?}", names(folder.path()));
        }
    }
    assert_eq!(room, [100_000]);
}

#[test]
fn an_interrupted_export_leaves_nothing_or_all() {
    let (folder, stories) = (folder(), fixture("stories"));
    let paths = [("stories", stories.as_path()), ("folder", folder.path())];
    let whole = ["config.json", "model.onnx", "model.onnx.data", "tokenizer.json"];
    let mut interrupted = 0;
    for delay in (0..60).step_by(2) {
        let mut command = interruptible("compile {stories} --target onnx -o {folder}/out -q", &paths);
        let mut child = command.stdout(Stdio::null()).spawn().expect("the command starts");
        std::thread::sleep(Duration::from_millis(delay));
        let interrupt =
            Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
        interrupt.expect("kill runs");
        let status = child.wait().expect("it ends");
        assert!(status.success() || status.signal() == Some(2), "{status}");
        interrupted += usize::from(!status.success());
        let left = names(folder.path());
        if left.contains(&"out".to_owned()) {
            let files = names(&folder.path().join("out"));
            assert!(whole.iter().all(|name| files.iter().any(|file| file == name)), "{files:?}");
            std::fs::remove_dir_all(folder.path().join("out")).expect("it is there");
        } else {
            assert!(!status.success());
        }
    }
    assert!(interrupted > 0);
    // What was left in the moment in which files get their names is gone with the next output.
    llamac("compile {stories} --target onnx -o {folder}/out -q", &paths).quiet();
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn blocks_cannot_be_used_where_they_are() {
    let (folder, model) = (folder(), fixture("gguf/mixed/model.gguf"));
    let paths = [("model", model.as_path()), ("out", folder.path())];
    for external in ["reference", "copy"] {
        let line =
            format!("compile {{model}} --target onnx -o {{out}}/{external} --external-data {external}");
        let message = llamac(&line, &paths).failure(2);
        assert_eq!(
            message,
            format!(
                "error[E0001]: invalid argument\n  --> --external-data {external}\n   \
                 the files have matrices quantized, or in another order than the graph takes them\n   \
                 help: use --external-data file\n"
            )
        );
    }
    assert!(names(folder.path()).is_empty());
}
