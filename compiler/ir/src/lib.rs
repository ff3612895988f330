//! The intermediate representation of llamac: graph, types, operations, text form, rewriting and the reference
//! evaluator.
//!
//! A model is a pure [`Graph`] of tensor operations ([`ops`]) over typed values with symbolic sizes ([`Dim`]). Its
//! weights are recipes ([`Weight`]), never bytes. A [`Builder`] makes a graph, and from then on it changes only
//! through patches that rules return ([`rewrite`]). [`Graph::parse`] and `Display` are inverse to each other, and
//! [`evaluate`] is the judge of every rewrite.
//!
//! Deliberately not here: files, bytes of weights, LLaMA's architecture, and any target.

mod activation;
mod attrs;
mod builder;
mod dim;
mod eval;
pub mod float8;
pub mod frequencies;
mod graph;
mod loc;
mod op;
pub mod ops;
mod real;
pub mod rewrite;
mod rope;
pub mod suggest;
mod tensor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text;
mod types;
mod verify;
pub mod weight;

pub use activation::Activation;
pub use attrs::Attrs;
pub use builder::{BuildError, Builder};
pub use dim::{Bindings, Bounds, Dim, Symbol};
pub use eval::{EvalError, evaluate};
pub use graph::{Graph, NodeId, ValueId};
pub use loc::Loc;
pub use op::{EvalContext, Op, OpDef, OpKind, WeightSource};
pub use real::Real;
pub use rope::RopeScaling;
pub use tensor::Tensor;
pub use text::{SyntaxError, TextError};
pub use types::{DType, TensorType, Types};
pub use verify::{Fault, VerifyErrors};
pub use weight::{BlockFormat, Grid, Permutation, QuantizedPart, Scheme, Weight, WeightError, WeightExpr};
