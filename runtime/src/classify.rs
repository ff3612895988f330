//! Classes of whole sequences, and what their scores mean.

use std::ops::ControlFlow;

use llamac_plan::diagnostic::Diagnostics;
use llamac_plan::eval::pooled_position;
use llamac_plan::{Head, HeadKind, PromptKind};

use crate::engine::{Engine, Feed, Keep};
use crate::sequences;

/// What is made of a classifier's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Probabilities of classes of which one is right.
    Softmax,
    /// Probabilities of classes of which any may be right.
    Sigmoid,
    /// The logits: they are measures, not probabilities.
    Raw,
}

impl Scoring {
    /// What the text-classification pipeline of transformers makes of the logits of a head with `labels` classes and
    /// this `problem_type`.
    pub fn of(problem_type: Option<&str>, labels: usize) -> Self {
        match problem_type {
            Some("regression") => Self::Raw,
            Some("multi_label_classification") => Self::Sigmoid,
            _ if labels == 1 => Self::Sigmoid,
            _ => Self::Softmax,
        }
    }

    /// Turns `logits` into scores.
    pub fn apply(self, logits: &mut [f32]) {
        match self {
            Self::Raw => {}
            Self::Sigmoid => {
                logits.iter_mut().for_each(|x| *x = (1.0 / (1.0 + (-f64::from(*x)).exp())) as f32);
            }
            Self::Softmax => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let weight = |x: f32| f64::from(x - max).exp();
                let sum: f64 = logits.iter().map(|&x| weight(x)).sum();
                logits.iter_mut().for_each(|x| *x = (weight(*x) / sum) as f32);
            }
        }
    }
}

/// Calls `each` with the number of each of `sequences` (token ids) and its scores, in the order of the head's labels;
/// `Break` ends the work. The sequences are read in ragged batches.
///
/// # Errors
/// When the model is no sequence classifier, a sequence is empty, outside the vocabulary or longer than the context,
/// memory does not suffice, or the logits are not numbers.
pub fn classify(
    engine: &mut Engine,
    sequences: &[Vec<u32>],
    mut each: impl FnMut(usize, &[f32]) -> ControlFlow<()>,
) -> Result<(), Diagnostics> {
    let model = engine.model().clone();
    let head = &model.plan().head;
    let Head::SequenceClassification { labels, pad_token_id, problem_type } = head else {
        return head.expect(HeadKind::SequenceClassification, model.path()).map_err(Diagnostics::from);
    };
    let scoring = Scoring::of(problem_type.as_deref(), labels.len());
    // Behind embeddings nobody looks at ids.
    let is_embedded =
        model.plan().prompt.as_ref().is_some_and(|prompt| prompt.kind == PromptKind::Embeddings);
    let pad = pad_token_id.filter(|_| !is_embedded);
    sequences::in_batches(&model, sequences, |batch, sessions| {
        let batched = sessions.iter_mut().zip(&sequences[batch.clone()]);
        let mut feeds: Vec<Feed<'_>> = batched
            .map(|(session, ids)| {
                let pooled = pooled_position(ids, pad);
                Feed::ids(session, ids, Keep::Range(pooled, pooled + 1))
            })
            .collect();
        let outputs = engine.forward(&mut feeds)?;
        for (row, i) in batch.enumerate() {
            let mut scores = outputs.feed(row).to_vec();
            sequences::finite(i, &scores)?;
            scoring.apply(&mut scores);
            if each(i, &scores).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scoring_follows_the_problem_type() {
        for (problem_type, labels, expected) in [
            (None, 3, Scoring::Softmax),
            (None, 1, Scoring::Sigmoid),
            (Some("single_label_classification"), 2, Scoring::Softmax),
            (Some("multi_label_classification"), 3, Scoring::Sigmoid),
            (Some("regression"), 1, Scoring::Raw),
            (Some("regression"), 2, Scoring::Raw),
        ] {
            assert_eq!(Scoring::of(problem_type, labels), expected, "{problem_type:?} {labels}");
        }
    }

    #[test]
    fn scores_are_probabilities_also_of_extreme_logits() {
        let scores = |scoring: Scoring, logits: &[f32]| {
            let mut scores = logits.to_vec();
            scoring.apply(&mut scores);
            scores
        };
        assert_eq!(scores(Scoring::Softmax, &[1e30, 1e30, -1e30]), [0.5, 0.5, 0.0]);
        assert_eq!(scores(Scoring::Sigmoid, &[0.0, 1e30, -1e30]), [0.5, 1.0, 0.0]);
        assert_eq!(scores(Scoring::Raw, &[-2.5]), [-2.5]);
        let [a, b] = scores(Scoring::Softmax, &[0.0, 3f32.ln()])[..] else { panic!("two scores") };
        assert!((a - 0.25).abs() < 1e-6 && (b - 0.75).abs() < 1e-6, "{a} {b}");
    }
}
