//! One sequence: its KV cache, its position and the length that its rotary frequencies follow.

use std::sync::Arc;

use llamac_plan::diagnostic::{Code, Diagnostic};
use llamac_plan::{Frequencies, KvDtype, Plan, PromptKind, SoftPrompt};

use crate::kernels::KvLayout;
use crate::memory::Memory;
use crate::model::Model;

/// How a session is opened.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Tokens that the cache has room for, behind the model's soft prompt if it has one. Memory is taken as it is used,
    /// where the system has huge pages, 2 MiB at a time.
    pub capacity: usize,
    /// How the cache stores keys and values; the model's default if not given.
    pub kv: Option<KvDtype>,
}

/// A sequence that is being read or written.
///
/// It begins with the model's soft prompt, if there is one: a prefix is in a new session's cache, and embeddings are read
/// with the first tokens that it is fed.
#[derive(Debug)]
pub struct Session {
    pub(crate) model: Arc<Model>,
    pub(crate) layout: KvLayout,
    cache: Memory,
    /// Cache slots, those of the soft prompt included.
    capacity: usize,
    /// Cache slots in use: the visible tokens so far, and the soft prompt's.
    pub(crate) slots: usize,
    /// Positions so far, of tokens visible or not, and of the soft prompt.
    pub(crate) fed: usize,
    rope: RopeState,
}

/// What rotary frequencies that depend on the length remember.
#[derive(Debug)]
struct RopeState {
    /// The length that was declared, in positions.
    declared: u64,
    /// Dynamic NTK: the length that the current frequencies are for.
    current: u64,
    /// Dynamic NTK: the current frequencies.
    inv_freq: Vec<f32>,
}

/// Bytes of the cache of a session of `plan` with room for `capacity` tokens, if there is such a number; keys and values
/// are stored as the plan says unless `kv` does.
pub fn cache_bytes(plan: &Plan, kv: Option<KvDtype>, capacity: usize) -> Option<usize> {
    layout(plan, kv).layer_bytes(capacity)?.checked_mul(plan.shape.layers)
}

fn layout(plan: &Plan, kv: Option<KvDtype>) -> KvLayout {
    let shape = &plan.shape;
    KvLayout { dtype: kv.unwrap_or(plan.kv), kv_heads: shape.kv_heads, head_dim: shape.head_dim }
}

impl Session {
    /// A session without tokens.
    ///
    /// # Errors
    /// When there is not enough memory for the cache.
    pub fn new(model: &Arc<Model>, options: SessionOptions) -> Result<Self, Diagnostic> {
        let plan = model.plan();
        let layout = layout(plan, options.kv);
        let capacity = options.capacity.saturating_add(plan.prompt_tokens());
        let slots = u32::try_from(capacity).ok().map(|_| capacity);
        let bytes = slots.and_then(|slots| cache_bytes(plan, options.kv, slots));
        let cache = bytes.and_then(Memory::zeroed).ok_or_else(|| {
            let size = bytes.map(|bytes| format!(", {} MiB,", bytes.div_ceil(1 << 20))).unwrap_or_default();
            Diagnostic::new(Code::OutOfMemory)
                .message(format!("the cache of {} tokens{size} does not fit into memory", options.capacity))
                .help("ask for fewer tokens (`run -n`), or for a cache of f16 or bf16")
        })?;
        let rope = match model.frequencies() {
            Some(&Frequencies::Dynamic { theta, factor, max_position }) => {
                let mut inv_freq = vec![0.0; layout.head_dim / 2];
                dynamic_frequencies(theta, factor, max_position, max_position, &mut inv_freq);
                RopeState { declared: 0, current: max_position, inv_freq }
            }
            _ => RopeState { declared: 0, current: 0, inv_freq: Vec::new() },
        };
        let mut session = Self { model: Arc::clone(model), layout, cache, capacity, slots: 0, fed: 0, rope };
        if let Some(prompt) = plan.prompt.as_ref().filter(|prompt| prompt.kind == PromptKind::Prefix) {
            session.put_prefix(model, prompt);
        }
        Ok(session)
    }

    /// Stores the entries of `prompt`, which is a prefix, in the first slots.
    fn put_prefix(&mut self, model: &Model, prompt: &SoftPrompt) {
        let layout = self.layout;
        let width = layout.kv_heads * layout.head_dim;
        for (layer, id) in prompt.weights.iter().enumerate() {
            let cache = self.layer_mut(layer);
            for (slot, entry) in model.vector(*id).chunks_exact(2 * width).enumerate() {
                let (key, value) = entry.split_at(width);
                layout.append(cache, slot, key, value);
            }
        }
        (self.slots, self.fed) = (prompt.tokens, prompt.tokens);
    }

    /// Virtual tokens that are still to be read, before the first token.
    pub(crate) fn pending(&self) -> usize {
        self.model.plan().prompt.as_ref().filter(|_| self.fed == 0).map_or(0, SoftPrompt::read_tokens)
    }

    /// Tokens fed so far.
    pub fn len(&self) -> usize {
        self.fed.saturating_sub(self.model.plan().prompt_tokens())
    }

    /// Whether nothing was fed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that the cache has room for.
    pub fn capacity(&self) -> usize {
        self.capacity - self.model.plan().prompt_tokens()
    }

