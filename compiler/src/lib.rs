//! Checkpoints to graphs, passes, and targets.

pub mod model;
pub mod output;
pub mod source;
pub mod target;
pub mod weights;
