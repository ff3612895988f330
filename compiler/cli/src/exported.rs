//! Exported ONNX models that are to be run, in programs that were built with a runtime for them.

use std::path::Path;

use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_compiler::onnx;

use crate::console::Console;
use crate::model;

#[cfg(not(feature = "onnx-backend"))]
use llamac_runtime::{Output, Request};
#[cfg(feature = "onnx-backend")]
pub use llamac_tract::Model;

/// Opens the exported directory or model `path` to run it, and says what is odd about it.
///
/// # Errors
/// All that is wrong with it; that this program cannot run exported models.
pub fn open(path: &Path, console: &Console) -> Result<Model, Diagnostics> {
    let file = match onnx::Model::find(path) {
        Some(file) => file,
        None if path.exists() => {
            let fault = Diagnostic::new(Code::NotOnnx).at(path.display().to_string());
            let fault = fault.expected("an exported directory, or a file that ends in .onnx");
            return Err(fault.help(format!("llamac compile {} --target onnx -o DIR", path.display())).into());
        }
        None => return Err(model::no_file(path).into()),
    };
    // Its parts fit together: what runs it trusts that.
    let warnings = onnx::Model::open(&file)?.warnings();
    warnings.iter().for_each(|warning| console.warn(warning));
    Ok(Model::open(&file)?)
}

/// Nothing: this program cannot run exported models.
#[cfg(not(feature = "onnx-backend"))]
pub enum Model {}

#[cfg(not(feature = "onnx-backend"))]
impl Model {
    fn open(path: &Path) -> Result<Self, Diagnostic> {
        Err(Diagnostic::new(Code::NotBuiltIn)
            .at(path.display().to_string())
            .message("running exported models takes tract, which takes minutes to compile")
            .help("build llamac with it: cargo build --release --features onnx-backend"))
    }

    /// As there is no model, no cache.
    pub fn has_cache(&self) -> bool {
        match *self {}
    }

    /// As there is no model, no forward.
    pub fn eval(&self, _: &Request) -> Result<Vec<Output>, Diagnostics> {
        match *self {}
    }

    /// As there is no model, no forward.
    pub fn trace(&self, _: &Request) -> Result<Vec<Output>, Diagnostics> {
        match *self {}
    }
}
