//! The forward pass: tokens of any number of sessions in, rows of the head's output out.
//!
//! A forward takes what each session is fed, cuts it into chunks that the arena has room for, and runs the plan's
//! steps over each. Rows of different sequences lie one after another, without padding. Every row's arithmetic is the
//! same whatever else is in the chunk, so results do not depend on batch, chunk or threads.

use std::ops::Range;
use std::sync::Arc;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::{Compute, Plan};

use crate::arena::Arena;
use crate::kernels::Context;
use crate::model::Model;
use crate::profile::{Profile, Recorder};
use crate::session::Session;

/// Ids outside the vocabulary that are told one by one; a prompt of another tokenizer has any number.
const UNKNOWN_TOLD: usize = 5;

/// How an engine is made.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Threads that compute, the caller's included.
    pub threads: usize,
    /// Tokens that go through the model at a time, at most: fewer where their activations would take more than 32 MiB,
    /// down to 64. No result depends on it.
    pub chunk: usize,
    /// The precision of matrix products; what the model was compiled for if not given.
    pub compute: Option<Compute>,
}

/// Bytes of activations that a chunk's tokens should not exceed.
const ARENA: usize = 32 << 20;

/// Tokens of a chunk that are worth their activations' memory in any case: with fewer, reading the weights takes longer
/// than multiplying by them.
const WORTHWHILE: usize = 64;

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            chunk: 512,
            compute: None,
        }
    }
}

impl EngineOptions {
    /// Tokens that go through a model of this plan at a time.
    pub fn chunk_tokens(&self, plan: &Plan) -> usize {
        let most = (ARENA / plan.arena_bytes_per_token.max(1)).max(WORTHWHILE);
        self.chunk.clamp(1, most)
    }
}

/// What a session is fed.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Token ids.
    Ids(&'a [u32]),
    /// Embeddings in place of tokens, `[tokens, hidden_size]`.
    Embeddings(&'a [f32]),
    /// The embeddings of the model's soft prompt, which a session reads before its first token. A caller feeds them only
    /// to see what comes out: they are read in any case.
    Prompt,
}

/// The rows of the head's output that a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None: the tokens only fill the cache.
    None,
    /// A row for each token.
    All,
    /// Rows for the last tokens.
    Last(usize),
    /// Rows for the tokens from the first number up to, and without, the second.
    Range(usize, usize),
}

impl Keep {
    fn range(self, tokens: usize) -> Range<usize> {
        match self {
            Self::None => 0..0,
            Self::All => 0..tokens,
            Self::Last(n) => tokens.saturating_sub(n)..tokens,
            Self::Range(start, end) => start..end.max(start),
        }
    }
}

/// One session's part of a forward.
#[derive(Debug)]
pub struct Feed<'a> {
    /// The session; its cache grows by the visible tokens.
    pub session: &'a mut Session,
    /// The tokens.
    pub input: Input<'a>,
    /// A position for each token; if not given, they go on from the number of tokens fed so far.
    pub positions: Option<&'a [i64]>,
    /// Whether later tokens (and the token itself) see it: the attention mask. If not given, all are seen.
    pub visible: Option<&'a [bool]>,
    /// The rows to compute the head for.
    pub keep: Keep,
    /// The length that rotary frequencies which depend on it follow in this forward, instead of the session's own.
    pub length: Option<u64>,
}

impl<'a> Feed<'a> {
    /// The next `ids` of `session`, all visible, at the positions that follow.
    pub fn ids(session: &'a mut Session, ids: &'a [u32], keep: Keep) -> Self {
        Self { session, input: Input::Ids(ids), positions: None, visible: None, keep, length: None }
    }

    /// Number of tokens. Embeddings that are not whole rows are refused before this matters.
    pub(crate) fn tokens(&self) -> usize {
        match self.input {
            Input::Ids(ids) => ids.len(),
            Input::Embeddings(rows) => rows.len() / self.session.model.plan().shape.hidden_size,
            Input::Prompt => self.session.pending(),
        }
    }

    /// The largest position of its tokens.
    fn last_position(&self) -> Option<i64> {
        (0..self.tokens()).map(|token| self.position(token)).max()
    }

    pub(crate) fn is_visible(&self, token: usize) -> bool {
        self.visible.is_none_or(|visible| visible[token])
    }

    fn visible_tokens(&self) -> usize {
        (0..self.tokens()).filter(|&token| self.is_visible(token)).count()
    }

