//! What a graph can be lowered to.

pub mod native;
