//! The operations, one file each: data, shape inference, meaning, and a decomposition where there is one.
//!
//! Semantic operations come first in a model; those that passes shape it into say so in their documentation.
//! Primitives (matmul, transpose, softmax) are deliberately absent: nothing is ever expanded to be matched back.

mod act;
mod add;
mod add_rms_norm;
mod attention;
mod embed;
mod gated;
mod keep_last;
mod kv_append;
mod linear;
mod mul;
mod pool_last;
mod repeat_kv;
mod rms_norm;
mod rope;
mod rotary;
mod rotary_angles;
mod split;

pub use act::Act;
pub use add::Add;
pub use add_rms_norm::AddRmsNorm;
pub use attention::Attention;
pub use embed::Embed;
pub use gated::Gated;
pub use keep_last::KeepLast;
pub use kv_append::KvAppend;
pub use linear::Linear;
pub use mul::Mul;
pub use pool_last::PoolLast;
pub use repeat_kv::RepeatKv;
pub use rms_norm::RmsNorm;
pub use rope::Rope;
pub use rotary::Rotary;
pub use rotary_angles::{Frequencies, RotaryAngles};
pub use split::Split;