    pub(crate) fn position(&self, token: usize) -> i64 {
        let before = match self.input {
            Input::Prompt => 0,
            Input::Ids(_) | Input::Embeddings(_) => self.session.fed + self.session.pending(),
        };
        self.positions.map_or((before + token) as i64, |positions| positions[token])
    }
}

/// Tokens of one feed in a chunk.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Which feed.
    pub(crate) feed: usize,
    /// Its first token in the chunk.
    pub(crate) first_token: usize,
    /// The rows of the chunk.
    pub(crate) rows: Range<usize>,
}

/// What a chunk's rows are. Vectors are reused, so that a forward allocates nothing once it has seen its largest.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The parts of feeds in it.
    pub(crate) pieces: Vec<Piece>,
    /// Position of each row.
    pub(crate) positions: Vec<i64>,
    /// Cache slot of each row; `None` for tokens that nobody sees.
    pub(crate) slots: Vec<Option<usize>>,
    /// Slots that each row sees: those below this.
    pub(crate) limits: Vec<u32>,
    /// The rows whose output is wanted.
    pub(crate) kept: Vec<usize>,
}

/// Where results go.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// The head's output, a row after another.
    pub(crate) output: Vec<f32>,
    /// The hidden states that are wanted, by index.
    pub(crate) wanted_hidden: Range<usize>,
    /// Hidden states by index, a row for each token.
    pub(crate) hidden: Vec<Vec<f32>>,
    /// Kept rows of each feed.
    kept: Vec<Range<usize>>,
    /// Tokens of each feed.
    tokens: Vec<Range<usize>>,
}

/// Runs forwards of one model on its threads.
#[derive(Debug)]
pub struct Engine {
    pub(crate) model: Arc<Model>,
    pub(crate) context: Context,
    pub(crate) compute: Compute,
    pub(crate) arena: Arena,
    chunk_tokens: usize,
    pub(crate) chunk: Chunk,
    pub(crate) results: Results,
    /// Capacity for the attention's view of a chunk; empty between steps.
    pub(crate) segments: Vec<crate::kernels::Segment<'static>>,
    /// Records the times of steps, if somebody wants to know.
    pub(crate) recorder: Option<Recorder>,
}

/// What a forward computed; borrowed from the engine until the next one.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    results: &'a Results,
    output_width: usize,
    hidden_size: usize,
}

impl<'a> Outputs<'a> {
    /// The head's output for the kept rows of feed number `feed`: `[kept, output_width]`.
    pub fn feed(&self, feed: usize) -> &'a [f32] {
        let rows = &self.results.kept[feed];
        &self.results.output[rows.start * self.output_width..rows.end * self.output_width]
    }

    /// Hidden state number `index` (0: the embedding; the last: after the final norm) for each token of feed number
    /// `feed`: `[tokens, hidden_size]`. Empty unless they were asked for.
    pub fn hidden(&self, feed: usize, index: usize) -> &'a [f32] {
        let rows = &self.results.tokens[feed];
        let state = self.results.hidden.get(index).map_or(&[][..], Vec::as_slice);
        state.get(rows.start * self.hidden_size..rows.end * self.hidden_size).unwrap_or(&[])
    }
}

impl Engine {
    /// An engine for `model`.
    ///
    /// # Errors
    /// When there is not enough memory for a chunk's activations, or the model has no weights for the precision.
    pub fn new(model: &Arc<Model>, options: EngineOptions) -> Result<Self, Diagnostic> {
        let compute = options.compute.unwrap_or(model.plan().compute);
        model.plan().accepts(compute)?;
        let chunk_tokens = options.chunk_tokens(model.plan());
        let arena = Arena::new(model.plan(), chunk_tokens).ok_or_else(|| {
            Diagnostic::new(Code::OutOfMemory)
                .message(format!("the activations of {chunk_tokens} tokens do not fit into memory"))
                .help("use a smaller chunk")
        })?;
        Ok(Self {
            model: Arc::clone(model),
            context: Context::new(options.threads),
            compute,
            arena,
            chunk_tokens,
            chunk: Chunk::default(),
            results: Results {
                hidden: vec![Vec::new(); model.plan().shape.layers + 1],
                ..Results::default()
            },
            segments: Vec::new(),
            recorder: None,
        })
    }

    /// The precision of matrix products.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens that go through the model at a time, at most.
    pub fn chunk_tokens(&self) -> usize {
        self.chunk_tokens
    }

    /// Begins to record the time of every step.
    pub fn start_profile(&mut self) {
        self.recorder = Some(Recorder::new(self.model.plan().steps.len()));
    }

