//! The outputs of `eval` as a safetensors file.

use std::io::{self, BufWriter, Write};

use llamac_compiler::diagnostic::Diagnostic;
use llamac_compiler::output::{self, Output};
use llamac_runtime as runtime;
use serde_json::json;

/// What every such file has after the eight bytes of the header's length.
pub const BEGINNING: &str = r#"{"__metadata__":{"producer":"llamac eval"}"#;

/// Writes `outputs` as F32 to the unfinished `file`, without a copy of them.
///
/// # Errors
/// When the disk is full, or the file cannot be written for another reason.
pub fn write(file: &Output, outputs: &[runtime::Output]) -> Result<(), Diagnostic> {
    stream(file, outputs).map_err(|e| output::write_fault(file.path(), &e))
}

fn stream(file: &Output, outputs: &[runtime::Output]) -> io::Result<()> {
    let mut header = BEGINNING.to_owned();
    let mut start = 0;
    for output in outputs {
        let end = start + 4 * output.data.len();
        let entry = json!({"dtype": "F32", "shape": output.shape, "data_offsets": [start, end]});
        header.push_str(&format!(",{}:{entry}", json!(output.name)));
        start = end;
    }
    header.push('}');
    // The data begin at a multiple of 8.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::new(file.file());
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for value in outputs.iter().flat_map(|output| &output.data) {
        file.write_all(&value.to_le_bytes())?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

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
