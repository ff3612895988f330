//! Outputs when things go wrong: a process that is killed, a disk that is full, a reader whose file is replaced.
//! Whatever happens, the name stands for the old file or for the whole new one, and nothing else is there.
//!
//! A process that is killed or limited is this test program itself, started again for [`child`] alone.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use llamac_compiler::diagnostic::{Code, Diagnostics};
use llamac_compiler::driver::{self, CompileOptions, ConvertOptions, Silent};
use llamac_compiler::hugging_face;
use llamac_compiler::output::{Folder, Output};
use llamac_compiler::source::Checkpoint;
use llamac_runtime::{Engine, EngineOptions, Feed, Keep, Model, OpenOptions, Session, SessionOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// What the child does: `compile`, `convert`, `limit` or `fill`.
const WORK: &str = "LLAMAC_TEST_WORK";
/// The checkpoint that it compiles.
const CHECKPOINT: &str = "LLAMAC_TEST_CHECKPOINT";
/// The folder that it works in.
const FOLDER: &str = "LLAMAC_TEST_FOLDER";

/// Set where a test that cannot run has failed.
const NO_SKIPS: &str = "LLAMAC_TEST_NO_SKIPS";

/// The name of the output.
const OUT: &str = "out.llamac";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny").join(name)
}

fn compile(checkpoint: &Path, folder: &Path) -> Result<(), Diagnostics> {
    let checkpoint = Checkpoint::open(checkpoint, None)?;
    let output = Output::create(&folder.join(OUT))?;
    let options = CompileOptions { threads: 2, ..CompileOptions::default() };
    driver::compile(&checkpoint, &options, &output, &Silent)?;
    Ok(output.publish()?)
}

fn convert(checkpoint: &Path, output: &Path) -> Result<(), Diagnostics> {
    let mut folder = Folder::create(output, hugging_face::guard)?;
    let options = ConvertOptions { max_shard_size: 1 << 20, threads: 2 };
    driver::convert(Checkpoint::open(checkpoint, None)?, options, &mut folder, &Silent)?;
    Ok(folder.publish()?)
}

/// What is in a folder, by name.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut content: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    content.sort();
    content
}

/// This program, to be started for [`child`] alone, after `before`, a command that starts its arguments.
fn again(before: &[&str], work: &str, checkpoint: &Path, folder: &Path) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut words = before.iter().map(AsRef::as_ref).chain([this.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["--ignored", "--exact", "child"]);
    command.env(WORK, work).env(CHECKPOINT, checkpoint).env(FOLDER, folder);
    command.stdout(Stdio::null()).stderr(Stdio::inherit());
    command
}

#[test]
#[ignore = "a part of the other tests, which start it as a process of its own"]
fn child() {
    let Ok(work) = std::env::var(WORK) else { return };
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let (checkpoint, folder) = (path(CHECKPOINT), path(FOLDER));
    match work.as_str() {
        "compile" => compile(&checkpoint, &folder).unwrap_or_else(|e| panic!("{e}")),
        "convert" => convert(&checkpoint, &folder).unwrap_or_else(|e| panic!("{e}")),
        "limit" => limit(&checkpoint, &folder),
        "fill" => fill(&checkpoint, &folder),
        other => panic!("{other}"),
    }
}

