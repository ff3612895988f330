//! One sequence's choices: what occurred in it, and the generator that draws.

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::Sampling;
use super::keep::{Candidate, Keeper};

/// Chooses the tokens of one sequence.
///
/// The generator is ChaCha with 8 rounds; its key is the seed, little-endian, in the first 8 of 32 bytes. A draw takes
/// the upper 53 bits of its next 64 as a fraction `u` of 1, and the first token, by id, at which the sum of
/// probabilities exceeds `u` of their total. After the first token nothing is allocated.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    keeper: Keeper,
    /// For each token, whether it is in `distinct`.
    seen: Vec<bool>,
    /// The tokens of the sequence, each once.
    distinct: Vec<u32>,
    /// The distribution of a choice that is certain.
    certain: [Candidate; 1],
}

impl Sampler {
    /// A sampler for an empty sequence of a model with `vocab_size` logits.
    pub fn new(sampling: Sampling, vocab_size: usize) -> Result<Self, Diagnostics> {
        sampling.validate()?;
        let mut key = [0; 32];
        key[..8].copy_from_slice(&sampling.seed.to_le_bytes());
        let keeper = Keeper::new(if sampling.do_sample { vocab_size } else { 0 });
        let (rng, seen) = (ChaCha8Rng::from_seed(key), vec![false; vocab_size]);
        Ok(Self {
            sampling,
            rng,
            keeper,
            seen,
            distinct: Vec::with_capacity(vocab_size),
            certain: [(0, 1.0)],
        })
    }

    /// The settings.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Adds tokens to the sequence: the prompt, or tokens that were not chosen here. Ids outside the vocabulary have no
    /// logit, so nothing is kept of them.
    pub fn observe(&mut self, ids: &[u32]) {
        for &id in ids {
            if let Some(seen) = self.seen.get_mut(id as usize).filter(|seen| !**seen) {
                *seen = true;
                self.distinct.push(id);
            }
        }
    }

    /// Chooses the next token and adds it to the sequence. `logits` has `vocab_size` values and is overwritten by
    /// penalties and temperature. Fails if there is no choice: a logit is NaN, or when sampling, is infinite or all
    /// are minus infinity.
    pub fn next(&mut self, logits: &mut [f32]) -> Result<u32, Diagnostic> {
        self.process(logits);
        let id = if self.sampling.do_sample {
            let u = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let kept = self.keeper.keep(logits, &self.sampling).ok_or_else(not_a_number)?;
            draw(kept, u)
        } else {
            first_largest(logits).ok_or_else(not_a_number)?
        };
        self.observe(&[id]);
        Ok(id)
    }

    /// The tokens that [`Sampler::next`] would choose from, by id, with their probabilities. `logits` is overwritten
    /// and fails as there; the sequence and the generator stay as they are.
    pub fn distribution(&mut self, logits: &mut [f32]) -> Result<&[(u32, f32)], Diagnostic> {
        self.process(logits);
        if self.sampling.do_sample {
            return self.keeper.keep(logits, &self.sampling).ok_or_else(not_a_number);
        }
        self.certain[0].0 = first_largest(logits).ok_or_else(not_a_number)?;
        Ok(&self.certain)
    }

    /// What changes logits one by one: the penalty on tokens that occurred, then temperature.
    fn process(&self, logits: &mut [f32]) {
        let penalty = self.sampling.repetition_penalty;
        if penalty != 1.0 {
            for &id in &self.distinct {
                if let Some(z) = logits.get_mut(id as usize) {
                    *z = if *z < 0.0 { *z * penalty } else { *z / penalty };
                }
            }
        }
        if self.sampling.do_sample && self.sampling.temperature != 1.0 {
            logits.iter_mut().for_each(|z| *z /= self.sampling.temperature);
        }
    }
}

/// The first token whose cumulative probability exceeds the fraction `u`, below 1, of the total.
fn draw(kept: &[Candidate], u: f64) -> u32 {
    let total: f64 = kept.iter().map(|&(_, q)| f64::from(q)).sum();
    let (mut sum, mut last) = (0.0, 0);
    for &(id, q) in kept {
        sum += f64::from(q);
        if q > 0.0 {
            last = id;
        }
        if sum > u * total {
            return id;
        }
    }
    last
}

/// The index of the largest logit, the first of equals; `None` if there is none or a NaN.
fn first_largest(logits: &[f32]) -> Option<u32> {
    let mut best = *logits.first()?;
    let mut at = 0;
    for (id, &z) in (0u32..).zip(logits) {
        if z.is_nan() {
            return None;
        }
        if z > best {
            (best, at) = (z, id);
        }
    }
    Some(at)
}

