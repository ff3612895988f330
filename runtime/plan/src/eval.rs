//! A forward as transformers defines it: dense batches in, dense outputs out. Shared by every backend that can run one.

use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::{Head, PromptKind, SPAN_LOGITS, SoftPrompt};

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
    /// As transformers names it: `logits`, `start_logits`, `last_hidden_state`, `hidden_states.0`, …
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Vec<f32>,
}

impl Output {
    /// Puts the columns of `next [batch, columns, …]` behind those of this output, which is like it but for the number
    /// of columns.
    pub fn append_columns(&mut self, next: &Self) {
        let row = |output: &Self| output.shape[1..].iter().product::<usize>().max(1);
        let rows = self.data.chunks(row(self)).zip(next.data.chunks(row(next)));
        self.data = rows.flat_map(|(old, new)| old.iter().chain(new).copied()).collect();
        self.shape[1] += next.shape[1];
    }

    /// Keeps the last `keep` columns of `[batch, columns, width]`; all if there are fewer.
    pub fn keep_columns(&mut self, keep: usize) {
        let row = self.shape[1] * self.shape[2];
        let kept = keep.min(self.shape[1]);
        let skip = row - kept * self.shape[2];
        self.data = self.data.chunks(row.max(1)).flat_map(|row| row[skip..].iter().copied()).collect();
        self.shape[1] = kept;
    }
}

/// Puts `start_logits` and `end_logits`, `[batch, columns]`, in the place of [`SPAN_LOGITS`], `[batch, columns, 2]`;
/// other outputs stay as they are.
pub fn spans_apart(outputs: Vec<Output>) -> Vec<Output> {
    let mut apart = Vec::with_capacity(outputs.len() + 1);
    for output in outputs {
        if output.name != SPAN_LOGITS {
            apart.push(output);
            continue;
        }
        let shape = &output.shape[..output.shape.len() - 1];
        let (pairs, _) = output.data.as_chunks::<2>();
        for (column, name) in ["start_logits", "end_logits"].into_iter().enumerate() {
            let data = pairs.iter().map(|pair| pair[column]).collect();
            apart.push(Output { name: name.to_owned(), shape: shape.to_vec(), data });
        }
    }
    apart
}

/// The position of a sequence that a classifier pools (LlamaForSequenceClassification of transformers 5): the last
/// token that is not `pad`, the first if all are; the last of all without a padding token.
pub fn pooled_position(ids: &[u32], pad: Option<u32>) -> usize {
    match pad {
        Some(pad) => ids.iter().rposition(|&id| id != pad).unwrap_or(0),
        None => ids.len().saturating_sub(1),
    }
}

impl Request {
    /// Checks that the parts fit together and to a model of this vocabulary and width.
    ///
    /// # Errors
    /// One for each input that does not fit.
    pub fn validate(&self, vocab_size: usize, hidden_size: usize) -> Result<(), Diagnostics> {
        if self.batch == 0 || self.seq == 0 {
            return Err(Diagnostic::new(Code::BadInputTensor)
                .message("there must be at least one token")
                .into());
        }
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
        if self.cached >= self.seq.max(1) {
            faults.push(
                Diagnostic::new(Code::BadArgument)
                    .at("--cached")
                    .expected(format!("fewer than the {} positions of the input", self.seq))
                    .found(self.cached.to_string()),
            );
        }
        if let Some(keep) = self.keep.filter(|&keep| keep > self.seq) {
            faults.push(
                Diagnostic::new(Code::BadArgument)
                    .at("--keep")
                    .expected(format!("at most the {} positions of the input", self.seq))
                    .found(keep.to_string()),
            );
        }
        faults.or(())
    }

    /// Checks that `head` can answer: it has logits for each position if some are kept, and pools what it is given.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check_head(&self, head: &Head) -> Result<(), Diagnostic> {
        match head {
            Head::CausalLm => Ok(()),
            _ if self.keep.is_some() => Err(Diagnostic::new(Code::BadArgument)
                .at("--keep")
                .message(format!("the head `{}` has no logits for each position", head.name()))),
            Head::SequenceClassification { pad_token_id, .. } => {
                self.pooled_columns(*pad_token_id, None).map(|_| ())
            }
            Head::Base | Head::TokenClassification { .. } | Head::QuestionAnswering => Ok(()),
        }
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

    /// The request with the positions of a text that comes behind `prompt`, as PEFT has them: behind embeddings they
    /// count on whatever was given, behind a prefix they are moved.
    pub fn behind<W>(&self, prompt: &SoftPrompt<W>) -> Self {
        let position = |row: usize, column: usize| match prompt.kind {
            PromptKind::Embeddings => column as i64,
            PromptKind::Prefix => self.position(row, column),
        };
        let columns = (0..self.batch).flat_map(|row| (0..self.seq).map(move |column| (row, column)));
        let moved = columns.map(|(row, column)| position(row, column).saturating_add(prompt.tokens as i64));
        Self { positions: Some(moved.collect()), ..self.clone() }
    }

