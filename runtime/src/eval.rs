//! A forward as transformers defines it, by the compiled model: dense, padded batches in and out.
//!
//! Inside, the batch is ragged: masked tokens at the edges of a sequence are not computed (unless a classifier pools
//! one) and read as zeros in the outputs, where transformers leaves them undefined. Masked tokens between real ones
//! are computed as transformers does: they see what came before them, and nobody sees them. A soft prompt of embeddings
//! has rows in the outputs, before those of the request, as in PEFT.

use std::borrow::Cow;
use std::ops::Range;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::eval::{self, Output, Request, Tokens};
use llamac_plan::{Head, KvDtype, Plan, SoftPrompt};

use crate::engine::{Engine, Feed, Input, Keep};
use crate::session::{Session, SessionOptions};

/// Runs `request` with a cache of dtype `kv`.
///
/// # Errors
/// When the request does not fit the model, or memory does not suffice.
pub fn eval(engine: &mut Engine, request: &Request, kv: KvDtype) -> Result<Vec<Output>, Diagnostics> {
    let model = engine.model().clone();
    let plan = model.plan();
    request.validate(plan.shape.vocab_size, plan.shape.hidden_size)?;
    request.check_head(&plan.head)?;
    let wanted = Wanted::new(plan, request)?;
    let request =
        &plan.prompt.as_ref().map_or(Cow::Borrowed(request), |prompt| Cow::Owned(request.behind(prompt)));
    let fed: Vec<Range<usize>> = (0..request.batch).map(|row| fed_columns(request, row, &wanted)).collect();
    let options = SessionOptions { capacity: request.seq, kv: Some(kv) };
    let mut sessions =
        (0..request.batch).map(|_| Session::new(&model, options)).collect::<Result<Vec<_>, Diagnostic>>()?;
    let mut sink = Sink::new(&model, request, &wanted)?;
    let prefill = 0..request.seq - request.cached;
    if sink.lead > 0 {
        read_prompt(engine, request.rope_length(prefill.clone()), &mut sessions, &mut sink)?;
    }
    for phase in
        std::iter::once(prefill.clone()).chain((prefill.end..request.seq).map(|column| column..column + 1))
    {
        forward(engine, request, &wanted, &fed, phase, &mut sessions, &mut sink)?;
    }
    Ok(eval::spans_apart(sink.outputs))
}

/// Which columns of each row of the request the head's output is wanted for.
enum Wanted {
    /// The same columns of every row.
    Columns(Range<usize>),
    /// One column of each row.
    Pooled(Vec<usize>),
}

impl Wanted {
    fn new(plan: &Plan, request: &Request) -> Result<Self, Diagnostic> {
        match &plan.head {
            Head::CausalLm => {
                let keep = request.keep.filter(|&keep| keep > 0).unwrap_or(request.seq).min(request.seq);
                Ok(Self::Columns(request.seq - keep..request.seq))
            }
            Head::Base | Head::TokenClassification { .. } | Head::QuestionAnswering => {
                Ok(Self::Columns(0..request.seq))
            }
            Head::SequenceClassification { pad_token_id, .. } => {
                let prompt = plan.prompt.as_ref().map(|prompt| prompt.kind);
                request.pooled_columns(*pad_token_id, prompt).map(Self::Pooled)
            }
        }
    }

    fn columns(&self, row: usize) -> Range<usize> {
        match self {
            Self::Columns(columns) => columns.clone(),
            Self::Pooled(columns) => columns[row]..columns[row] + 1,
        }
    }
}

/// The columns of `row` that are computed: from the first real token to the last, and the pooled one.
fn fed_columns(request: &Request, row: usize, wanted: &Wanted) -> Range<usize> {
    let mut real = (0..request.seq).filter(|&column| request.is_real(row, column));
    let span = match real.next() {
        Some(first) => first..real.next_back().unwrap_or(first) + 1,
        None => 0..0,
    };
    match wanted {
        Wanted::Columns(_) => span,
        Wanted::Pooled(columns) if span.is_empty() => columns[row]..columns[row] + 1,
        Wanted::Pooled(columns) => span.start.min(columns[row])..span.end.max(columns[row] + 1),
    }
}

/// What of `a` is in `b`, as a part of `a` also where it is empty.
fn intersect(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = b.start.clamp(a.start, a.end);
    start..b.end.clamp(start, a.end)
}

/// Feeds every session the soft prompt, for a sequence of `length` positions, and files what comes out.
fn read_prompt(
    engine: &mut Engine,
    length: u64,
    sessions: &mut [Session],
    sink: &mut Sink,
) -> Result<(), Diagnostics> {
    let batch = sessions.len();
    let keep = if sink.head_lead > 0 { Keep::All } else { Keep::None };
    let feed = |session| Feed { input: Input::Prompt, length: Some(length), ..Feed::ids(session, &[], keep) };
    let mut feeds: Vec<Feed<'_>> = sessions.iter_mut().map(feed).collect();
    let outputs = match sink.hidden_states() {
        0 => engine.forward(&mut feeds)?,
        _ => engine.forward_with_hidden_states(&mut feeds)?,
    };
    for row in 0..batch {
        if sink.head_lead > 0 {
            sink.put(0, row, 0, outputs.feed(row));
        }
        for index in 0..sink.hidden_states() {
            sink.put(index + 1, row, 0, outputs.hidden(row, index));
        }
    }
    Ok(())
}

