//! Loads a compiled model and runs it: kernels, KV cache, sampling, tokenizer.
//!
//! A [`Model`] is an open artifact, shared by all who use it. A [`Session`] is one sequence with its cache. An
//! [`Engine`] owns threads and scratch memory and feeds any number of sessions at a time.

mod arena;
mod artifact;
pub mod bench;
mod check;
mod classify;
mod embed;
mod engine;
mod eval;
mod execute;
pub mod generate;
pub mod kernels;
mod memory;
mod model;
pub mod perplexity;
pub mod pool;
pub mod profile;
pub mod sampling;
mod sequences;
mod session;
pub mod text;

pub use llamac_plan as plan;
pub use llamac_plan::{diagnostic, eval::Output, eval::Request, eval::Tokens};

pub use artifact::is_artifact;
pub use classify::{Scoring, classify};
pub use embed::{Pooling, embed};
pub use engine::{Engine, EngineOptions, Feed, Input, Keep, Outputs};
pub use eval::eval;
pub use model::{Model, OpenOptions};
pub use session::{Session, SessionOptions, cache_bytes, dynamic_frequencies};

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
