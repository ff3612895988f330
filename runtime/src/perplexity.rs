//! How likely texts are to a causal language model, and how far its predictions are from another model's.
//!
//! Sequences are scored each on its own: every token but the first, by the logits of the tokens before it. Sums are in
//! double precision and in the order of the tokens, so they do not depend on threads. Not here: how a text is cut into
//! sequences.

use std::sync::{Mutex, PoisonError};

use llamac_plan::HeadKind;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use crate::engine::{Engine, Feed, Keep};
use crate::model::Model;
use crate::sequences;
use crate::session::{Session, SessionOptions};

/// Tokens whose logits are held at a time.
const ROWS: usize = 64;

/// How likely the scored tokens are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Tokens that were scored.
    pub tokens: u64,
    /// The sum of their negative log-likelihoods, in nats.
    pub nll: f64,
}

impl Likelihood {
    /// e to the mean negative log-likelihood.
    pub fn perplexity(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }
}

/// How far a model's predictions are from a reference's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    /// How likely the tokens are to the reference.
    pub reference: Likelihood,
    /// The mean over scored tokens of the Kullback-Leibler divergence of the model's distribution from the
    /// reference's, `Σ p_ref · ln(p_ref / p)`, in nats.
    pub kl: f64,
    /// The largest divergence of a token.
    pub largest_kl: f64,
    /// The fraction of scored tokens whose most likely prediction is the same.
    pub agreement: f64,
}

/// What [`perplexity`] measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// How likely the tokens are to the model.
    pub likelihood: Likelihood,
    /// The distance from the reference, if there is one.
    pub divergence: Option<Divergence>,
}

/// Scores `sequences` (token ids, at least two each) with `engine`, and compares it with `reference`. `each` is called
/// with the number of tokens of every sequence that is done.
///
/// # Errors
/// When a model is not a causal language model, the two have different vocabularies, a sequence is too short, longer
/// than a context or outside the vocabulary, memory does not suffice, or a logit is not a number.
pub fn perplexity(
    engine: &mut Engine,
    mut reference: Option<&mut Engine>,
    sequences: &[Vec<u32>],
    mut each: impl FnMut(usize),
) -> Result<Measured, Diagnostics> {
    let model = engine.model().clone();
    model.plan().head.expect(HeadKind::CausalLm, model.path())?;
    sequences::validate(&model, sequences)?;
    if let Some(reference) = &reference {
        let reference = reference.model();
        reference.plan().head.expect(HeadKind::CausalLm, reference.path())?;
        same_vocabulary(&model, reference)?;
        sequences::validate(reference, sequences)?;
    }
    if let Some(short) = sequences.iter().position(|ids| ids.len() < 2) {
        let fault = Diagnostic::new(Code::BadArgument).at(format!("text {}", short + 1));
        return Err(fault.expected("at least two tokens").found("one, which nothing comes before").into());
    }
    let mut total = Total::default();
    for (i, ids) in sequences.iter().enumerate() {
        let options = SessionOptions { capacity: ids.len(), kv: None };
        let mut session = Session::new(&model, options)?;
        session.declare_length(ids.len() as u64);
        let mut other = match &reference {
            Some(reference) => {
                let mut session = Session::new(reference.model(), options)?;
                session.declare_length(ids.len() as u64);
                Some(session)
            }
            None => None,
        };
        for start in (0..ids.len() - 1).step_by(ROWS) {
            let end = (start + ROWS).min(ids.len() - 1);
            let next = &ids[start + 1..=end];
            let logits = logits(engine, &mut session, &ids[start..end])?;
            let expected = match (&mut reference, &mut other) {
                (Some(reference), Some(session)) => Some(self::logits(reference, session, &ids[start..end])?),
                _ => None,
            };
            total.add(engine, i, &logits, expected.as_deref(), next)?;
        }
        each(ids.len());
    }
    Ok(total.measured(reference.is_some()))
}

/// The logits of every one of `ids`.
fn logits(engine: &mut Engine, session: &mut Session, ids: &[u32]) -> Result<Vec<f32>, Diagnostics> {
    Ok(engine.forward(&mut [Feed::ids(session, ids, Keep::All)])?.feed(0).to_vec())
}

fn same_vocabulary(model: &Model, reference: &Model) -> Result<(), Diagnostic> {
    let sizes = [model, reference].map(|model| model.plan().shape.vocab_size);
    if sizes[0] == sizes[1] {
        return Ok(());
    }
    let fault = Diagnostic::new(Code::BadArgument).at(reference.path().display().to_string());
    let fault = fault.expected(format!("a vocabulary of {} tokens, as the model's", sizes[0]));
    Err(fault.found(format!("{} tokens", sizes[1])))
}

