//! What a path holds that is no checkpoint: hints for a wrong folder, another format, or a half-finished download.

use std::path::{Path, PathBuf};

use llamac_ir::suggest::nearest;
use llamac_plan::diagnostic::{Code, Diagnostic};

use super::file::names;
use super::suggest;

/// The file that every checkpoint has.
pub(crate) const CONFIG: &str = "config.json";

/// The file of Meta's that has the sizes of the model.
pub(super) const PARAMS: &str = "params.json";

/// The file that holds all tensors, of safetensors.
pub(super) const SINGLE: &str = "model.safetensors";
/// The file that names the shards, of safetensors.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

const EXPECTED: &str = "a directory with config.json and model.safetensors, or with params.json and \
    consolidated.00.pth, or a GGUF file";

fn not_a_checkpoint(path: &Path) -> Diagnostic {
    Diagnostic::new(Code::NotACheckpoint).at(path.display().to_string()).expected(EXPECTED)
}

fn unsupported(path: &Path, what: &str, help: &str) -> Diagnostic {
    Diagnostic::new(Code::UnsupportedModel).at(path.display().to_string()).message(what).help(help)
}

/// Another format that these files are in.
fn other_format(path: &Path, names: &[String]) -> Option<Diagnostic> {
    let any = |test: &dyn Fn(&str) -> bool| names.iter().any(|name| test(name));
    if let Some(file) = names.iter().find(|name| name.ends_with(".gguf")) {
        let help = format!("give the file: {}", path.join(file).display());
        return Some(not_a_checkpoint(path).found("a directory with GGUF files").help(help));
    }
    if any(&|n| n.starts_with("consolidated.") && n.ends_with(".pth")) {
        let missing = Diagnostic::new(Code::MissingFile).at(path.join(PARAMS).display().to_string());
        return Some(
            missing.found("no such file").help("fetch params.json, too: it has the sizes of the model"),
        );
    }
    if any(&|n| n == "adapter_config.json") {
        let help = "give the model that the adapter was trained on, and the adapter with --lora";
        return Some(unsupported(path, "this is an adapter without its model", help));
    }
    if any(&|n| n.ends_with(".onnx")) {
        let help =
            "give the checkpoint that it was exported from; `llamac inspect` tells what an ONNX model holds";
        return Some(unsupported(path, "an ONNX model cannot be compiled", help));
    }
    None
}

/// Why `path`, which has no `config.json` in it, is not a checkpoint.
pub(super) fn no_config(path: &Path) -> Diagnostic {
    if !path.exists() {
        if path.is_symlink() {
            return not_a_checkpoint(path).found("a link that leads nowhere");
        }
        let fault = not_a_checkpoint(path).found("no such file or directory");
        return match (suggest::nearest_path(path), of_hub(path)) {
            (Some(near), _) => fault.help(format!("did you mean {}?", near.display())),
            (None, Some(name)) => fault
                .help(format!("llamac does not download: get it with `hf download {name} --local-dir DIR`")),
            (None, None) => fault,
        };
    }
    if path.is_file() {
        return no_directory(path);
    }
    if !path.is_dir() {
        return not_a_checkpoint(path).found("no directory");
    }
    let names = names(path);
    if let Some(help) = inside(path, &names) {
        return not_a_checkpoint(path).found("no config.json").help(help);
    }
    if let Some(fault) = other_format(path, &names) {
        return fault;
    }
    let fault = not_a_checkpoint(path).found(match names.is_empty() {
        true => "an empty directory",
        false => "no config.json",
    });
    let near = nearest(CONFIG, names.iter().map(String::as_str));
    match (near, path.parent().filter(|parent| parent.join(CONFIG).is_file())) {
        (Some(near), _) => fault.help(format!("should {near} be named {CONFIG}?")),
        (None, Some(parent)) => fault.help(format!("did you mean {}?", shown(parent))),
        (None, None) => fault,
    }
}

/// The name of a model of the hub that `path`, which is not there, seems to be: `owner/name`.
fn of_hub(path: &Path) -> Option<&str> {
    let (owner, name) = path.to_str()?.split_once('/')?;
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (plain(owner) && plain(name) && !name.ends_with(".llamac") && !Path::new(owner).exists())
        .then(|| path.to_str())?
}

/// Why the file at `path` is not a checkpoint.
fn no_directory(path: &Path) -> Diagnostic {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if let Some(fault) = other_format(path, std::slice::from_ref(&name)) {
        return fault;
    }
    let fault = not_a_checkpoint(path).found("a file");
    match path.parent().filter(|parent| parent.join(CONFIG).is_file()) {
        Some(parent) => fault.help(format!("give the directory {}", shown(parent))),
        None => fault,
    }
}

/// Which of the directories in `path` was probably meant: one with a `config.json`, also where the hub's cache keeps
/// them.
fn inside(path: &Path, entries: &[String]) -> Option<String> {
    let snapshots = names(&path.join("snapshots")).into_iter().map(|name| Path::new("snapshots").join(name));
    let candidates = entries.iter().map(PathBuf::from).chain(snapshots);
    let found: Vec<PathBuf> = candidates.filter(|inner| path.join(inner).join(CONFIG).is_file()).collect();
    match &found[..] {
        [] => None,
        [one] => Some(format!("did you mean {}?", path.join(one).display())),
        several => {
            const SHOWN: usize = 3;
            let first: Vec<String> = several.iter().take(SHOWN).map(|p| p.display().to_string()).collect();
            let more = several.len().saturating_sub(SHOWN);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            Some(format!("give one of the directories in it: {}{more}", first.join(", ")))
        }
    }
}

fn shown(directory: &Path) -> String {
    if directory.as_os_str().is_empty() { ".".to_owned() } else { directory.display().to_string() }
}

/// Why a directory with a `config.json` has no weights.
pub(super) fn no_weights(directory: &Path) -> Diagnostic {
    let names = names(directory);
    let missing = |file: &str| {
        Diagnostic::new(Code::MissingFile)
            .at(directory.join(file).display().to_string())
            .found("no such file")
    };
    let other: Vec<&String> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
    if let Some(shard) = names.iter().find(|n| n.starts_with("pytorch_model-") && n.ends_with(".bin")) {
        return missing("pytorch_model.bin.index.json")
            .help(format!("the shard {shard} is here, but not the index: fetch it too"));
    }
    if let Some(shard) = other.iter().find(|name| name.contains("-of-")) {
        return missing(INDEX).help(format!("the shard {shard} is here, but not the index: fetch it too"));
    }
    if let Some(other) = other.iter().find(|name| !name.starts_with("adapter_")) {
        return missing(SINGLE).help(format!("should {other} be named {SINGLE}?"));
    }
    if let Some(fault) = other_format(directory, &names) {
        return fault;
    }
    missing(SINGLE)
        .expected(format!("{SINGLE}, or {INDEX} and shards"))
        .help("the download may not be complete: fetch the weights too")
}
