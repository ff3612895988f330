//! Loads a compiled model and runs it: kernels, KV cache, sampling, tokenizer.
