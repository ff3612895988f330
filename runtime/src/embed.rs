//! Embeddings of whole sequences: their hidden states after the final norm, pooled. Any head's trunk will do; the head
//! itself is not computed.

use std::ops::ControlFlow;

use llamac_plan::diagnostic::Diagnostics;

use crate::engine::{Engine, Feed, Keep};
use crate::sequences;

/// What becomes of the hidden states of a sequence's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// One vector: their mean, special tokens included.
    Mean,
    /// One vector: that of the last token.
    Last,
    /// All of them stay, a vector for each token.
    None,
}

impl Pooling {
    /// Pools `hidden [tokens, width]`, at least one token, into rows of `width`.
    fn apply(self, hidden: &[f32], width: usize) -> Vec<f32> {
        match self {
            Self::None => hidden.to_vec(),
            Self::Last => hidden[hidden.len() - width..].to_vec(),
            Self::Mean => {
                let tokens = hidden.len() / width;
                let sum = |column: usize| {
                    hidden.chunks(width).map(|row| f64::from(row[column])).sum::<f64>() / tokens as f64
                };
                (0..width).map(|column| sum(column) as f32).collect()
            }
        }
    }
}

/// Calls `each` with the number of each of `sequences` (token ids) and its embedding; `Break` ends the work. The
/// sequences are read in ragged batches.
///
/// An embedding is rows of `hidden_size`, one after another; one row unless `pooling` leaves one for each token. With
/// `normalize` every row has the Euclidean norm 1 (or is all zeros).
///
/// # Errors
/// When a sequence is empty, outside the vocabulary or longer than the context, memory does not suffice, or a hidden
/// state is not a number.
pub fn embed(
    engine: &mut Engine,
    sequences: &[Vec<u32>],
    pooling: Pooling,
    normalize: bool,
    mut each: impl FnMut(usize, &[f32]) -> ControlFlow<()>,
) -> Result<(), Diagnostics> {
    let model = engine.model().clone();
    let shape = &model.plan().shape;
    sequences::in_batches(&model, sequences, |batch, sessions| {
        let batched = sessions.iter_mut().zip(&sequences[batch.clone()]);
        let mut feeds: Vec<Feed<'_>> =
            batched.map(|(session, ids)| Feed::ids(session, ids, Keep::None)).collect();
        let outputs = engine.forward_with_last_hidden_state(&mut feeds)?;
        for (row, i) in batch.enumerate() {
            let mut rows = pooling.apply(outputs.hidden(row, shape.layers), shape.hidden_size);
            sequences::finite(i, &rows)?;
            if normalize {
                rows.chunks_mut(shape.hidden_size).for_each(to_unit_length);
            }
            if each(i, &rows).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// Divides `row` by its Euclidean norm, but by no less than 1e-12 (as torch's `normalize`).
fn to_unit_length(row: &mut [f32]) {
    let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_pooled() {
        let hidden = [1.0, 2.0, 3.0, 6.0, 5.0, 1.0];
        assert_eq!(Pooling::Mean.apply(&hidden, 2), [3.0, 3.0]);
        assert_eq!(Pooling::Last.apply(&hidden, 2), [5.0, 1.0]);
        assert_eq!(Pooling::None.apply(&hidden, 2), hidden);
    }

    #[test]
    fn unit_length_leaves_zeros_alone() {
        let mut row = [3.0, -4.0];
        to_unit_length(&mut row);
        assert_eq!(row, [0.6, -0.8]);
        let mut zeros = [0.0; 3];
        to_unit_length(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
    }
}
