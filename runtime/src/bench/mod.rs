//! How fast a model runs, and how much of what the machine allows that is.
//!
//! Prompts of random tokens are read, and random tokens decoded after contexts of some length, by any number of
//! sequences together. The machine's limits are sampled between the forwards. Not here: other programs, and quality.

mod limits;

use std::time::{Duration, Instant};

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::{Head, KvDtype};

use limits::{Meter, best_decile};

use crate::engine::{Engine, Feed, Keep};
use crate::model::Model;
use crate::profile::{ChunkShape, Limits, Profile, Work, of_step};
use crate::session::{Session, SessionOptions, cache_bytes};

/// Time between two samples of the limits while tokens are decoded.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(150);

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Tokens of the prompts that are read; 0 for none.
    pub prompt: usize,
    /// Tokens that each sequence decodes; 0 for none.
    pub new: usize,
    /// Lengths of the contexts that they are decoded after.
    pub depths: Vec<usize>,
    /// Numbers of sequences that decode together.
    pub batches: Vec<usize>,
    /// How often each is run.
    pub repetitions: usize,
    /// How the caches store keys and values; the model's default if not given.
    pub kv: Option<KvDtype>,
}

/// What was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A prompt was read.
    Prefill,
    /// Tokens were decoded.
    Decode,
}

/// What a run consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What is run.
    pub kind: Kind,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Tokens that each sequence had before.
    pub depth: usize,
    /// Sequences together.
    pub batch: usize,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Contexts of so many tokens will be filled.
    Fill(usize),
    /// So many more of them are.
    Filled(usize),
    /// A repetition begins, counted from 0.
    Repetition(usize),
}

/// A run and its speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// What was run.
    pub shape: Shape,
    /// Tokens a second of all sequences: the median of the repetitions.
    pub tokens_per_second: f64,
    /// The time that the machine's limits allow, of the time that the fastest tenth of the forwards took at most.
    pub limit_fraction: f64,
    /// What a forward had to do, on average.
    pub work: Work,
}

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// The runs, in the order of their options.
    pub measurements: Vec<Measurement>,
    /// The machine's limits.
    pub limits: Limits,
}

/// Measures what `options` say, and tells `each` what it does.
///
/// # Errors
/// When there is nothing to measure, and when memory does not suffice.
pub fn bench(
    engine: &mut Engine,
    options: &BenchOptions,
    mut each: impl FnMut(Event),
) -> Result<Report, Diagnostics> {
    let shapes = shapes(engine.model(), options)?;
    let mut runs = prepared(engine, &shapes, options.kv, &mut each)?;
    let mut meter = Some(Meter::default());
    for repetition in 0..options.repetitions {
        each(Event::Repetition(repetition));
        for run in &mut runs {
            run.repeat(engine, &mut meter)?;
        }
    }
    let limits = meter.unwrap_or_default().limits();
    Ok(Report { measurements: runs.iter().map(|run| run.measurement(&limits)).collect(), limits })
}

/// Records where the time goes in a run of each kind that `options` ask for: decoding at the first depth and number of
/// sequences. `each` is told of the contexts that are filled.
///
/// # Errors
/// As [`bench()`].
pub fn profile(
    engine: &mut Engine,
    options: &BenchOptions,
    mut each: impl FnMut(Event),
) -> Result<Vec<(Shape, Profile)>, Diagnostics> {
    let mut shapes = shapes(engine.model(), options)?;
    shapes.dedup_by_key(|shape| shape.kind);
    let mut profiles = Vec::new();
    for mut run in prepared(engine, &shapes, options.kv, &mut each)? {
        engine.start_profile();
        let done = run.repeat(engine, &mut None);
        let profile = engine.finish_profile();
        done?;
        profiles.push((run.shape, profile));
    }
    Ok(profiles)
}