fn not_a_number() -> Diagnostic {
    Diagnostic::new(Code::NotANumber)
        .at("logits")
        .help("the weights may be damaged, or too large for the precision of the computation")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [2.0, 1.0, 2.0, -1.0, 0.0, -4.0];

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(sampling, LOGITS.len()).expect("valid settings")
    }

    fn sampled() -> Sampling {
        Sampling { do_sample: true, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_first_of_equals_whatever_the_temperature() {
        let mut s = sampler(Sampling { temperature: 0.0, ..Sampling::default() });
        assert_eq!(s.next(&mut LOGITS.clone()), Ok(0));
        assert_eq!(s.distribution(&mut LOGITS.clone()), Ok(&[(0, 1.0)][..]));
    }

    #[test]
    fn the_penalty_counts_each_token_once() {
        let mut s = sampler(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
        s.observe(&[0, 0, 3, 99, 0]);
        let mut logits = LOGITS;
        assert_eq!(s.next(&mut logits), Ok(2));
        assert_eq!(logits, [1.0, 1.0, 2.0, -2.0, 0.0, -4.0]);
        // The chosen token occurred now, too.
        assert_eq!(s.next(&mut LOGITS.clone()), Ok(0));
        let mut logits = LOGITS;
        s.next(&mut logits).expect("a token");
        assert_eq!(logits, [1.0, 1.0, 1.0, -2.0, 0.0, -4.0]);
    }

    #[test]
    fn a_seed_gives_the_same_tokens_everywhere() {
        let draws = |seed| {
            let mut s = sampler(Sampling { seed, ..sampled() });
            (0..12).map(|_| s.next(&mut LOGITS.clone()).expect("a token")).collect::<Vec<_>>()
        };
        assert_eq!(draws(0), [2, 2, 0, 0, 0, 0, 0, 0, 0, 2, 2, 1]);
        assert_eq!(draws(1), [0, 0, 2, 2, 2, 0, 2, 2, 1, 1, 2, 0]);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let mut s = sampler(sampled());
        let expected = s.distribution(&mut LOGITS.clone()).expect("numbers").to_vec();
        let n = 40_000;
        let mut counts = [0u32; LOGITS.len()];
        for _ in 0..n {
            counts[s.next(&mut LOGITS.clone()).expect("a token") as usize] += 1;
        }
        for (id, q) in expected {
            let (got, q) = (f64::from(counts[id as usize]), f64::from(q));
            let deviation = (f64::from(n) * q * (1.0 - q)).sqrt();
            assert!(
                (got - f64::from(n) * q).abs() < 5.0 * deviation,
                "{id}: {got} against {}",
                f64::from(n) * q
            );
        }
    }

    #[test]
    fn a_draw_stays_inside() {
        let kept = [(3, 0.0), (5, 0.5), (7, 0.5), (9, 0.0)];
        assert_eq!(draw(&kept, 0.0), 5);
        assert_eq!(draw(&kept, 0.499), 5);
        assert_eq!(draw(&kept, 0.5), 7);
        assert_eq!(draw(&kept, 1.0), 7);
    }

    #[test]
    fn no_numbers_are_a_fault_and_no_panic() {
        let mut nan = LOGITS;
        nan[2] = f32::NAN;
        for s in [Sampling::default(), sampled()] {
            let fault = sampler(s.clone()).next(&mut nan.clone()).expect_err("NaN");
            assert_eq!(fault.code, Code::NotANumber);
            assert_eq!(sampler(s).next(&mut []).expect_err("nothing").code, Code::NotANumber);
        }
        nan = [f32::NEG_INFINITY; 6];
        assert_eq!(sampler(Sampling::default()).next(&mut nan.clone()), Ok(0));
        assert!(sampler(sampled()).next(&mut nan).is_err());
    }

    #[test]
    fn bad_settings_are_refused() {
        assert!(Sampler::new(Sampling { temperature: -1.0, ..sampled() }, 6).is_err());
    }

    #[test]
    fn after_the_first_token_no_buffer_grows() {
        let n = 1_000;
        let logits: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32 * 0.01).collect();
        let mut s =
            Sampler::new(Sampling { top_k: 0, repetition_penalty: 1.1, ..sampled() }, n).expect("valid");
        let capacity = s.distinct.capacity();
        for _ in 0..3_000 {
            s.next(&mut logits.clone()).expect("a token");
        }
        assert_eq!(s.distinct.capacity(), capacity);
        assert!(s.distinct.len() <= n);
    }
}
