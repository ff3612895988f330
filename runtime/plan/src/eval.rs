//! A forward as transformers defines it: dense batches in, dense outputs out. Shared by every backend that can run one.

use crate::diagnostic::{Code, Diagnostic, Diagnostics};

/// What the model reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Tokens {
    /// `input_ids`, `[batch, seq]`.
    Ids(Vec<u32>),
    /// `inputs_embeds`, `[batch, seq, hidden_size]`.
    Embeddings(Vec<f32>),
}

/// The arguments of a forward. Everything is row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each, padding included.
    pub seq: usize,
    /// The tokens.
    pub tokens: Tokens,
    /// `attention_mask`, `[batch, seq]`: whether a token is real. All are if not given.
    pub mask: Option<Vec<bool>>,
    /// `position_ids`, `[batch, seq]`; 0, 1, 2, … for every sequence if not given, whatever the mask.
    pub positions: Option<Vec<i64>>,
    /// Positions from the end for which logits are wanted; all if not given.
    pub keep: Option<usize>,
    /// Also return every hidden state.
    pub hidden_states: bool,
    /// Run this many of the last positions one at a time through the KV cache.
    pub cached: usize,
}

/// One output of a forward.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// As transformers names it: `logits`, `last_hidden_state`, `hidden_states.0`, …
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Vec<f32>,
}

impl Request {
    /// Checks that the parts fit together and to a model of this vocabulary and width.
    ///
    /// # Errors
    /// One for each input that does not fit.
    pub fn validate(&self, vocab_size: usize, hidden_size: usize) -> Result<(), Diagnostics> {
        let mut faults = Diagnostics::new();
        let mut shape = |name: &str, dims: &[usize], found: usize| {
            let expected = dims.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
            if expected != Some(found) {
                faults.push(
                    Diagnostic::new(Code::BadInputTensor)
                        .at(name)
                        .expected(format!("{dims:?}"))
                        .found(format!("{found} elements")),
                );
            }
        };
        let rows = [self.batch, self.seq];
        match &self.tokens {
            Tokens::Ids(ids) => shape("input_ids", &rows, ids.len()),
            Tokens::Embeddings(e) => shape("inputs_embeds", &[self.batch, self.seq, hidden_size], e.len()),
        }
        if let Some(mask) = &self.mask {
            shape("attention_mask", &rows, mask.len());
        }
        if let Some(positions) = &self.positions {
            shape("position_ids", &rows, positions.len());
        }
        if let Tokens::Ids(ids) = &self.tokens
            && let Some(i) = ids.iter().position(|&id| id as usize >= vocab_size)
        {
            faults.push(
                Diagnostic::new(Code::BadToken)
                    .at(format!("input_ids[{}, {}]", i / self.seq, i % self.seq))
                    .expected(format!("an id below {vocab_size}"))
                    .found(ids[i].to_string()),
            );
        }
        if self.batch == 0 || self.seq == 0 {
            faults.push(Diagnostic::new(Code::BadInputTensor).message("there must be at least one token"));
        }
        if self.cached >= self.seq.max(1) {
            faults.push(
                Diagnostic::new(Code::BadArgument)
                    .at("--cached")
                    .expected(format!("fewer than the {} positions of the input", self.seq))
                    .found(self.cached.to_string()),
            );
        }
        faults.or(())
    }

    /// Whether the token at column `column` of sequence `row` is real.
    pub fn is_real(&self, row: usize, column: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[row * self.seq + column])
    }

    /// The position of the token at column `column` of sequence `row`.
    pub fn position(&self, row: usize, column: usize) -> i64 {
        self.positions.as_ref().map_or(column as i64, |positions| positions[row * self.seq + column])
    }

    /// Length that transformers takes for rotary frequencies that depend on it, for the columns before `end` from
    /// `start` on: the largest position of the whole batch and one.
    pub fn rope_length(&self, columns: std::ops::Range<usize>) -> u64 {
        let positions = (0..self.batch).flat_map(|row| columns.clone().map(move |column| (row, column)));
        let last = positions.map(|(row, column)| self.position(row, column)).max().unwrap_or(-1);
        u64::try_from(last.saturating_add(1)).unwrap_or(0)
    }

    /// The column of each sequence that a classifier pools (LlamaForSequenceClassification of transformers 5): the
    /// last whose id is not the padding token, column 0 if all are, the last of all for embeddings or without a
    /// padding token.
    ///
    /// # Errors
    /// When there are several sequences and no padding token.
    pub fn pooled_columns(&self, pad_token_id: Option<u32>) -> Result<Vec<usize>, Diagnostic> {
        match (&self.tokens, pad_token_id) {
            (_, None) if self.batch > 1 => Err(Diagnostic::new(Code::BadInputTensor)
                .message("a classifier without a padding token takes one sequence at a time")
                .help("set pad_token_id in config.json")),
            (Tokens::Ids(ids), Some(pad)) => Ok(ids
                .chunks(self.seq)
                .map(|row| row.iter().rposition(|&id| id != pad).unwrap_or(0))
                .collect()),
            _ => Ok(vec![self.seq - 1; self.batch]),
        }
    }
}