/// The runs that `options` ask for: those that read a prompt, then those that decode, if the head does.
fn shapes(model: &Model, options: &BenchOptions) -> Result<Vec<Shape>, Diagnostic> {
    let prefill = Shape { kind: Kind::Prefill, tokens: options.prompt, depth: 0, batch: 1 };
    let decode = |depth, batch| Shape { kind: Kind::Decode, tokens: options.new, depth, batch };
    let decodes =
        options.depths.iter().flat_map(|&depth| options.batches.iter().map(move |&n| decode(depth, n)));
    let is_decoder = model.plan().head == Head::CausalLm;
    let all = [prefill].into_iter().chain(decodes.filter(|_| is_decoder));
    let shapes: Vec<Shape> = all.filter(|shape| shape.tokens > 0).collect();
    if shapes.is_empty() {
        let fault = Diagnostic::new(Code::BadArgument);
        return Err(match is_decoder {
            true => fault
                .at("-p 0 -n 0")
                .expected("tokens to read (`-p`) or to decode (`-n`)")
                .found("none of either"),
            false => fault.at("-p 0").expected("tokens to read").found("none").help(format!(
                "{}: head `{}` decodes nothing; it reads prompts",
                model.path().display(),
                model.plan().head.name()
            )),
        });
    }
    Ok(shapes)
}

/// Runs of `shapes` with their contexts filled. The first forward of each touches its memory for the first time and is
/// not measured.
fn prepared(
    engine: &mut Engine,
    shapes: &[Shape],
    kv: Option<KvDtype>,
    each: &mut impl FnMut(Event),
) -> Result<Vec<Run>, Diagnostics> {
    let runs: Option<Vec<_>> = shapes.iter().map(|shape| Run::new(engine, shape, kv)).collect();
    let mut runs = runs.ok_or_else(|| no_memory(engine.model(), shapes, kv))?;
    each(Event::Fill(shapes.iter().map(|shape| shape.depth * shape.batch).sum()));
    for run in &mut runs {
        run.prepare(engine, each)?;
    }
    Ok(runs)
}

/// The caches of all runs do not fit into memory, where they are at the same time.
fn no_memory(model: &Model, shapes: &[Shape], kv: Option<KvDtype>) -> Diagnostic {
    let caches = |shape: &Shape| cache_bytes(model.plan(), kv, shape.capacity())?.checked_mul(shape.batch);
    let bytes = shapes.iter().try_fold(0_usize, |sum, shape| sum.checked_add(caches(shape)?));
    let size = bytes.map(|bytes| format!(", {} MiB together,", bytes.div_ceil(1 << 20))).unwrap_or_default();
    let sequences: usize = shapes.iter().map(|shape| shape.batch).sum();
    let longest = shapes.iter().map(Shape::capacity).max().unwrap_or(0);
    Diagnostic::new(Code::OutOfMemory)
        .message(format!("the caches of {sequences} sequences of up to {longest} tokens{size} do not fit into memory"))
        .help("ask for fewer sequences (`-b`), for shorter contexts (`-d`), or for a smaller cache (`--kv int8`)")
}

impl Shape {
    /// Tokens that the cache of each sequence has room for.
    fn capacity(&self) -> usize {
        self.depth.saturating_add(self.tokens)
    }
}

/// One kind of run, with its sequences.
struct Run {
    shape: Shape,
    sessions: Vec<Session>,
    ids: Ids,
    /// Seconds of each forward.
    forwards: Vec<f64>,
    /// Tokens a second of each repetition.
    speeds: Vec<f64>,
    /// What the forwards of a repetition had to do together.
    work: Work,
}

impl Run {
    /// Nothing if its caches do not fit into memory.
    fn new(engine: &Engine, &shape: &Shape, kv: Option<KvDtype>) -> Option<Self> {
        let options = SessionOptions { capacity: shape.capacity(), kv };
        let session = |_| Session::new(engine.model(), options).ok();
        let sessions = (0..shape.batch).map(session).collect::<Option<_>>()?;
        let ids = Ids::new(engine.model().plan().shape.vocab_size);
        let (forwards, speeds, work) = (Vec::new(), Vec::new(), Work::default());
        Some(Self { shape, sessions, ids, forwards, speeds, work })
    }

    /// Tokens of each sequence in a forward.
    fn step(&self) -> usize {
        match self.shape.kind {
            Kind::Prefill => self.shape.tokens,
            Kind::Decode => 1,
        }
    }

    /// Fills the contexts, and runs a forward of the kind that is measured.
    fn prepare(&mut self, engine: &mut Engine, each: &mut impl FnMut(Event)) -> Result<(), Diagnostics> {
        for session in &mut self.sessions {
            for context in self.ids.take(self.shape.depth).chunks(engine.chunk_tokens()) {
                engine.forward(&mut [Feed::ids(session, context, Keep::None)])?;
                each(Event::Filled(context.len()));
            }
        }
        let tokens = self.step();
        self.forward(engine, tokens)?;
        self.sessions.iter_mut().for_each(|session| session.rewind(tokens));
        Ok(())
    }

