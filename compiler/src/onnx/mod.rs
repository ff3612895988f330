//! Reading ONNX models: what one holds, for `inspect`, and its structure as text, for tests of what is exported.
//!
//! The messages are a few of ONNX's, decoded by `prost`; what exports a model writes with another codec, so that each
//! checks the other. Files are input from strangers: memory is bounded by what the bytes of a file can hold, whatever
//! they say; the data of tensors stays in the mapped file; and data in other files is looked for and not read.
//!
//! Deliberately not here: types of intermediate values, the meaning of operators, and running a model.

mod external;
mod fold;
mod model;
mod proto;
mod structure;
mod summary;
mod tensor;
#[cfg(test)]
mod tests;
mod wire;

pub use model::Model;
pub use structure::structure;
pub use summary::{Dim, Function, Large, Module, OpCount, Opset, Stored, Summary, Value, Weights};
