//! The intermediate representation of llamac: graph, types, operations, text form, rewriting and the reference evaluator.

mod activation;
mod real;
mod rope;

pub use activation::Activation;
pub use real::Real;
pub use rope::RopeScaling;
