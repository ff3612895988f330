//! The machine's limits, measured between the runs that are compared with them.
//!
//! A shared machine's memory may be twice as fast a minute later, so a limit that was measured once says little. A
//! [`Meter`] takes short samples whenever it is asked to, of the same pages that the model reads, and the limit is their
//! best decile.

use std::time::{Duration, Instant};

use llamac_plan::Arithmetic;

use crate::kernels::{Context, peak};
use crate::profile::Limits;

/// How long a sample reads memory.
const READ: Duration = Duration::from_millis(12);

/// How long a sample computes with each arithmetic.
const COMPUTE: Duration = Duration::from_millis(2);

/// Bytes that are read between two looks at the clock: more than the caches hold would be better, but a small model has
/// no more.
const PIECE: usize = 16 << 20;

/// Samples of the limits.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Where reading goes on.
    place: usize,
    read: Vec<f64>,
    f32: Vec<f64>,
    bf16: Vec<f64>,
    int8: Vec<f64>,
}

impl Meter {
    /// Takes a sample of each limit; reading goes round in `bytes`.
    pub(super) fn sample(&mut self, context: &Context, bytes: &[u8]) {
        if !bytes.is_empty() {
            let (start, mut read) = (Instant::now(), 0);
            while start.elapsed() < READ {
                let end = bytes.len().min(self.place + PIECE);
                peak::read(context, &bytes[self.place..end]);
                read += end - self.place;
                self.place = if end == bytes.len() { 0 } else { end };
            }
            self.read.push(read as f64 / start.elapsed().as_secs_f64());
        }
        for (arithmetic, samples) in [
            (Arithmetic::F32, &mut self.f32),
            (Arithmetic::Bf16, &mut self.bf16),
            (Arithmetic::Int8, &mut self.int8),
        ] {
            let start = Instant::now();
            let mut best: f64 = 0.0;
            while start.elapsed() < COMPUTE {
                let start = Instant::now();
                let Some(ops) = peak::multiply_add(context, arithmetic) else { break };
                best = best.max(ops as f64 / start.elapsed().as_secs_f64());
            }
            if best > 0.0 {
                samples.push(best);
            }
        }
    }

    /// The limits by the samples so far; infinite where there are none, so that nothing is measured by them.
    pub(super) fn limits(&self) -> Limits {
        let known = |samples: &[f64]| (!samples.is_empty()).then(|| best_decile(samples));
        Limits {
            read: known(&self.read).unwrap_or(f64::INFINITY),
            f32: known(&self.f32).unwrap_or(f64::INFINITY),
            bf16: known(&self.bf16),
            int8: known(&self.int8),
        }
    }
}

/// The value that a tenth of `samples`, at least one, reach or exceed.
pub(super) fn best_decile(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) - (sorted.len() - 1) / 10]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_better() {
        assert_eq!(best_decile(&[3.0]), 3.0);
        assert_eq!(best_decile(&[1.0, 3.0, 2.0]), 3.0);
        let samples: Vec<f64> = (0..=20).map(f64::from).collect();
        assert_eq!(best_decile(&samples), 18.0);
    }

    #[test]
    fn samples_are_speeds() {
        let context = Context::new(2);
        let mut meter = Meter::default();
        meter.sample(&context, &[1; 1 << 20]);
        let limits = meter.limits();
        assert!(limits.read > 1e6 && limits.read.is_finite());
        assert!(limits.f32 > 1e6 && limits.f32.is_finite());
    }
}
