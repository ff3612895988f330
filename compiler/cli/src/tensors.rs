//! The outputs of `eval` as a safetensors file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;

use llamac_compiler::diagnostic::{Code, Diagnostic};
use llamac_compiler::output::{self, Output};
use llamac_runtime as runtime;
use safetensors::{Dtype, View};

/// What every such file has after the eight bytes of the header's length.
pub const BEGINNING: &str = r#"{"__metadata__":{"producer":"llamac eval"}"#;

/// An output, written as F32.
struct Tensor<'a>(&'a runtime::Output);

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.data.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.0.data.len()
    }
}

/// Writes `outputs` to the unfinished `file`.
///
/// # Errors
/// When the disk is full, or the file cannot be written for another reason.
pub fn write(file: &Output, outputs: &[runtime::Output]) -> Result<(), Diagnostic> {
    let path = file.path();
    let views = outputs.iter().map(|output| (output.name.as_str(), Tensor(output)));
    let metadata = HashMap::from([("producer".to_owned(), "llamac eval".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|e| Diagnostic::new(Code::Io).at(path.display().to_string()).message(e.to_string()))?;
    file.file().write_all(&bytes).map_err(|e| output::write_fault(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_come_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.safetensors");
        let outputs = ["logits", "hidden_states.0"].map(|name| runtime::Output {
            name: name.to_owned(),
            shape: vec![1, 2],
            data: vec![name.len() as f32, -0.5],
        });
        let file = Output::create(&path).expect("creates");
        write(&file, &outputs).expect("writes");
        file.publish().expect("publishes");
        let bytes = std::fs::read(&path).expect("reads");
        assert!(bytes[8..].starts_with(BEGINNING.as_bytes()));
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let logits = tensors.tensor("logits").expect("there");
        assert_eq!((logits.dtype(), logits.shape()), (Dtype::F32, &[1, 2][..]));
        assert_eq!(logits.data(), [6.0f32.to_le_bytes(), (-0.5f32).to_le_bytes()].concat());
    }
}