    /// The column of each sequence that a classifier pools: see [`pooled_position`]; the last one for embeddings, also
    /// where only the soft prompt of kind `prompt` consists of them.
    ///
    /// # Errors
    /// When there are several sequences and no padding token.
    pub fn pooled_columns(
        &self,
        pad_token_id: Option<u32>,
        prompt: Option<PromptKind>,
    ) -> Result<Vec<usize>, Diagnostic> {
        match (&self.tokens, pad_token_id) {
            (_, None) if self.batch > 1 => Err(Diagnostic::new(Code::BadInputTensor)
                .message("a classifier without a padding token takes one sequence at a time")
                .help("set pad_token_id in config.json")),
            (Tokens::Ids(ids), pad) if prompt != Some(PromptKind::Embeddings) => {
                Ok(ids.chunks(self.seq).map(|row| pooled_position(row, pad)).collect())
            }
            _ => Ok(vec![self.seq - 1; self.batch]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_put_behind_others_and_cut_from_the_left() {
        let output = |columns: usize, data: &[f32]| Output {
            name: "logits".to_owned(),
            shape: vec![2, columns, 2],
            data: data.to_vec(),
        };
        let mut all = output(1, &[1.0, 2.0, 5.0, 6.0]);
        all.append_columns(&output(1, &[3.0, 4.0, 7.0, 8.0]));
        assert_eq!(all, output(2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]));
        all.keep_columns(3);
        assert_eq!(all.shape, [2, 2, 2]);
        all.keep_columns(1);
        assert_eq!(all, output(1, &[3.0, 4.0, 7.0, 8.0]));
    }

    #[test]
    fn starts_and_ends_come_apart() {
        let output = |name: &str, shape: &[usize], data: &[f32]| Output {
            name: name.to_owned(),
            shape: shape.to_vec(),
            data: data.to_vec(),
        };
        let hidden = output("hidden_states.0", &[1, 3, 1], &[7.0, 8.0, 9.0]);
        let spans = output(SPAN_LOGITS, &[1, 3, 2], &[1.0, -1.0, 2.0, -2.0, 3.0, -3.0]);
        let expected = vec![
            output("start_logits", &[1, 3], &[1.0, 2.0, 3.0]),
            output("end_logits", &[1, 3], &[-1.0, -2.0, -3.0]),
            hidden.clone(),
        ];
        assert_eq!(spans_apart(vec![spans, hidden]), expected);
    }

    #[test]
    fn pooling_skips_padding_from_the_right() {
        for (ids, pad, position) in [
            (&[5, 0, 6, 0, 0][..], Some(0), 2),
            (&[0, 0], Some(0), 0),
            (&[5, 0], None, 1),
            (&[0, 5], Some(0), 1),
        ] {
            assert_eq!(pooled_position(ids, pad), position, "{ids:?}");
        }
    }

    fn request(batch: usize, seq: usize, tokens: Tokens) -> Request {
        Request {
            batch,
            seq,
            tokens,
            mask: None,
            positions: None,
            keep: None,
            hidden_states: false,
            cached: 0,
        }
    }

    #[test]
    fn inputs_that_do_not_fit_are_told_one_by_one() {
        let wrong = Request {
            mask: Some(vec![true; 5]),
            positions: Some(vec![0; 7]),
            cached: 3,
            ..request(2, 3, Tokens::Ids(vec![1, 2, 3, 4, 16]))
        };
        let expected = "\
error[E0402]: invalid input tensor
  --> input_ids
   expected [2, 3]
   found    5 elements
error[E0402]: invalid input tensor
  --> attention_mask
   expected [2, 3]
   found    5 elements
error[E0402]: invalid input tensor
  --> position_ids
   expected [2, 3]
   found    7 elements
error[E0400]: token id outside the vocabulary
  --> input_ids[1, 1]
   expected an id below 16
   found    16
error[E0001]: invalid argument
  --> --cached
   expected fewer than the 3 positions of the input
   found    3";
        assert_eq!(wrong.validate(16, 4).unwrap_err().to_string().trim_end(), expected);
        let embeddings = |count| request(2, 3, Tokens::Embeddings(vec![0.0; count]));
        assert_eq!(embeddings(24).validate(16, 4), Ok(()));
        let told = embeddings(23).validate(16, 4).unwrap_err().to_string();
        assert!(told.contains("expected [2, 3, 4]\n   found    23 elements"), "{told}");
        // As many elements as there are bits of an address, and more, are no more than the file has.
        let told = request(usize::MAX, 3, Tokens::Ids(vec![1])).validate(16, 4).unwrap_err().to_string();
        assert!(told.contains("found    1 elements"), "{told}");
        let told = request(0, 3, Tokens::Ids(vec![])).validate(16, 4).unwrap_err().to_string();
        assert!(told.contains("there must be at least one token"), "{told}");
    }

    #[test]
    fn a_classifier_pools_where_it_can_tell() {
        let ids = |batch| request(batch, 2, Tokens::Ids([5, 0].repeat(batch)));
        assert_eq!(ids(2).pooled_columns(Some(0), None), Ok(vec![0, 0]));
        assert_eq!(ids(2).pooled_columns(Some(0), Some(PromptKind::Prefix)), Ok(vec![0, 0]));
        assert_eq!(ids(2).pooled_columns(Some(0), Some(PromptKind::Embeddings)), Ok(vec![1, 1]));
        assert_eq!(ids(1).pooled_columns(None, None), Ok(vec![1]));
        let fault = ids(2).pooled_columns(None, None).unwrap_err().to_string();
        assert!(fault.contains("without a padding token takes one sequence at a time"), "{fault}");
        let embeddings = request(2, 2, Tokens::Embeddings(vec![0.0; 16]));
        assert_eq!(embeddings.pooled_columns(Some(0), None), Ok(vec![1, 1]));
    }

    #[test]
    fn a_text_behind_a_prompt_has_later_positions() {
        let given = Request { positions: Some(vec![0, 2, 4, 6]), ..request(2, 2, Tokens::Ids(vec![1; 4])) };
        let behind =
            |kind| given.behind(&SoftPrompt::<()> { kind, tokens: 10, weights: Vec::new() }).positions;
        assert_eq!(behind(PromptKind::Prefix), Some(vec![10, 12, 14, 16]));
        assert_eq!(behind(PromptKind::Embeddings), Some(vec![10, 11, 10, 11]));
    }
}
