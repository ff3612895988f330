//! Which tokens survive top-k, top-p and min-p, with their probabilities.
//!
//! Only the tokens that may survive are ever sorted: of a vocabulary of 128 thousand, top-k passes on a few dozen,
//! and top-p alone sorts as many as it keeps. Ties fall as transformers' do: at the k-th value all of them are kept,
//! at the edge of top-p the higher ids are (a stable ascending sort drops the lower ones first).

use std::cmp::Ordering;

use super::Sampling;

/// A token that may be drawn: its id, and its logit or probability.
pub(super) type Candidate = (u32, f32);

/// Candidates among which top-p looks first.
const FIRST_LOOK: usize = 64;

/// Works out the distribution, in buffers that are kept between tokens.
#[derive(Debug)]
pub(super) struct Keeper {
    /// By id when a function returns.
    candidates: Vec<Candidate>,
    /// The logits of candidates, for selection.
    scratch: Vec<f32>,
}

impl Keeper {
    /// Buffers for `vocab_size` logits.
    pub(super) fn new(vocab_size: usize) -> Self {
        Self { candidates: Vec::with_capacity(vocab_size), scratch: Vec::with_capacity(vocab_size) }
    }

    /// The tokens that `sampling` keeps of `logits`, by id, with probabilities that add up to 1; `None` if a logit is
    /// not a number or infinite, or if all are minus infinity. Temperature was applied already.
    pub(super) fn keep(&mut self, logits: &[f32], sampling: &Sampling) -> Option<&[Candidate]> {
        if logits.iter().any(|&z| z.is_nan() || z == f32::INFINITY) {
            return None;
        }
        self.top_k(logits, sampling.top_k as usize);
        softmax(&mut self.candidates)?;
        if sampling.top_p < 1.0 {
            self.top_p(sampling.top_p);
        }
        if let Some(min_p) = sampling.min_p {
            self.min_p(min_p);
        }
        Some(&self.candidates)
    }

    /// Keeps the logits that are not below the k-th largest; all that are not minus infinity if `k` is 0.
    fn top_k(&mut self, logits: &[f32], k: usize) {
        self.candidates.clear();
        let everything = k == 0 || k >= logits.len();
        let mut floor = f32::NEG_INFINITY;
        let mut limit = if everything { usize::MAX } else { k.saturating_mul(4).max(256) };
        for (id, &z) in (0u32..).zip(logits) {
            if z >= floor && z > f32::NEG_INFINITY {
                self.candidates.push((id, z));
                if self.candidates.len() >= limit {
                    floor = self.raise(k);
                    limit = limit.max(self.candidates.len().saturating_mul(2));
                }
            }
        }
        if !everything && self.candidates.len() > k {
            self.raise(k);
        }
    }

    /// Drops the candidates below the k-th largest and returns its value.
    fn raise(&mut self, k: usize) -> f32 {
        self.scratch.clear();
        self.scratch.extend(self.candidates.iter().map(|&(_, z)| z));
        let (_, &mut floor, _) = self.scratch.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        self.candidates.retain(|&(_, z)| z >= floor);
        floor
    }

    /// Drops the least likely tokens as long as what is dropped adds up to at most `1 - p`; keeps one.
    fn top_p(&mut self, p: f32) {
        let edge = (1.0 - f64::from(p)) as f32;
        let total: f64 = self.candidates.iter().map(|&(_, q)| f64::from(q)).sum();
        // Of n tokens, those below edge / n cannot add up to more: they are dropped without being sorted.
        let sure = 0.999 * edge / self.candidates.len() as f32;
        self.candidates.retain(|&(_, q)| q > sure);
        let n = self.candidates.len();
        let (mut sorted, mut kept, mut before) = (0, 0, 0.0);
        'widen: while sorted < n {
            let wide = (sorted * 4).clamp(FIRST_LOOK.min(n), n);
            if wide < n {
                self.candidates[sorted..].select_nth_unstable_by(wide - sorted, most_likely_first);
            }
            self.candidates[sorted..wide].sort_unstable_by(most_likely_first);
            for &(_, q) in &self.candidates[sorted..wide] {
                // The mass of this token and of all behind it.
                if kept > 0 && (total - before) as f32 <= edge {
                    break 'widen;
                }
                before += f64::from(q);
                kept += 1;
            }
            sorted = wide;
        }
        self.candidates.truncate(kept);
        self.settle(before);
    }

    /// Drops tokens less likely than `p` times the most likely one; keeps the most likely.
    fn min_p(&mut self, p: f32) {
        let most = self.candidates.iter().fold(0.0, |most: f32, &(_, q)| most.max(q));
        self.candidates.retain(|&(_, q)| q >= p * most);
        let mass = self.candidates.iter().map(|&(_, q)| f64::from(q)).sum();
        self.settle(mass);
    }

    /// Makes probabilities of a total `mass` add up to 1 and orders them by id.
    fn settle(&mut self, mass: f64) {
        for (_, q) in &mut self.candidates {
            *q = (f64::from(*q) / mass) as f32;
        }
        self.candidates.sort_unstable_by_key(|&(id, _)| id);
    }
}

