//! Rules that shape a graph into what a profile has operators for.
//!
//! What is the same for every target that lacks an operation is not here: operations decompose themselves.

mod append;
mod fuse_append_attention;
mod fuse_group_query_attention;
mod linear_to_gemm;
mod look_up_rotary;
mod mask_to_bias;

pub(super) use fuse_append_attention::FuseAppendAttention;
pub(super) use fuse_group_query_attention::FuseGroupQueryAttention;
pub(super) use linear_to_gemm::LinearToGemm;
pub(super) use look_up_rotary::LookUpRotary;
pub(super) use mask_to_bias::MaskToBias;
