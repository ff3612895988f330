//! Outputs never replace what they were made from.

use std::path::Path;

use llamac_compiler::diagnostic::{Code, Diagnostic};
use llamac_compiler::output::Output;

/// Files of a checkpoint's folder beside its weights.
const FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "params.json",
];

/// Endings of files with weights, and of their indices.
const WEIGHTS: [&str; 5] = [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth"];

/// Starts the output at `path` of work on `model`.
///
/// # Errors
/// When that is the model, or a file of its folder that belongs to it; when the output cannot be written.
pub fn create(path: &Path, model: &Path) -> Result<Output, Diagnostic> {
    let model = model.canonicalize().ok();
    let folder = std::path::absolute(path).ok().and_then(|path| path.parent()?.canonicalize().ok());
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let of_checkpoint = FILES.contains(&name)
        || (["model", "pytorch_model", "consolidated"].iter().any(|start| name.starts_with(start))
            && WEIGHTS.iter().any(|end| name.ends_with(end)));
    let inside = model.is_some() && folder == model && path.is_file() && of_checkpoint;
    let itself = path.is_file() && path.canonicalize().ok() == model;
    if inside || itself {
        let fault = Diagnostic::new(Code::BadArgument).at(path.display().to_string());
        let fault = fault.message("this file belongs to the model; the output would replace it");
        return Err(fault.help("give the output a name of its own"));
    }
    Output::create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_not_replaced() {
        let folder = tempfile::tempdir().expect("there is room");
        let path = |name: &str| folder.path().join(name);
        for name in ["config.json", "model-00001-of-00002.safetensors", "notes.txt", "out.safetensors"] {
            std::fs::write(path(name), "x").expect("there is room");
        }
        for (name, free) in [
            ("config.json", false),
            ("model-00001-of-00002.safetensors", false),
            ("notes.txt", true),
            ("out.safetensors", true),
            ("model.safetensors", true),
        ] {
            assert_eq!(create(&path(name), folder.path()).is_ok(), free, "{name}");
        }
        assert!(create(&path("out.safetensors"), &path("out.safetensors")).is_err());
    }
}