    /// A forward of `tokens` tokens of each sequence; its seconds.
    fn forward(&mut self, engine: &mut Engine, tokens: usize) -> Result<f64, Diagnostics> {
        let ids: Vec<Vec<u32>> = self.sessions.iter().map(|_| self.ids.take(tokens)).collect();
        let feeds = self.sessions.iter_mut().zip(&ids);
        let mut feeds: Vec<Feed<'_>> =
            feeds.map(|(session, ids)| Feed::ids(session, ids, Keep::Last(1))).collect();
        let start = Instant::now();
        engine.forward(&mut feeds)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Runs once, and samples the limits with `meter`, if there is one, before and in between.
    fn repeat(&mut self, engine: &mut Engine, meter: &mut Option<Meter>) -> Result<(), Diagnostics> {
        let model = engine.model().clone();
        let mut sample = |engine: &Engine| {
            if let Some(meter) = meter {
                meter.sample(&engine.context, model.weight_bytes());
            }
        };
        sample(engine);
        let Shape { tokens, batch, .. } = self.shape;
        let each = self.step();
        let (mut sampled, mut seconds) = (Instant::now(), 0.0);
        self.work = Work::default();
        for _ in 0..tokens / each {
            self.work += self.forward_work(engine, each);
            let forward = self.forward(engine, each)?;
            self.forwards.push(forward);
            seconds += forward;
            if sampled.elapsed() >= BETWEEN_SAMPLES {
                sample(engine);
                sampled = Instant::now();
            }
        }
        self.sessions.iter_mut().for_each(|session| session.rewind(tokens));
        self.speeds.push((tokens * batch) as f64 / seconds);
        Ok(())
    }

    /// What the next forward of `tokens` tokens of each sequence has to do. A long prompt reads the weights once for
    /// each chunk.
    fn forward_work(&self, engine: &Engine, tokens: usize) -> Work {
        let plan = engine.model().plan();
        let mut work = Work::default();
        let (batch, before) = (self.sessions.len(), self.sessions.first().map_or(0, |session| session.slots));
        let mut first = 0;
        while first < tokens * batch {
            let rows = (tokens * batch - first).min(engine.chunk_tokens());
            let last = first + rows == tokens * batch;
            // Either one sequence in many chunks, or one token of each sequence.
            let (seen, cached) = if tokens == 1 {
                let slots = (rows * (before + 1)) as u64;
                (slots, slots)
            } else {
                let end = before + first + rows;
                ((before + first + 1..=end).map(|slots| slots as u64).sum(), end as u64)
            };
            let kept = if last { batch.min(rows) } else { 0 };
            let cache = self.sessions[0].layout;
            let chunk = ChunkShape { tokens: rows, kept, seen, cached, compute: engine.compute, cache };
            for step in &plan.steps {
                work += of_step(plan, step, &chunk);
            }
            first += rows;
        }
        work
    }

    fn measurement(&self, limits: &Limits) -> Measurement {
        let forwards = (self.shape.tokens / self.step()) as u64;
        let rates: Vec<f64> = self.forwards.iter().map(|seconds| seconds.recip()).collect();
        let bound = self.work.seconds(limits) / forwards as f64;
        let average = |n: u64| n / forwards;
        Measurement {
            shape: self.shape,
            tokens_per_second: median(&self.speeds),
            limit_fraction: bound * best_decile(&rates),
            work: Work {
                bytes: average(self.work.bytes),
                f32_ops: average(self.work.f32_ops),
                bf16_ops: average(self.work.bf16_ops),
                int8_ops: average(self.work.int8_ops),
            },
        }
    }
}

/// The middle of `values`, at least one; the mean of the two in the middle if their number is even.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Random tokens, the same in every run (a linear congruential generator with Knuth's constants).
struct Ids {
    state: u64,
    vocabulary: u64,
}

impl Ids {
    fn new(vocabulary: usize) -> Self {
        Self { state: 1, vocabulary: vocabulary as u64 }
    }

    fn take(&mut self, n: usize) -> Vec<u32> {
        let next = |_| {
            self.state =
                self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.state >> 33) % self.vocabulary) as u32
        };
        (0..n).map(next).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn ids_are_in_the_vocabulary_and_differ() {
        let ids = Ids::new(50).take(2000);
        assert!(ids.iter().all(|&id| id < 50));
        assert!((0..50).all(|id| ids.contains(&id)));
        assert_eq!(Ids::new(50).take(3), ids[..3]);
    }
}
