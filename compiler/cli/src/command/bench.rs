//! `llamac bench`: how fast a model runs here, and how much of what the machine allows that is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use llamac_compiler::driver::Progress;
use llamac_compiler::output;
use llamac_compiler::passes::WeightPolicy;
use llamac_runtime::bench::{self, BenchOptions, Event, Measurement, Shape};
use llamac_runtime::plan::{Plan, WeightLayout};
use llamac_runtime::profile::{Limits, Profile, StepTime};
use serde::Serialize;

use crate::args::{ChangeArgs, ComputeArgs, Kv, ModelArg, whole};
use crate::console::{Console, Stdout};
use crate::failure::Failure;
use crate::guard::{Kind, Outputs};
use crate::progress::{Bar, Unit};
use crate::{human, model};

/// Measure the speed of a model
///
/// Reads prompts of random tokens, and decodes tokens after contexts of some length. Beside each speed stands the
/// fraction of what the machine allows: its memory's and its processor's limits are sampled between the runs.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Tokens of the prompt; 0 for none
    #[arg(short = 'p', long = "prompt", value_name = "N", default_value_t = 512, allow_negative_numbers = true,
        value_parser = whole::<u32>(0..=u32::MAX as u64))]
    prompt: u32,
    /// Tokens to decode; 0 for none
    #[arg(short = 'n', long = "new-tokens", value_name = "N", default_value_t = 64, allow_negative_numbers = true,
        value_parser = whole::<u32>(0..=u32::MAX as u64))]
    new: u32,
    /// Tokens before them
    #[arg(short = 'd', long = "depth", value_name = "N,…", value_delimiter = ',', default_value = "0,2048",
        allow_negative_numbers = true, value_parser = whole::<u32>(0..=u32::MAX as u64))]
    depths: Vec<u32>,
    /// Sequences that decode together
    #[arg(short = 'b', long = "batch", value_name = "N,…", value_delimiter = ',', default_value = "1,8",
        allow_negative_numbers = true, value_parser = whole::<u16>(1..=u16::MAX as u64))]
    batches: Vec<u16>,
    /// How often each is run
    #[arg(short = 'r', long = "repetitions", value_name = "N", default_value_t = 3,
        allow_negative_numbers = true, value_parser = whole::<u16>(1..=u16::MAX as u64))]
    repetitions: u16,
    /// How the cache stores keys and values
    #[arg(long, value_enum)]
    kv: Option<Kv>,
    /// Also show where the time goes, by module
    #[arg(long)]
    profile: bool,
    /// Write every step of the profile to a file, in the format of Chrome's tracing
    #[arg(long, value_name = "FILE", requires = "profile")]
    trace: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    head: &'static str,
    weights: String,
    compute: &'static str,
    kv: &'static str,
    threads: usize,
    results: Vec<Row>,
    limits: LimitsRow,
    load_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    profile: Vec<Part>,
}

/// What was run.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
struct Test {
    test: &'static str,
    n: usize,
    depth: usize,
    batch: usize,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    test: Test,
    tok_s: f64,
    limit_fraction: f64,
}

#[derive(Serialize)]
struct LimitsRow {
    read_gb_s: f64,
    f32_gflop_s: f64,
    bf16_gflop_s: Option<f64>,
    int8_gop_s: Option<f64>,
}

/// What one kind of step of one kind of module takes in a run.
#[derive(Serialize)]
struct Part {
    #[serde(flatten)]
    test: Test,
    module: String,
    step: &'static str,
    calls: u64,
    ms: f64,
    share: f64,
    bytes: u64,
    ops: u64,
    limit_fraction: f64,
}

