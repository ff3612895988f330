//! Inputs that nobody chose, the same every time.

use llamac_plan::eval::{Request, Tokens};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Tokens of a random request: what they cost grows with the model, what they show does not.
const TOKENS: usize = 8;

/// How many of them go through the cache.
const CACHED: usize = 2;

/// Random numbers.
pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub(super) fn new() -> Self {
        Self(ChaCha8Rng::seed_from_u64(0))
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }

    /// A number between -1 and 1.
    pub(super) fn float(&mut self) -> f32 {
        // 24 bits are all that a mantissa holds.
        (self.0.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A forward of one sequence of random ids below `vocab_size`, as long as `context` allows; its last tokens go through
/// the cache if there is one.
pub fn request(vocab_size: usize, context: usize, cache: bool) -> Request {
    let mut random = Random::new();
    let tokens = TOKENS.min(context).max(1);
    let ids = (0..tokens).map(|_| random.below(vocab_size.max(1) as u64) as u32).collect();
    Request {
        batch: 1,
        seq: tokens,
        tokens: Tokens::Ids(ids),
        mask: None,
        positions: None,
        keep: None,
        hidden_states: false,
        cached: if cache { CACHED.min(tokens - 1) } else { 0 },
    }
}
