//! Runs the built command and looks at what came out.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// What a command left behind.
#[derive(Debug)]
pub struct Done {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Standard output of a command that succeeded and said nothing else.
    #[track_caller]
    pub fn quiet(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    /// Standard output of a command that succeeded.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The message of a command that failed with `status` and printed no result, without its last line, which tells
    /// where to learn more.
    #[track_caller]
    pub fn failure(self, status: i32) -> String {
        assert_eq!((self.status, self.stdout.as_str()), (Some(status), ""), "{}", self.stderr);
        assert!(!self.stderr.contains('\u{1b}'), "there are colours in {:?}", self.stderr);
        let codes: Vec<&str> = self.stderr.lines().filter_map(code).collect();
        if codes.is_empty() {
            return self.stderr;
        }
        let (message, hint) =
            self.stderr.rsplit_once("\n\nTo learn more: llamac explain ").expect("a last line");
        assert!(hint.split_whitespace().eq(unique(&codes)), "{}", self.stderr);
        format!("{message}\n")
    }
}

/// The code in the first line of a fault.
fn code(line: &str) -> Option<&str> {
    Some(line.strip_prefix("error[")?.split_once(']')?.0)
}

fn unique<'a>(codes: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    codes.iter().enumerate().filter(|(i, code)| !codes[..*i].contains(code)).map(|(_, code)| *code)
}

/// The command, not started; colours and the like are at their defaults.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llamac"));
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env("COLUMNS", "100");
    command
}

/// Runs the command with arguments separated by spaces; `{name}` stands for the path of that name.
pub fn llamac(line: &str, paths: &[(&str, &Path)]) -> Done {
    run(&mut arguments(line, paths), "")
}

/// As [`arguments`], and interrupts stop it: whoever starts the tests in the background has them ignored.
pub fn interruptible(line: &str, paths: &[(&str, &Path)]) -> Command {
    let command = arguments(line, paths);
    let mut interruptible = Command::new("env");
    interruptible.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => interruptible.env(name, value),
            None => interruptible.env_remove(name),
        };
    }
    interruptible
}

/// The command with arguments as for [`llamac`], not started.
pub fn arguments(line: &str, paths: &[(&str, &Path)]) -> Command {
    let mut command = command();
    for argument in line.split_whitespace() {
        let filled = paths.iter().fold(argument.to_owned(), |argument, (name, path)| {
            argument.replace(&format!("{{{name}}}"), path.to_str().expect("a path in UTF-8"))
        });
        command.arg(filled);
    }
    command
}

/// Runs a command with `input` as standard input.
pub fn run(command: &mut Command, input: &str) -> Done {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the command ends");
    Done {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A fixture: `stories`, `tiny/gqa-f32`.
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A folder that is removed in the end.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Copies the files of a fixture into `to`.
pub fn copy(name: &str, to: &Path) {
    for entry in std::fs::read_dir(fixture(name)).expect("a fixture") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// Names of what is in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A message with the parts that differ from machine to machine replaced.
pub fn redact(text: &str, paths: &[(&str, &Path)]) -> String {
    let fixtures = fixture("");
    let text = text.replace(fixtures.to_str().expect("UTF-8").trim_end_matches('/'), "fixtures");
    paths
        .iter()
        .fold(text, |text, (name, path)| text.replace(path.to_str().expect("UTF-8"), name))
        .trim_end()
        .to_owned()
}

/// Writes a safetensors file.
pub fn save(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (*name, TensorView::new(*dtype, shape.to_vec(), data).expect("a consistent tensor"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("serializes")).expect("writes");
}

/// Writes a checkpoint of one layer, of eight columns everywhere, whose weights are zeros.
pub fn zeros(folder: &Path, vocabulary: usize) {
    let config = serde_json::json!({
        "model_type": "llama", "architectures": ["LlamaModel"], "vocab_size": vocabulary, "hidden_size": 8,
        "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("writes");
    let matrices = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
    let matrices = matrices.into_iter().chain(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);
    let norms = ["input_layernorm", "post_attention_layernorm"];
    let layer = |name: &str| format!("layers.0.{name}.weight");
    let mut tensors =
        vec![("embed_tokens.weight".to_owned(), vec![vocabulary, 8]), ("norm.weight".to_owned(), vec![8])];
    tensors.extend(matrices.map(|name| (layer(name), vec![8, 8])));
    tensors.extend(norms.map(|name| (layer(name), vec![8])));
    let zeros = |shape: &[usize]| vec![0; 4 * shape.iter().product::<usize>()];
    let views = tensors.iter().map(|(name, shape)| (name.as_str(), Dtype::F32, &shape[..], zeros(shape)));
    save(&folder.join("model.safetensors"), &views.collect::<Vec<_>>());
}

/// Little-endian bytes.
pub fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The f32 tensors of a safetensors file by name, each with its shape.
pub fn load(path: &Path) -> std::collections::BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let read = |view: &TensorView<'_>| {
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), read(&view)))).collect()
}
