//! The outputs of `eval` as a safetensors file.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use llamac_compiler::diagnostic::{Code, Diagnostic};
use llamac_compiler::output::{self, Output};
use llamac_runtime as runtime;
use safetensors::{Dtype, View};

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

/// Writes `outputs` to the unfinished `file`, which will be at `path`.
///
/// # Errors
/// When the disk is full, or the file cannot be written for another reason.
pub fn write(file: &Output, path: &Path, outputs: &[runtime::Output]) -> Result<(), Diagnostic> {
    let views = outputs.iter().map(|output| (output.name.as_str(), Tensor(output)));
    let bytes = safetensors::serialize(views, None)
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
        write(&file, &path, &outputs).expect("writes");
        file.publish().expect("publishes");
        let bytes = std::fs::read(&path).expect("reads");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let logits = tensors.tensor("logits").expect("there");
        assert_eq!((logits.dtype(), logits.shape()), (Dtype::F32, &[1, 2][..]));
        assert_eq!(logits.data(), [6.0f32.to_le_bytes(), (-0.5f32).to_le_bytes()].concat());
    }
}
