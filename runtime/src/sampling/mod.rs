//! From the logits of a position to the next token.
//!
//! What transformers' `generate` does to logits, in its order and with its defaults:
//!
//! repetition penalty → (when sampling) temperature → top-k → top-p → min-p → softmax in f32 → draw;
//! without sampling, the first of the largest logits.
//!
//! Which tokens are kept, and with what probabilities, is comparable with transformers; what is drawn is not, as a
//! draw depends on the generator. The one here gives the same tokens for the same seed on every machine.
//!
//! Deliberately absent: beam search, and everything that looks at more of a sequence than which tokens occurred.

mod keep;
mod sampler;
mod settings;

pub use sampler::Sampler;
pub use settings::Sampling;
