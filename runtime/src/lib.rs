//! Loads a compiled model and runs it: kernels, KV cache, sampling, tokenizer.

pub mod kernels;
pub mod pool;
pub mod sampling;
pub mod text;