    /// Ends recording; what was recorded. Empty if nothing was.
    pub fn finish_profile(&mut self) -> Profile {
        self.recorder.take().map(Recorder::finish).unwrap_or_default()
    }

    /// Feeds every session its tokens and returns the rows that each asked for.
    ///
    /// # Errors
    /// When a token is outside the vocabulary, a cache has no room, or lengths do not fit together; no session has
    /// more tokens then.
    pub fn forward(&mut self, feeds: &mut [Feed<'_>]) -> Result<Outputs<'_>, Diagnostics> {
        self.run(feeds, 0..0)
    }

    /// As [`Engine::forward`], with the hidden states of every token.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_with_hidden_states(&mut self, feeds: &mut [Feed<'_>]) -> Result<Outputs<'_>, Diagnostics> {
        let layers = self.model.plan().shape.layers;
        self.run(feeds, 0..layers + 1)
    }

    /// As [`Engine::forward`], with the last hidden state of every token, the one after the final norm: number
    /// `layers` of [`Outputs::hidden`]. The others are empty.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_with_last_hidden_state(
        &mut self,
        feeds: &mut [Feed<'_>],
    ) -> Result<Outputs<'_>, Diagnostics> {
        let layers = self.model.plan().shape.layers;
        self.run(feeds, layers..layers + 1)
    }

    fn run(
        &mut self,
        feeds: &mut [Feed<'_>],
        wanted_hidden: Range<usize>,
    ) -> Result<Outputs<'_>, Diagnostics> {
        self.validate(feeds)?;
        self.read_prompts(feeds)?;
        self.run_valid(feeds, wanted_hidden)
    }

