//! Graphs of the tiny checkpoints.

use std::path::PathBuf;

use llamac_compiler::model::{self, Inputs, Logits, ModelOptions};
use llamac_compiler::source::Checkpoint;
use llamac_ir::Graph;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tiny"))
}

/// The names of all checkpoints.
pub fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).expect("the fixtures are in the repository");
    let names =
        entries.map(|entry| entry.expect("a readable folder").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The graph of the checkpoint `name`.
pub fn graph(name: &str, options: &ModelOptions) -> Graph {
    let checkpoint =
        Checkpoint::open(folder().join(name), None).unwrap_or_else(|faults| panic!("{name}: {faults}"));
    model::build(&checkpoint, options).unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

/// Token ids in, the head's result out, and nothing beside them.
pub const PLAIN: ModelOptions = ModelOptions {
    inputs: Inputs::Ids,
    mask: false,
    positions: true,
    length: true,
    cache: true,
    hidden_states: false,
    presents: false,
    logits: Logits::Keep,
};

/// Everything that a graph can take and give.
pub const FULL: ModelOptions = ModelOptions { mask: true, hidden_states: true, presents: true, ..PLAIN };
