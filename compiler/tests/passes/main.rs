//! The passes on whole models: what they make of them, and how they are run.

mod fixtures;
mod graphs;
mod manager;
mod onnx;
mod pictures;
