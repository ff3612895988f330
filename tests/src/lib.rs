//! Tests that cross crates: parity with references, the command, the workspace itself. Here: what they share.

use std::path::Path;

use llamac_compiler::driver::{self, CompileOptions, Silent};
use llamac_compiler::output::Output;
use llamac_compiler::passes;
use llamac_compiler::source::{Checkpoint, Head};
use llamac_runtime::{Engine, EngineOptions, Model, OpenOptions};

pub mod adapters;
pub mod artifact;
pub mod compare;
pub mod golden;
pub mod quantized;

/// The checkpoint of a fixture, with the head that its outputs are of.
pub fn open(fixture: &golden::Fixture) -> Checkpoint {
    let head = Head::from_name(&fixture.head).expect("the fixture's head exists");
    Checkpoint::open(&fixture.folder, Some(head)).unwrap_or_else(|e| panic!("{}: {e}", fixture.name()))
}

/// Compiles with weights as the policy `weights` says.
pub fn stored(weights: &str) -> CompileOptions {
    let weights = weights.parse().unwrap_or_else(|e| panic!("{weights}: {e}"));
    let passes = passes::Options { weights, ..passes::Options::default() };
    CompileOptions { passes, ..CompileOptions::default() }
}

/// An engine for the compiled `checkpoint`.
pub fn engine(checkpoint: &Checkpoint, options: &CompileOptions, engine: EngineOptions) -> Engine {
    let output = Output::temporary().expect("there is room");
    driver::compile(checkpoint, options, &output, &Silent).unwrap_or_else(|e| panic!("{e}"));
    let model = Model::from_file(output.file(), Path::new("fixture"), OpenOptions::default());
    Engine::new(&model.unwrap_or_else(|e| panic!("{e}")), engine).expect("there is memory")
}