/// What one token adds.
#[derive(Clone, Copy, Debug, Default)]
struct Token {
    nll: f64,
    reference_nll: f64,
    kl: f64,
    agrees: bool,
}

#[derive(Debug, Default)]
struct Total {
    tokens: u64,
    sum: Token,
    largest_kl: f64,
    agreeing: u64,
}

impl Total {
    /// Adds the tokens `next`, which follow rows of logits of sequence number `i`.
    fn add(
        &mut self,
        engine: &Engine,
        i: usize,
        logits: &[f32],
        reference: Option<&[f32]>,
        next: &[u32],
    ) -> Result<(), Diagnostic> {
        let width = logits.len() / next.len();
        let of = |row: usize| row * width..(row + 1) * width;
        let found: Vec<Mutex<Token>> = next.iter().map(|_| Mutex::default()).collect();
        engine.context.pool().run(next.len(), &|row, _| {
            let token = score(&logits[of(row)], reference.map(|reference| &reference[of(row)]), next[row]);
            *found[row].lock().unwrap_or_else(PoisonError::into_inner) = token;
        });
        for token in found {
            let token = token.into_inner().unwrap_or_else(PoisonError::into_inner);
            sequences::finite(i, &[token.nll as f32, token.reference_nll as f32, token.kl as f32])?;
            self.tokens += 1;
            self.sum.nll += token.nll;
            self.sum.reference_nll += token.reference_nll;
            self.sum.kl += token.kl;
            self.largest_kl = self.largest_kl.max(token.kl);
            self.agreeing += u64::from(token.agrees);
        }
        Ok(())
    }

    fn measured(&self, compared: bool) -> Measured {
        let count = self.tokens as f64;
        let divergence = compared.then(|| Divergence {
            reference: Likelihood { tokens: self.tokens, nll: self.sum.reference_nll },
            kl: self.sum.kl / count,
            largest_kl: self.largest_kl,
            agreement: self.agreeing as f64 / count,
        });
        Measured { likelihood: Likelihood { tokens: self.tokens, nll: self.sum.nll }, divergence }
    }
}

/// What `token` adds after `logits`.
fn score(logits: &[f32], reference: Option<&[f32]>, token: u32) -> Token {
    let offset = log_sum_exp(logits);
    let nll = offset - f64::from(logits[token as usize]);
    let Some(reference) = reference else { return Token { nll, ..Token::default() } };
    let reference_offset = log_sum_exp(reference);
    let divergence = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p) - reference_offset, f64::from(q) - offset);
        // A logit of minus infinity has probability zero, and adds nothing.
        if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
    };
    Token {
        nll,
        reference_nll: reference_offset - f64::from(reference[token as usize]),
        kl: reference.iter().zip(logits).map(divergence).sum::<f64>().max(0.0),
        agrees: most_likely(logits) == most_likely(reference),
    }
}

/// ln Σ exp(logit). NaN if a logit is.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(largest) + logits.iter().map(|&z| f64::from(z - largest).exp()).sum::<f64>().ln()
}

/// The first of the largest.
fn most_likely(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }

    #[test]
    fn a_token_is_scored_by_its_share() {
        // Probabilities 1/2, 1/4, 1/4 against 1/4, 1/4, 1/2; the logits have any offset.
        let ln = |p: f32| p.ln();
        let logits = [3.0 + ln(0.5), 3.0 + ln(0.25), 3.0 + ln(0.25)];
        let reference = [ln(0.25), ln(0.25), ln(0.5)];
        let token = score(&logits, Some(&reference), 1);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        near(token.nll, 4f64.ln());
        near(token.reference_nll, 4f64.ln());
        near(token.kl, 0.25 * 0.5f64.ln() + 0.5 * 2f64.ln());
        assert!(!token.agrees);
        assert!(score(&logits, Some(&logits), 0).agrees);
        close(score(&logits, Some(&logits), 0).kl, 0.0);
    }

    #[test]
    fn what_cannot_be_has_no_share_and_nan_shows() {
        let hidden = [0.0, f32::NEG_INFINITY];
        close(score(&hidden, Some(&hidden), 0).kl, 0.0);
        assert!(score(&[f32::NAN, 0.0], None, 1).nll.is_nan());
    }

    #[test]
    fn perplexity_of_even_odds_is_their_number() {
        close(Likelihood { tokens: 3, nll: 3.0 * 8f64.ln() }.perplexity(), 8.0);
    }
}
