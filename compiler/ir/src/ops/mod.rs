//! The operations, one file each: data, shape inference, meaning, and a decomposition where there is one.
//!
//! Semantic operations come first in a model; those that passes shape it into say so in their documentation.
//! Primitives (matmul, transpose, softmax) are for legalization: a target that has nothing better takes them. Nothing is
//! ever expanded into them to be matched back.

mod act;
mod add;
mod add_rms_norm;
mod append_attention;
mod attention;
mod binary;
mod cast;
mod concat;
mod constant;
mod embed;
mod expand;
mod gated;
mod gather;
mod gather_rows;
mod group_query_attention;
mod keep_last;
mod kv_append;
mod length;
mod linear;
mod matmul;
mod mul;
mod pool_last;
mod positions;
mod range;
mod reduce;
mod repeat_kv;
mod reshape;
mod rms_norm;
mod rope;
mod rotary;
mod rotary_angles;
mod rotary_lookup;
mod shape;
mod slice;
mod softmax;
mod split;
mod split_heads;
mod transpose;
mod unary;
mod r#where;

pub use act::Act;
pub use add::Add;
pub use add_rms_norm::AddRmsNorm;
pub use append_attention::AppendAttention;
pub use attention::Attention;
pub use binary::{Binary, BinaryFunction};
pub use cast::Cast;
pub use concat::Concat;
pub use constant::Constant;
pub use embed::Embed;
pub use expand::Expand;
pub use gated::Gated;
pub use gather::Gather;
pub use gather_rows::GatherRows;
pub use group_query_attention::GroupQueryAttention;
pub use keep_last::KeepLast;
pub use kv_append::KvAppend;
pub use length::Length;
pub use linear::Linear;
pub use matmul::Matmul;
pub use mul::Mul;
pub use pool_last::PoolLast;
pub use positions::Positions;
pub use range::Range;
pub use reduce::{Reduce, Reduction};
pub use repeat_kv::RepeatKv;
pub use reshape::Reshape;
pub use rms_norm::RmsNorm;
pub use rope::Rope;
pub use rotary::Rotary;
pub use rotary_angles::{Frequencies, RotaryAngles};
pub use rotary_lookup::RotaryLookup;
pub use shape::Shape;
pub use slice::Slice;
pub use softmax::Softmax;
pub use split::Split;
pub use split_heads::SplitHeads;
pub use transpose::Transpose;
pub use unary::{Unary, UnaryFunction};
pub use r#where::Where;

#[cfg(doctest)]
#[doc = include_str!("../../../../docs/adding-an-op.md")]
struct AddingAnOp;
