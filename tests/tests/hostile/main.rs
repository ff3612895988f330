//! Damaged and hostile files: each is either read, or refused in words that name the file; and whatever it is, reading
//! it ends soon and takes little memory.
//!
//! All cases are the same in every run. What a fuzzer found is a test beside what it found it in.

mod adapter;
mod artifact;
mod checkpoint;
mod config;
mod gguf;
mod limits;
mod onnx;
mod plan;
mod quantized;
mod quantized_parts;
mod random;
mod tokenizer;
mod torch;
