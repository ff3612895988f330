//! Checkpoints to graphs, passes, and targets.

pub mod output;
pub mod target;