/// No two candidates are equal, so that the order does not depend on the sort.
fn most_likely_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(b.0.cmp(&a.0))
}

/// Turns logits into probabilities; `None` if there are none. `libm` computes the same everywhere.
fn softmax(candidates: &mut [Candidate]) -> Option<()> {
    let most = candidates.iter().map(|&(_, z)| z).reduce(f32::max)?;
    let mut sum = 0.0f64;
    for (_, z) in &mut *candidates {
        *z = libm::expf(*z - most);
        sum += f64::from(*z);
    }
    for (_, q) in candidates {
        *q = (f64::from(*q) / sum) as f32;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(top_k: u32, top_p: f32, min_p: Option<f32>) -> Sampling {
        Sampling { do_sample: true, top_k, top_p, min_p, ..Sampling::default() }
    }

    fn kept(logits: &[f32], s: &Sampling) -> Vec<u32> {
        let mut keeper = Keeper::new(logits.len());
        keeper.keep(logits, s).expect("numbers").iter().map(|c| c.0).collect()
    }

    /// A full stable sort, as transformers does it.
    fn naive(logits: &[f32], s: &Sampling) -> Vec<u32> {
        let mut z = logits.to_vec();
        if s.top_k > 0 {
            let mut sorted = z.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let floor = sorted[(s.top_k as usize).min(z.len()) - 1];
            z.iter_mut().filter(|z| **z < floor).for_each(|z| *z = f32::NEG_INFINITY);
        }
        let softmax = |z: &[f32]| {
            let most = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = z.iter().map(|z| f64::from(libm::expf(z - most))).sum();
            z.iter().map(|z| (f64::from(libm::expf(z - most)) / sum) as f32).collect::<Vec<_>>()
        };
        if s.top_p < 1.0 {
            let q = softmax(&z);
            let mut order: Vec<_> = (0..z.len()).collect();
            order.sort_by(|&a, &b| z[a].total_cmp(&z[b]));
            let mut sum = 0.0f64;
            for &i in &order[..z.len() - 1] {
                sum += f64::from(q[i]);
                if sum as f32 <= (1.0 - f64::from(s.top_p)) as f32 {
                    z[i] = f32::NEG_INFINITY;
                }
            }
        }
        if let Some(p) = s.min_p {
            let q = softmax(&z);
            let most = q.iter().copied().fold(0.0, f32::max);
            for (z, q) in z.iter_mut().zip(q) {
                if q < p * most {
                    *z = f32::NEG_INFINITY;
                }
            }
        }
        (0u32..).zip(z).filter(|c| c.1 > f32::NEG_INFINITY).map(|c| c.0).collect()
    }

    fn random(n: usize, seed: u32, levels: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        (0..n).map(|_| (next() % levels) as f32 * 16.0 / levels as f32 - 8.0).collect()
    }

    #[test]
    fn agrees_with_a_full_sort() {
        let mut cases = 0;
        for n in [1, 2, 17, 300, 5_000] {
            for (seed, levels) in [(1, 1 << 20), (2, 5), (3, 60), (4, 1)] {
                let z = random(n, seed, levels);
                for top_k in [0, 1, 2, 50, 400] {
                    for top_p in [0.0, 0.3, 0.77, 0.95, 1.0] {
                        for min_p in [None, Some(0.0), Some(0.2), Some(1.0)] {
                            let s = settings(top_k, top_p, min_p);
                            assert_eq!(kept(&z, &s), naive(&z, &s), "{n} {seed} {s:?}");
                            cases += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(cases, 5 * 4 * 5 * 5 * 4);
    }

    #[test]
    fn probabilities_add_up() {
        let z = random(5_000, 9, 1 << 20);
        let mut keeper = Keeper::new(z.len());
        for s in [settings(0, 1.0, None), settings(50, 0.9, None), settings(0, 0.9, Some(0.1))] {
            let sum: f64 = keeper.keep(&z, &s).expect("numbers").iter().map(|c| f64::from(c.1)).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        }
    }

    #[test]
    fn logits_that_are_no_numbers_keep_nothing() {
        let mut keeper = Keeper::new(3);
        let s = settings(50, 0.9, None);
        assert!(keeper.keep(&[0.0, f32::NAN, 1.0], &s).is_none());
        assert!(keeper.keep(&[0.0, f32::INFINITY, 1.0], &s).is_none());
        assert!(keeper.keep(&[f32::NEG_INFINITY; 3], &s).is_none());
        assert!(keeper.keep(&[], &s).is_none());
        assert_eq!(keeper.keep(&[f32::NEG_INFINITY, 2.0], &s), Some(&[(1, 1.0)][..]));
    }
}