impl Args {
    /// Measures, and prints what was measured.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        let threads = self.compute.threads.count();
        let trace = self.trace.as_ref().map(|path| Outputs::default().file(path, Kind::Trace)).transpose()?;
        let source = model::source(&self.model, &ChangeArgs::default(), threads, console)?;
        let start = Instant::now();
        let model = model::compiled(source, &self.model.path, WeightPolicy::default(), threads, console)?;
        let mut engine = model::engine(&model, self.compute.engine(), console)?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let options = self.options();
        let filling = || Bar::new(console, "filling contexts", Unit::Tokens);
        let mut bar = Some(filling());
        let measured = bench::bench(&mut engine, &options, |event| {
            if let Event::Repetition(n) = event {
                bar = None;
                console.note(format!("run {} of {}", n + 1, options.repetitions));
            }
            bar.iter().for_each(|bar| fill(bar, event));
        })?;
        let profiles = match self.profile {
            true => {
                let bar = filling();
                bench::profile(&mut engine, &options, |event| fill(&bar, event))?
            }
            false => Vec::new(),
        };
        let plan = model.plan();
        if let Some((path, file)) = self.trace.as_ref().zip(trace) {
            let json = serde_json::to_string(&trace_events(plan, &profiles)).expect("numbers and strings");
            std::io::Write::write_all(&mut file.file(), json.as_bytes())
                .map_err(|e| output::write_fault(path, &e))?;
            file.publish()?;
        }
        let report = Report {
            model: self.model.path.display().to_string(),
            head: plan.head.name(),
            weights: weights(plan),
            compute: engine.compute().name(),
            kv: options.kv.unwrap_or(plan.kv).name(),
            threads,
            results: measured.measurements.iter().map(Row::new).collect(),
            limits: LimitsRow::new(&measured.limits),
            load_ms,
            peak_rss_bytes: peak_resident(),
            profile: profiles
                .iter()
                .flat_map(|(shape, profile)| parts(plan, shape, profile, &measured.limits))
                .collect(),
        };
        let mut out = Stdout::lock();
        match self.json {
            true => {
                let json = serde_json::to_string(&report).expect("finite numbers and strings are JSON");
                writeln!(out, "{json}")?;
            }
            false => write!(out, "{}", report.text())?,
        }
        out.flush()
    }

    fn options(&self) -> BenchOptions {
        BenchOptions {
            prompt: self.prompt as usize,
            new: self.new as usize,
            depths: self.depths.iter().map(|&depth| depth as usize).collect(),
            batches: self.batches.iter().map(|&batch| batch.into()).collect(),
            repetitions: self.repetitions.into(),
            kv: self.kv.map(Into::into),
        }
    }
}

/// The dtypes of the matrices, the one with the most bytes first.
fn weights(plan: &Plan) -> String {
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    for weight in &plan.weights {
        if let WeightLayout::Matrix(layout) = weight.layout {
            *bytes.entry(layout.dtype.name()).or_default() += layout.bytes().unwrap_or(0);
        }
    }
    let mut dtypes: Vec<_> = bytes.into_iter().collect();
    dtypes.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    dtypes.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("+")
}

/// The most memory that this process has had, mapped files included.
fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Shows how far contexts are filled.
fn fill(bar: &Bar, event: Event) {
    match event {
        Event::Fill(tokens) => bar.start(tokens as u64),
        Event::Filled(tokens) => bar.advance(tokens as u64),
        Event::Repetition(_) => {}
    }
}

impl From<&Shape> for Test {
    fn from(shape: &Shape) -> Self {
        let Shape { kind, tokens: n, depth, batch } = *shape;
        let test = match kind {
            bench::Kind::Prefill => "pp",
            bench::Kind::Decode => "tg",
        };
        Self { test, n, depth, batch }
    }
}

impl Test {
    /// What is done, for people.
    fn name(&self) -> String {
        match self.test {
            "pp" => format!("prompt of {}", self.n),
            _ => format!("decode {}", self.n),
        }
    }
}

impl Row {
    fn new(measured: &Measurement) -> Self {
        Self {
            test: Test::from(&measured.shape),
            tok_s: measured.tokens_per_second,
            limit_fraction: measured.limit_fraction,
        }
    }
}

impl LimitsRow {
    fn new(limits: &Limits) -> Self {
        let giga = |x: f64| x / 1e9;
        Self {
            read_gb_s: giga(limits.read),
            f32_gflop_s: giga(limits.f32),
            bf16_gflop_s: limits.bf16.map(giga),
            int8_gop_s: limits.int8.map(giga),
        }
    }
}

/// The steps of a profile, those of the same module in different layers together, the longest first.
fn parts(plan: &Plan, shape: &Shape, profile: &Profile, limits: &Limits) -> Vec<Part> {
    let total: f64 = profile.steps.iter().map(|step| step.time.as_secs_f64()).sum();
    let mut sums: BTreeMap<(String, &str), StepTime> = BTreeMap::new();
    for ((step, module), time) in plan.steps.iter().zip(&plan.modules).zip(&profile.steps) {
        let sum = sums.entry((in_any_layer(module), step.name())).or_default();
        sum.calls += time.calls;
        sum.time += time.time;
        sum.work += time.work;
    }
    let part = |((module, step), sum): ((String, &'static str), StepTime)| {
        let seconds = sum.time.as_secs_f64();
        Part {
            test: Test::from(shape),
            module,
            step,
            calls: sum.calls,
            ms: seconds * 1e3,
            share: seconds / total,
            bytes: sum.work.bytes,
            ops: sum.work.ops(),
            limit_fraction: sum.work.seconds(limits) / seconds,
        }
    };
    let mut parts: Vec<Part> = sums.into_iter().filter(|(_, sum)| sum.calls > 0).map(part).collect();
    parts.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    parts
}

/// A module's name with `~` in place of the numbers of layers.
fn in_any_layer(module: &str) -> String {
    let parts = module.split_inclusive(['.', ',', '{', '}']).map(|part| {
        let number = part.trim_end_matches(['.', ',', '{', '}']);
        match !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
            true => format!("~{}", &part[number.len()..]),
            false => part.to_owned(),
        }
    });
    parts.collect()
}

