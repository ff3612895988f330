//! Guessing tokens from the sequence itself: what followed the last few tokens when they occurred before (prompt
//! lookup decoding).
//!
//! Guesses are fed together with the token that they follow, which costs little more than that token alone: its weights
//! are read anyway. They do not change what is generated. Every token is chosen from the logits of the tokens before it
//! by the same sampler in the same order, whether those logits came from a forward of one token or of several; a guess
//! only decides whether they are there already. As a row's logits are the same bits in any company, so are the tokens.

use llamac_plan::diagnostic::Diagnostics;

use crate::engine::{Engine, Feed, Keep};
use crate::session::Session;

/// Tokens that have to occur again for a guess: as many as this, or else fewer, down to one.
const CONTEXT: usize = 3;

/// Feeds tokens one after another, with guesses of those that follow.
pub(super) struct Decoder<'m> {
    engine: &'m mut Engine,
    session: Session,
    /// Guesses at a time, at most.
    most: usize,
    /// Guesses the next time: more as long as all are right.
    width: usize,
    /// The prompt, all tokens since, and the guesses that were fed.
    sequence: Vec<u32>,
    /// Tokens of `sequence` that are certain; the guesses follow.
    certain: usize,
    /// Logits of the last forward: after the token that was fed, then after each guess, `[1 + guesses, vocab]`.
    logits: Vec<f32>,
    /// The row of the last certain token, which is the number of guesses that were right.
    row: usize,
    /// Guesses so far.
    pub(super) guessed: usize,
    /// Those of them that were right.
    pub(super) right: usize,
}

impl<'m> Decoder<'m> {
    /// Continues `session`, which has been fed `prompt`, with up to `most` guesses at a time.
    pub(super) fn new(engine: &'m mut Engine, session: Session, prompt: &[u32], most: usize) -> Self {
        let sequence = prompt.to_vec();
        let certain = sequence.len();
        Self {
            engine,
            session,
            most,
            width: most,
            sequence,
            certain,
            logits: Vec::new(),
            row: 0,
            guessed: 0,
            right: 0,
        }
    }

    /// Adds `id` to the sequence and writes the logits after it to `logits`.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub(super) fn next(&mut self, id: u32, logits: &mut [f32]) -> Result<(), Diagnostics> {
        if self.sequence.get(self.certain) == Some(&id) {
            self.certain += 1;
            self.right += 1;
            self.row += 1;
        } else {
            self.feed(id)?;
        }
        let width = logits.len();
        logits.copy_from_slice(&self.logits[self.row * width..(self.row + 1) * width]);
        Ok(())
    }

    /// Forgets the guesses that are left, and feeds `id` with new ones.
    fn feed(&mut self, id: u32) -> Result<(), Diagnostics> {
        let wrong = self.sequence.len() - self.certain;
        self.session.rewind(wrong);
        self.sequence.truncate(self.certain);
        // Twice as many as the last time if all were right, or else one more than were.
        self.width = if wrong == 0 { 2 * self.width.max(1) } else { self.row + 1 }.min(self.most);
        self.sequence.push(id);
        let first = self.certain;
        self.certain += 1;
        let room = self.session.steady_tokens().min(self.session.capacity() - self.session.len());
        self.guess(self.width.min(room.saturating_sub(1)));
        self.guessed += self.sequence.len() - self.certain;
        let outputs =
            self.engine.forward(&mut [Feed::ids(&mut self.session, &self.sequence[first..], Keep::All)])?;
        self.logits.clear();
        self.logits.extend_from_slice(outputs.feed(0));
        self.row = 0;
        Ok(())
    }

    /// Appends up to `most` guesses.
    fn guess(&mut self, most: usize) {
        if let Some(start) = latest(&self.sequence) {
            let end = self.sequence.len().min(start + most);
            self.sequence.extend_from_within(start..end);
        }
    }
}

/// Where the sequence goes on after the latest earlier occurrence of its last tokens: of as many as occur, up to
/// [`CONTEXT`].
fn latest(sequence: &[u32]) -> Option<usize> {
    let longest = CONTEXT.min(sequence.len().saturating_sub(1));
    (1..=longest).rev().find_map(|n| {
        let last = &sequence[sequence.len() - n..];
        (n..sequence.len()).rev().find(|&end| &sequence[end - n..end] == last)
    })
}

#[cfg(test)]
mod tests {
    use super::latest;

    #[test]
    fn the_latest_occurrence_of_most_tokens_is_taken() {
        assert_eq!(latest(&[]), None);
        assert_eq!(latest(&[1]), None);
        assert_eq!(latest(&[1, 2, 3]), None);
        assert_eq!(latest(&[1, 1]), Some(1));
        assert_eq!(latest(&[5, 6, 5, 7, 5]), Some(3));
        // Two tokens occurred before; one of them later, too.
        assert_eq!(latest(&[1, 2, 9, 2, 8, 1, 2]), Some(2));
        assert_eq!(latest(&[1, 2, 3, 4, 9, 2, 3, 4, 8, 1, 2, 3, 4]), Some(8));
        // An occurrence may reach into the end.
        assert_eq!(latest(&[4, 4, 4, 4, 4]), Some(4));
    }
}