    /// Slots for tokens that were not fed yet.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.slots - self.pending()
    }

    /// Says that the sequence will have at least `tokens` tokens.
    ///
    /// Only models whose rotary frequencies depend on the length (dynamic, longrope) take notice. Declared before the
    /// first chunk of a prompt, it makes the result independent of how the prompt is cut.
    pub fn declare_length(&mut self, tokens: u64) {
        let positions = tokens.saturating_add(self.model.plan().prompt_tokens() as u64);
        self.rope.declared = self.rope.declared.max(positions);
    }

    /// Tokens that can be fed at once with the same rotary frequencies as one by one.
    pub(crate) fn steady_tokens(&self) -> usize {
        let RopeState { declared, current, .. } = self.rope;
        let length = match self.model.frequencies() {
            Some(&Frequencies::LongRope { threshold, .. }) if declared.max(current) <= threshold => threshold,
            Some(&Frequencies::Dynamic { .. }) => declared.max(current),
            _ => return usize::MAX,
        };
        usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(self.fed)
    }

    /// Forgets the last `tokens` tokens, all of which were visible.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn rewind(&mut self, tokens: usize) {
        let slots = self.slots.saturating_sub(self.model.plan().prompt_tokens());
        assert!(tokens <= slots && tokens <= self.len(), "{tokens} of {} tokens", self.len());
        // Nothing reads a cache past its slots in use.
        self.slots -= tokens;
        self.fed -= tokens;
    }

    /// The sequence's length in a forward whose largest position is `last`.
    pub(crate) fn length(&self, last: i64) -> u64 {
        u64::try_from(last.saturating_add(1)).unwrap_or(0).max(self.rope.declared)
    }

    /// Follows the sequence's length before a forward whose largest position is `last`, or that has another say.
    pub(crate) fn advance_length(&mut self, last: i64, length: Option<u64>) {
        let length = length.unwrap_or_else(|| self.length(last));
        let Some(frequencies) = self.model.frequencies() else { return };
        let rope = &mut self.rope;
        match *frequencies {
            Frequencies::Static { .. } => {}
            Frequencies::LongRope { .. } => rope.current = length,
            Frequencies::Dynamic { theta, factor, max_position } => {
                // The frequencies grow with the longest length seen and return to the start only below the maximum.
                let next = match length {
                    _ if length > rope.current => length,
                    _ if length < max_position => max_position,
                    _ => rope.current,
                };
                if next != rope.current {
                    rope.current = next;
                    dynamic_frequencies(theta, factor, max_position, next, &mut rope.inv_freq);
                }
            }
        }
    }

    /// The frequencies of the current length.
    pub(crate) fn inv_freq<'a>(&'a self, model: &'a Model, frequencies: &Frequencies) -> &'a [f32] {
        match frequencies {
            Frequencies::Static { inv_freq } => model.vector(*inv_freq),
            Frequencies::LongRope { short, long, threshold } => {
                model.vector(if self.rope.current > *threshold { *long } else { *short })
            }
            Frequencies::Dynamic { .. } => &self.rope.inv_freq,
        }
    }

    /// A layer's part of the cache.
    pub(crate) fn layer(&self, layer: usize) -> &[u8] {
        let (start, len) = self.layer_place(layer);
        // SAFETY: the place is inside the cache; writers hold `&mut self` (see `layer_mut`).
        unsafe { std::slice::from_raw_parts(self.cache.pointer().add(start), len) }
    }

    /// A layer's part of the cache, to append to.
    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut [u8] {
        let (start, len) = self.layer_place(layer);
        // SAFETY: the place is inside the cache, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.cache.pointer().add(start), len) }
    }

    fn layer_place(&self, layer: usize) -> (usize, usize) {
        let len = self.layout.layer_bytes(self.capacity).unwrap_or(0);
        assert!((layer + 1) * len <= self.cache.len(), "the cache has a part for each layer");
        (layer * len, len)
    }
}

/// Frequencies of dynamic NTK scaling for sequences of `length` positions, in the precision of transformers: the base
/// is a single-precision tensor as soon as it depends on the length.
///
/// The reference evaluator has the same function; a test of both compares their bits.
pub fn dynamic_frequencies(theta: f64, factor: f64, max_position: u64, length: u64, out: &mut [f32]) {
    let dim = (2 * out.len()) as f64;
    let length = length.max(max_position) as f32;
    let stretch = (factor as f32 * length) / max_position as f32 - (factor - 1.0) as f32;
    let base = theta as f32 * power(stretch, (dim / (dim - 2.0)) as f32);
    for (i, f) in out.iter_mut().enumerate() {
        *f = 1.0 / power(base, (2 * i) as f32 / dim as f32);
    }
}

/// `base^exponent`, rounded once: single-precision implementations are off by more than one unit in the last place.
fn power(base: f32, exponent: f32) -> f32 {
    libm::pow(base.into(), exponent.into()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_frequencies_are_those_of_transformers() {
        // transformers 5.23: theta 10000, head size 16, factor 2, max_position_embeddings 16, length 32.
        let expected = [
            1.0,
            0.270_296_13,
            0.073_06,
            0.019_747_833,
            0.005_337_763,
            0.001_442_776_6,
            0.000_389_976_95,
            0.000_105_409_26,
        ];
        let mut found = [0.0; 8];
        dynamic_frequencies(10000.0, 2.0, 16, 32, &mut found);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-6 * expected, "{found} {expected}");
        }
    }
}