/// A checkpoint of some megabytes, whose compilation takes long enough to be interrupted in all its parts.
fn larger_checkpoint() -> tempfile::TempDir {
    let (hidden, inter, vocab, layers) = (256, 704, 4096, 6);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        r#"{{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": {hidden},
        "intermediate_size": {inter}, "vocab_size": {vocab}, "num_hidden_layers": {layers}, "num_attention_heads": 8}}"#
    );
    fs::write(folder.path().join("config.json"), config).unwrap();
    let square = |name: &str| (format!("self_attn.{name}_proj"), vec![hidden, hidden]);
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
    for n in 0..layers {
        let norms = ["input_layernorm", "post_attention_layernorm"].map(|n| (n.to_owned(), vec![hidden]));
        let wide = ["gate", "up"].map(|n| (format!("mlp.{n}_proj"), vec![inter, hidden]));
        let down = ("mlp.down_proj".to_owned(), vec![hidden, inter]);
        let all = ["q", "k", "v", "o"].map(square).into_iter().chain(norms).chain(wide).chain([down]);
        shapes.extend(all.map(|(name, shape)| (format!("model.layers.{n}.{name}.weight"), shape)));
    }
    shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
    shapes.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
    let data: Vec<u8> = (0..vocab * hidden * 2).map(|i| (i % 61) as u8).collect();
    let views = shapes.into_iter().map(|(name, shape)| {
        let bytes = shape.iter().product::<usize>() * 2;
        (name, TensorView::new(Dtype::BF16, shape, &data[..bytes]).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

#[test]
fn a_killed_compilation_leaves_the_old_file_or_the_whole_new_one() {
    const KILLS: u32 = 200;
    let checkpoint = larger_checkpoint();
    let reference = tempfile::tempdir().unwrap();
    let compiled = || {
        let start = Instant::now();
        assert!(again(&[], "compile", checkpoint.path(), reference.path()).status().unwrap().success());
        start.elapsed()
    };
    let mut durations = [(); 3].map(|()| compiled());
    durations.sort();
    let duration = durations[1];
    let new = content(reference.path());
    let old = [(OUT.to_owned(), b"old".to_vec())];
    let (mut before, mut after) = (0, 0);
    for i in 0..KILLS {
        let folder = tempfile::tempdir().unwrap();
        // Half of them over an older file, half where there is none.
        let first = if i % 2 == 0 { &old[..] } else { &[] };
        first.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
        let mut child = again(&[], "compile", checkpoint.path(), folder.path()).spawn().unwrap();
        // Spread evenly, from before the work has begun until after it has ended; the steps are no multiple of others.
        std::thread::sleep(duration.mul_f64(1.4 * f64::from(i * 73 % KILLS) / f64::from(KILLS)));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = content(folder.path());
        before += u32::from(found == first);
        after += u32::from(found == new);
        assert!(
            found == first || found == new,
            "{:?}",
            found.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
    }
    assert!(
        before >= KILLS / 10 && after >= 1,
        "{before} before, {after} after: the times were badly chosen"
    );
}

/// Of several files there is a moment in which a kill leaves a temporary folder; the next conversion removes it.
#[test]
fn a_killed_conversion_leaves_no_folder_or_the_whole_one() {
    const KILLS: u32 = 100;
    let checkpoint = larger_checkpoint();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let start = Instant::now();
    assert!(again(&[], "convert", checkpoint.path(), &out).status().unwrap().success());
    let duration = start.elapsed();
    let new = content(&out);
    assert!(new.len() > 10, "{} files", new.len());
    let (mut before, mut after) = (0, 0);
    for i in 0..KILLS {
        let _ = fs::remove_dir_all(&out);
        let mut child = again(&[], "convert", checkpoint.path(), &out).spawn().unwrap();
        std::thread::sleep(duration.mul_f64(1.4 * f64::from(i * 37 % KILLS) / f64::from(KILLS)));
        child.kill().unwrap();
        child.wait().unwrap();
        if out.exists() {
            assert!(content(&out) == new, "{:?}", fs::read_dir(&out).unwrap().count());
            after += 1;
        } else {
            before += 1;
        }
    }
    assert!(
        before >= KILLS / 10 && after >= 1,
        "{before} before, {after} after: the times were badly chosen"
    );
    let _ = fs::remove_dir_all(&out);
    assert!(again(&[], "convert", checkpoint.path(), &out).status().unwrap().success());
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "temporary folders are left");
}

/// Compiles over an old file with a limit on the size of files at every kibibyte.
fn limit(checkpoint: &Path, folder: &Path) {
    fs::write(folder.join(OUT), "old").unwrap();
    let old = content(folder);
    let maximum = getrlimit(Resource::Fsize).maximum;
    let mut failed = 0;
    for kibibytes in 0.. {
        let limit = Rlimit { current: Some(kibibytes << 10), maximum };
        setrlimit(Resource::Fsize, limit).unwrap();
        match compile(checkpoint, folder) {
            Ok(()) => break,
            Err(faults) => no_space(&faults, folder),
        }
        assert!(content(folder) == old, "at {kibibytes} KiB");
        failed += 1;
    }
    let size = fs::metadata(folder.join(OUT)).unwrap().len();
    assert_eq!(failed, size.div_ceil(1 << 10), "each position failed once");
}

/// Compiles over an old file with every number of free pages.
fn fill(checkpoint: &Path, folder: &Path) {
    const PAGE: usize = 4096;
    fs::write(folder.join(OUT), "old").unwrap();
    let mut failed = 0;
    for free in 0.. {
        // Everything is taken, and some pages are given back.
        let mut ballast = fs::File::create(folder.join("ballast")).unwrap();
        while ballast.write_all(&[1; PAGE]).is_ok() {}
        let taken = ballast.metadata().unwrap().len() / PAGE as u64;
        ballast.set_len((taken - free) * PAGE as u64).unwrap();
        let old = content(folder);
        match compile(checkpoint, folder) {
            Ok(()) => break,
            Err(faults) => no_space(&faults, folder),
        }
        assert!(content(folder) == old, "with {free} pages");
        failed += 1;
    }
    let size = fs::metadata(folder.join(OUT)).unwrap().len() as usize;
    assert!(failed >= size / PAGE, "{failed} of {} pages failed", size / PAGE);
    fs::remove_file(folder.join("ballast")).unwrap();
    assert_eq!(content(folder).len(), 1);
}

fn no_space(faults: &Diagnostics, folder: &Path) {
    let out = folder.join(OUT).display().to_string();
    let about = |code, at: Option<&str>| code == Code::NoSpace && at == Some(&out);
    assert!(
        faults.iter().all(|fault| about(fault.code, fault.at.as_deref()) && fault.help.is_some()),
        "{faults}"
    );
}

#[test]
fn a_limit_on_the_size_of_files_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    // Beyond the limit the system sends a signal, which kills whoever does not ignore it.
    let ignoring = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let mut child = again(&ignoring, "limit", &fixture("gqa-f32"), folder.path());
    assert!(child.status().unwrap().success());
    assert_eq!(content(folder.path()).len(), 1);
}

#[test]
#[allow(clippy::print_stdout, reason = "a test that cannot run says so")]
fn a_full_disk_leaves_the_old_file() {
    let mount = "mount -t tmpfs -o size=1m none \"$LLAMAC_TEST_FOLDER\"";
    let folder = tempfile::tempdir().unwrap();
    let mut probe = Command::new("unshare");
    probe.args(["-r", "-m", "sh", "-c", mount]).env(FOLDER, folder.path());
    if !probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        assert!(std::env::var_os(NO_SKIPS).is_none(), "no file system can be mounted here");
        println!("no file system can be mounted here: skipped");
        return;
    }
    let script = format!("{mount}; exec \"$@\"");
    let inside = ["unshare", "-r", "-m", "sh", "-c", &script, "sh"];
    assert!(again(&inside, "fill", &fixture("gqa-f32"), folder.path()).status().unwrap().success());
    assert!(content(folder.path()).is_empty(), "what was mounted is gone");
}

#[test]
fn an_open_model_goes_on_while_its_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join(OUT);
    let logits = |model: &std::sync::Arc<Model>| {
        let mut engine = Engine::new(model, EngineOptions { threads: 1, chunk: 8, compute: None }).unwrap();
        let mut session = Session::new(model, SessionOptions { capacity: 8, kv: None }).unwrap();
        engine.forward(&mut [Feed::ids(&mut session, &[1, 5, 9], Keep::All)]).unwrap().feed(0).to_vec()
    };
    let open = |verify| Model::open(&out, OpenOptions { verify, threads: 1 }).unwrap();
    compile(&fixture("gqa-f32"), folder.path()).unwrap();
    let expected = logits(&open(true));
    // None of its weights has been touched when the file is replaced: they are read from the old one afterwards.
    let model = open(false);
    compile(&fixture("mha-f32"), folder.path()).unwrap();
    assert_eq!(logits(&model), expected);
    let other = open(true);
    assert_ne!(logits(&other), expected);

    // A reader that opens while a writer replaces gets one of the two, whole.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                compile(&fixture("gqa-f32"), folder.path()).unwrap();
                compile(&fixture("mha-f32"), folder.path()).unwrap();
            }
        });
        let other = logits(&other);
        let start = Instant::now();
        let (mut one, mut two) = (0, 0);
        while start.elapsed() < Duration::from_secs(1)
            || ((one == 0 || two == 0) && start.elapsed().as_secs() < 60)
        {
            let found = logits(&open(true));
            assert!(found == expected || found == other);
            one += u32::from(found == expected);
            two += u32::from(found == other);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(one > 0 && two > 0, "{one} and {two}");
    });
}
