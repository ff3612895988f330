//! Checkpoints to graphs, passes, and targets.