/// An event of a trace, as Chrome reads it: times in microseconds.
#[derive(Serialize)]
struct TraceEvent<'a> {
    name: &'a str,
    cat: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: usize,
}

/// Every step of the profiles, each profile a row of its own.
fn trace_events<'a>(plan: &'a Plan, profiles: &[(Shape, Profile)]) -> Vec<TraceEvent<'a>> {
    let events = profiles.iter().enumerate().flat_map(|(row, (_, profile))| {
        profile.events.iter().map(move |event| TraceEvent {
            name: &plan.modules[event.step],
            cat: plan.steps[event.step].name(),
            ph: "X",
            ts: event.start.as_secs_f64() * 1e6,
            dur: event.time.as_secs_f64() * 1e6,
            pid: 1,
            tid: row,
        })
    });
    events.collect()
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!(
            "{}: {} weights, {} arithmetic, {} cache, {} threads\n\n",
            self.model, self.weights, self.compute, self.kv, self.threads
        );
        let head = ["", "depth", "batch", "tokens/s", "of the limit"].map(str::to_owned);
        let rows = self.results.iter().map(|row| {
            let Test { depth, batch, .. } = row.test;
            let fraction = format!("{:.0} %", 100.0 * row.limit_fraction);
            [row.test.name(), depth.to_string(), batch.to_string(), format!("{:.1}", row.tok_s), fraction]
        });
        text += &human::table(&[head].into_iter().chain(rows).collect::<Vec<_>>());
        let limits = &self.limits;
        text +=
            &format!("\nlimits: read {:.1} GB/s, f32 {:.0} GFLOP/s", limits.read_gb_s, limits.f32_gflop_s);
        for (name, limit, unit) in
            [("bf16", limits.bf16_gflop_s, "GFLOP/s"), ("int8", limits.int8_gop_s, "GOP/s")]
        {
            if let Some(limit) = limit {
                text += &format!(", {name} {limit:.0} {unit}");
            }
        }
        text += &format!("\nloaded in {:.1} ms", self.load_ms);
        if let Some(bytes) = self.peak_rss_bytes {
            text += &format!(", peak memory {}", human::bytes(bytes));
        }
        text.push('\n');
        self.profile.chunk_by(|a, b| a.test == b.test).for_each(|parts| text += &profile_table(parts));
        text
    }
}

/// Where the time goes in one run. What takes less than the figures show is left to the JSON.
fn profile_table(parts: &[Part]) -> String {
    let Some(Part { test, .. }) = parts.first() else { return String::new() };
    let head = ["module", "step", "calls", "ms", "share", "GB/s", "GOP/s", "of the limit"].map(str::to_owned);
    let rows = parts.iter().filter(|part| part.share >= 0.0005).map(|part| {
        let rate = |n: u64| match n {
            0 => String::new(),
            n => format!("{:.1}", n as f64 / part.ms / 1e6),
        };
        [
            part.module.clone(),
            part.step.to_owned(),
            part.calls.to_string(),
            format!("{:.2}", part.ms),
            format!("{:.1} %", 100.0 * part.share),
            rate(part.bytes),
            rate(part.ops),
            if part.ops > 0 { format!("{:.0} %", 100.0 * part.limit_fraction) } else { String::new() },
        ]
    });
    let title = format!("{}, depth {}, batch {}", test.name(), test.depth, test.batch);
    format!("\n{title}\n{}", human::table(&[head].into_iter().chain(rows).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_together() {
        assert_eq!(
            in_any_layer("model.layers.12.self_attn.{q,k,v}_proj"),
            "model.layers.~.self_attn.{q,k,v}_proj"
        );
        assert_eq!(in_any_layer("model.layers.{3,4.input_layernorm}"), "model.layers.{~,~.input_layernorm}");
        assert_eq!(in_any_layer("model.norm"), "model.norm");
    }

    #[test]
    fn this_process_has_memory() {
        assert!(!cfg!(target_os = "linux") || peak_resident().is_some_and(|bytes| bytes > 1 << 20));
    }
}
