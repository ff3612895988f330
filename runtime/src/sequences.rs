//! Whole sequences that are read once and forgotten: what classifying and embedding texts share.
//!
//! A batch is ragged, so that its sequences need no padding, and results do not depend on which sequences share one.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use crate::kernels::KV_BLOCK;
use crate::model::Model;
use crate::session::{Session, SessionOptions};

/// Cache slots of a batch. Sessions and results of that many are held at a time, so that any number of sequences needs
/// bounded memory.
const BATCH_SLOTS: usize = 2048;

/// Cuts sequences into batches whose caches have at most `slots` slots. A longer sequence is a batch of its own.
fn batches(sequences: &[Vec<u32>], slots: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut room = 0;
    for (i, sequence) in sequences.iter().enumerate() {
        // A cache consists of whole blocks.
        let taken = sequence.len().next_multiple_of(KV_BLOCK);
        match batches.last_mut() {
            Some(batch) if taken <= room => batch.end = i + 1,
            _ => {
                batches.push(i..i + 1);
                room = slots;
            }
        }
        room = room.saturating_sub(taken);
    }
    batches
}

/// Checks all of `sequences`, then calls `run` with each batch: the numbers of its sequences, and a session for each
/// with room for all of it. `run` may have seen enough.
///
/// # Errors
/// One for each sequence that is empty, longer than the model's context or outside its vocabulary, before anything is
/// run; later those of `run`, and when memory does not suffice.
pub(crate) fn in_batches(
    model: &Arc<Model>,
    sequences: &[Vec<u32>],
    mut run: impl FnMut(Range<usize>, &mut [Session]) -> Result<ControlFlow<()>, Diagnostics>,
) -> Result<(), Diagnostics> {
    validate(model, sequences)?;
    for batch in batches(sequences, BATCH_SLOTS) {
        let options = |ids: &Vec<u32>| SessionOptions { capacity: ids.len(), kv: None };
        let sessions = sequences[batch.clone()].iter().map(|ids| Session::new(model, options(ids)));
        let mut sessions = sessions.collect::<Result<Vec<_>, Diagnostic>>()?;
        if run(batch, &mut sessions)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Checks that a model can read `sequences`.
///
/// # Errors
/// One for each sequence that is empty, longer than the model's context or outside its vocabulary.
pub(crate) fn validate(model: &Model, sequences: &[Vec<u32>]) -> Result<(), Diagnostics> {
    let (context, vocabulary) = (model.context(), model.plan().shape.vocab_size);
    let mut faults = Diagnostics::new();
    for (i, ids) in sequences.iter().enumerate() {
        let mut fault = |code, expected: String, found: String| {
            let fault = Diagnostic::new(code).at(place(i)).expected(expected).found(found);
            faults.push(match code {
                Code::ContextFull => fault.help("shorten the text, or cut it into several"),
                _ => fault,
            });
        };
        if ids.is_empty() {
            fault(Code::BadArgument, "at least one token".to_owned(), "none".to_owned());
        }
        if ids.len() > context {
            let (expected, found) = (format!("at most {context} tokens"), format!("{} tokens", ids.len()));
            fault(Code::ContextFull, expected, found);
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            fault(Code::BadToken, format!("an id below {vocabulary}"), id.to_string());
        }
    }
    faults.or(())
}

/// The fault of a sequence whose `numbers` are not all finite, if they are not.
///
/// # Errors
/// Exactly that.
pub(crate) fn finite(i: usize, numbers: &[f32]) -> Result<(), Diagnostic> {
    match numbers.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(Diagnostic::new(Code::NotANumber).at(place(i)).found(x.to_string())),
        None => Ok(()),
    }
}

/// Sequence number `i`, for messages that count from 1.
fn place(i: usize) -> String {
    format!("text {}", i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_as_large_as_they_may_be() {
        let of = |lengths: &[usize]| {
            let sequences: Vec<Vec<u32>> = lengths.iter().map(|&n| vec![0; n]).collect();
            batches(&sequences, 10 * KV_BLOCK)
        };
        assert!(of(&[]).is_empty());
        let blocks = |n: usize| n * KV_BLOCK;
        assert_eq!(of(&[blocks(4), blocks(6), 1, blocks(9)]), [0..2, 2..4]);
        assert_eq!(of(&[blocks(25), 1, blocks(10), 0, 1]), [0..1, 1..2, 2..4, 4..5]);
        // Each of these takes a whole block.
        assert_eq!(of(&[1; 25]), [0..10, 10..20, 20..25]);
        assert_eq!(of(&[blocks(5) + 1, blocks(5)]), [0..1, 1..2]);
    }
}