/// Feeds the columns of `phase` and files what comes out.
fn forward(
    engine: &mut Engine,
    request: &Request,
    wanted: &Wanted,
    fed: &[Range<usize>],
    phase: Range<usize>,
    sessions: &mut [Session],
    sink: &mut Sink,
) -> Result<(), Diagnostics> {
    let seq = request.seq;
    let hidden_size = engine.model().plan().shape.hidden_size;
    let columns: Vec<Range<usize>> = fed.iter().map(|fed| intersect(fed, &phase)).collect();
    let per_token = |row: usize| columns[row].clone().map(move |column| (row, column));
    let positions: Vec<Vec<i64>> =
        (0..request.batch).map(|row| per_token(row).map(|(r, c)| request.position(r, c)).collect()).collect();
    let visible: Vec<Vec<bool>> =
        (0..request.batch).map(|row| per_token(row).map(|(r, c)| request.is_real(r, c)).collect()).collect();
    let length = Some(request.rope_length(phase.clone()));
    // The whole batch follows one length, those too that have nothing in this phase.
    for (row, session) in sessions.iter_mut().enumerate().filter(|(row, _)| columns[*row].is_empty()) {
        session.advance_length(request.position(row, phase.start), length);
    }
    let mut feeds = Vec::with_capacity(request.batch);
    let mut rows = Vec::with_capacity(request.batch);
    for (row, session) in sessions.iter_mut().enumerate().filter(|(row, _)| !columns[*row].is_empty()) {
        let place = row * seq + columns[row].start..row * seq + columns[row].end;
        let input = match &request.tokens {
            Tokens::Ids(ids) => Input::Ids(&ids[place]),
            Tokens::Embeddings(rows) => {
                Input::Embeddings(&rows[place.start * hidden_size..place.end * hidden_size])
            }
        };
        let kept = intersect(&columns[row], &wanted.columns(row));
        let keep = Keep::Range(kept.start - columns[row].start, kept.end - columns[row].start);
        let (positions, visible) = (Some(&positions[row][..]), Some(&visible[row][..]));
        feeds.push(Feed { session, input, positions, visible, keep, length });
        rows.push((row, kept));
    }
    let outputs = if request.hidden_states {
        engine.forward_with_hidden_states(&mut feeds)?
    } else {
        engine.forward(&mut feeds)?
    };
    for (feed, (row, kept)) in rows.into_iter().enumerate() {
        if !kept.is_empty() {
            sink.head(row, kept.start - wanted.columns(row).start, outputs.feed(feed));
        }
        for index in 0..sink.hidden_states() {
            sink.hidden(index, row, columns[row].start, outputs.hidden(feed, index));
        }
    }
    Ok(())
}

/// The outputs, filled in as forwards deliver them: the head's first, then the hidden states.
struct Sink {
    outputs: Vec<Output>,
    /// Columns of hidden states before the request's: those of a soft prompt.
    lead: usize,
    /// The same of the head's output.
    head_lead: usize,
}

impl Sink {
    fn new(model: &crate::Model, request: &Request, wanted: &Wanted) -> Result<Self, Diagnostic> {
        let plan = model.plan();
        let lead = plan.prompt.as_ref().map_or(0, SoftPrompt::read_tokens);
        // The last columns that are kept are the request's.
        let whole = matches!(wanted, Wanted::Columns(_)) && request.keep.is_none_or(|keep| keep == 0);
        let head_lead = if whole { lead } else { 0 };
        let mut shapes = vec![(
            plan.head.output().to_owned(),
            match wanted {
                Wanted::Columns(columns) => {
                    vec![request.batch, head_lead + columns.len(), model.output_width()]
                }
                Wanted::Pooled(_) => vec![request.batch, model.output_width()],
            },
        )];
        if request.hidden_states {
            let shape = vec![request.batch, lead + request.seq, plan.shape.hidden_size];
            shapes.extend(
                (0..=plan.shape.layers).map(|index| (format!("hidden_states.{index}"), shape.clone())),
            );
        }
        let zeros = |(name, shape): (String, Vec<usize>)| {
            let len = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
            let mut data = Vec::new();
            match len.map(|len| (len, data.try_reserve_exact(len))) {
                Some((len, Ok(()))) => {
                    data.resize(len, 0.0);
                    Ok(Output { name, shape, data })
                }
                _ => Err(Diagnostic::new(Code::OutOfMemory)
                    .at(name)
                    .message(format!("an output of shape {shape:?} does not fit into memory"))
                    .help("ask for fewer positions (`--keep N`)")),
            }
        };
        let outputs = shapes.into_iter().map(zeros).collect::<Result<_, _>>()?;
        Ok(Self { outputs, lead, head_lead })
    }

    fn hidden_states(&self) -> usize {
        self.outputs.len() - 1
    }

    fn head(&mut self, row: usize, first: usize, data: &[f32]) {
        self.put(0, row, self.head_lead + first, data);
    }

    fn hidden(&mut self, index: usize, row: usize, first: usize, data: &[f32]) {
        self.put(index + 1, row, self.lead + first, data);
    }

    fn put(&mut self, output: usize, row: usize, first: usize, data: &[f32]) {
        let output = &mut self.outputs[output];
        let row_len: usize = output.shape[1..].iter().product();
        let width = output.shape.last().copied().unwrap_or(0);
        let start = row * row_len + first * width;
        output.data[start..start + data.len()].copy_from_slice(data);
    }
}