    /// Sessions without a token read the embeddings of the model's soft prompt before they are fed others.
    fn read_prompts(&mut self, feeds: &mut [Feed<'_>]) -> Result<(), Diagnostics> {
        let mut prompts = Vec::new();
        for feed in feeds.iter_mut() {
            let is_first = feed.session.pending() > 0 && !matches!(feed.input, Input::Prompt);
            if let Some(last) = feed.last_position().filter(|_| is_first) {
                // The frequencies are those of the tokens behind it.
                let length = Some(feed.length.unwrap_or_else(|| feed.session.length(last)));
                let session = &mut *feed.session;
                let (input, positions, visible, keep) = (Input::Prompt, None, None, Keep::None);
                prompts.push(Feed { session, input, positions, visible, keep, length });
            }
        }
        if !prompts.is_empty() {
            self.run_valid(&mut prompts, 0..0)?;
        }
        Ok(())
    }

    fn run_valid(
        &mut self,
        feeds: &mut [Feed<'_>],
        wanted_hidden: Range<usize>,
    ) -> Result<Outputs<'_>, Diagnostics> {
        let hidden_size = self.model.plan().shape.hidden_size;
        self.results.begin(feeds, wanted_hidden, self.model.output_width(), hidden_size)?;
        for feed in feeds.iter_mut() {
            if let Some(last) = feed.last_position() {
                feed.session.advance_length(last, feed.length);
            }
        }
        let mut next = (0, 0);
        while self.chunk.fill(feeds, &mut next, self.chunk_tokens) {
            self.execute(feeds);
        }
        for feed in feeds.iter_mut() {
            feed.session.fed += feed.tokens();
        }
        Ok(Outputs { results: &self.results, output_width: self.model.output_width(), hidden_size })
    }

    fn validate(&self, feeds: &[Feed<'_>]) -> Result<(), Diagnostics> {
        let shape = &self.model.plan().shape;
        let mut faults = Diagnostics::new();
        for feed in feeds {
            if !Arc::ptr_eq(&feed.session.model, &self.model) {
                return Err(Diagnostic::new(Code::BadInputTensor)
                    .message("a session can only be fed by an engine of its own model")
                    .into());
            }
            let bad = |what: &str, expected: usize, found: usize| {
                Diagnostic::new(Code::BadInputTensor)
                    .message(what)
                    .expected(expected.to_string())
                    .found(found.to_string())
            };
            match feed.input {
                Input::Ids(ids) => {
                    let unknown = ids.iter().enumerate().filter(|(_, id)| **id as usize >= shape.vocab_size);
                    for (i, id) in unknown.take(UNKNOWN_TOLD) {
                        faults.push(
                            Diagnostic::new(Code::BadToken)
                                .at(format!("token {}", i + 1))
                                .expected(format!("an id below {}", shape.vocab_size))
                                .found(id.to_string()),
                        );
                    }
                }
                Input::Embeddings(rows) if rows.len() % shape.hidden_size != 0 => {
                    faults.push(bad("embeddings are not whole rows", shape.hidden_size, rows.len()));
                    continue;
                }
                Input::Embeddings(_) => {}
                Input::Prompt if feed.session.pending() == 0 => {
                    faults.push(Diagnostic::new(Code::BadInputTensor).message(
                        "a new session of a model with a soft prompt of embeddings reads it, and no other",
                    ));
                    continue;
                }
                Input::Prompt => {}
            }
            let tokens = feed.tokens();
            for (what, len) in [
                ("there must be a position for each token", feed.positions.map(<[_]>::len)),
                ("the mask must have an entry for each token", feed.visible.map(<[_]>::len)),
            ] {
                if let Some(len) = len.filter(|&len| len != tokens) {
                    faults.push(bad(what, tokens, len));
                }
            }
            if feed.keep.range(tokens).end > tokens {
                faults.push(bad("the kept row is past the last token", tokens, feed.keep.range(tokens).end));
            }
            let visible =
                if feed.visible.is_none_or(|v| v.len() == tokens) { feed.visible_tokens() } else { tokens };
            let prompt = matches!(feed.input, Input::Prompt);
            if !prompt && visible > feed.session.room() {
                let used = feed.session.capacity() - feed.session.room();
                faults.push(
                    Diagnostic::new(Code::ContextFull)
                        .expected(format!("at most {} tokens", feed.session.capacity()))
                        .found(format!("{} tokens", used + visible))
                        .help("open the session with a larger capacity, or feed less"),
                );
            }
        }
        faults.or(())
    }
}

impl Results {
    fn begin(
        &mut self,
        feeds: &[Feed<'_>],
        wanted_hidden: Range<usize>,
        width: usize,
        hidden_size: usize,
    ) -> Result<(), Diagnostic> {
        self.output.clear();
        self.kept.clear();
        self.tokens.clear();
        self.wanted_hidden = wanted_hidden;
        self.hidden.iter_mut().for_each(Vec::clear);
        let (mut kept, mut tokens) = (0, 0);
        for feed in feeds {
            let n = feed.tokens();
            let rows = feed.keep.range(n).len();
            self.kept.push(kept..kept + rows);
            self.tokens.push(tokens..tokens + n);
            kept += rows;
            tokens += n;
        }
        let reserve = |vector: &mut Vec<f32>, rows: usize, width: usize| {
            rows.checked_mul(width).is_some_and(|elements| vector.try_reserve(elements).is_ok())
        };
        if !reserve(&mut self.output, kept, width) {
            return Err(Diagnostic::new(Code::OutOfMemory)
                .message(format!("{kept} rows of {width} outputs do not fit into memory"))
                .help("keep fewer rows"));
        }
        let states = &mut self.hidden[self.wanted_hidden.clone()];
        if !states.iter_mut().all(|state| reserve(state, tokens, hidden_size)) {
            let states = states.len();
            return Err(Diagnostic::new(Code::OutOfMemory)
                .message(format!("{states} hidden states of {tokens} tokens do not fit into memory"))
                .help("feed fewer tokens at a time"));
        }
        Ok(())
    }
}

impl Chunk {
    /// Takes the next tokens, starting at token `next.1` of feed `next.0`; `false` when there are none left.
    fn fill(&mut self, feeds: &mut [Feed<'_>], next: &mut (usize, usize), limit: usize) -> bool {
        self.pieces.clear();
        self.positions.clear();
        self.slots.clear();
        self.limits.clear();
        self.kept.clear();
        while self.positions.len() < limit && next.0 < feeds.len() {
            let feed = &mut feeds[next.0];
            let (first, tokens) = (next.1, feed.tokens());
            let start = self.positions.len();
            let last = tokens.min(first + limit - start);
            let keep = feed.keep.range(tokens);
            for token in first..last {
                let row = self.positions.len();
                self.positions.push(feed.position(token));
                let visible = feed.is_visible(token);
                self.slots.push(visible.then_some(feed.session.slots));
                feed.session.slots += usize::from(visible);
                // A cache of more than 2³² slots would need more memory than validation found room for.
                self.limits.push(feed.session.slots as u32);
                if keep.contains(&token) {
                    self.kept.push(row);
                }
            }
            if last > first {
                self.pieces.push(Piece {
                    feed: next.0,
                    first_token: first,
                    rows: start..self.positions.len(),
                });
            }
            *next = if last == tokens { (next.0 + 1, 0) } else { (next.0, last) };
        }
        !self.positions.is_empty()
    }
}
