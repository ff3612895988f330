//! Graphs for people: what changed between two, and pictures.
//!
//! Deliberately not here: the text form that reads back, which is the graph's own (`llamac_ir::Graph`).

mod diff;
mod listing;
mod numbers;

pub use diff::diff;
