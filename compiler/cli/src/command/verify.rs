//! `llamac verify`: whether a compiled model is what was written, and whether two models compute the same.

use std::path::{Path, PathBuf};
use std::time::Instant;

use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics, shell_word};
use llamac_compiler::verify::{self, Agreed};
use llamac_runtime::plan::Plan;
use llamac_runtime::{Model, OpenOptions, Request};

use crate::args::{HeadArg, ThreadsArg};
use crate::comparison::{self, Side};
use crate::console::{Console, Stdout};
use crate::failure::Failure;
use crate::human::{bytes, seconds, table};
use crate::{model, request};

/// Check a compiled model: every checksum, and the plan; or compare two models
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A compiled model; with B, also a checkpoint or an exported directory: the reference
    #[arg(value_name = "A")]
    file: PathBuf,
    /// A model that has to compute what A does
    #[arg(value_name = "B")]
    other: Option<PathBuf>,
    /// What both read, as for `eval` [default: 8 random tokens]
    #[arg(long, value_name = "FILE", requires = "other")]
    inputs: Option<PathBuf>,
    /// The largest difference, as a part of an output's largest value [default: 1e-4, more for narrower weights]
    #[arg(long, value_name = "X", requires = "other", value_parser = tolerance)]
    tolerance: Option<f32>,
    /// The head of a checkpoint
    #[arg(long, value_enum, default_value_t = HeadArg::Auto, requires = "other")]
    head: HeadArg,
    #[command(flatten)]
    threads: ThreadsArg,
}

fn tolerance(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().map_err(|_| "a number is expected, as 1e-3".to_owned())?;
    if number >= 0.0 { Ok(number) } else { Err("it cannot be negative".to_owned()) }
}

impl Args {
    /// Checks the file, or compares both, and prints what was checked.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        match &self.other {
            None => self.check(),
            Some(other) => self.compare(other, console),
        }
    }

    fn compare(&self, other: &Path, console: &Console) -> Result<(), Failure> {
        let threads = self.threads.count();
        let mut faults = Diagnostics::new();
        let request = match &self.inputs {
            Some(path) => faults.absorb(request::read(path)).map(|inputs| Some(inputs.request)),
            None => Some(None),
        };
        let first = faults.absorb(Side::open(&self.file, self.head.head(), threads, console));
        // A checkpoint is compared as what the other model is.
        let head = self.head.head().or_else(|| first.as_ref()?.head());
        let second = faults.absorb(Side::open(other, head, threads, console));
        let (Some(request), Some(mut first), Some(mut second)) = (request, first, second) else {
            return Err(faults.into());
        };
        if matches!(first, Side::Checkpoint(..))
            && second.head().is_some_and(|head| first.head() != Some(head))
        {
            first = Side::open(&self.file, second.head(), threads, console)?;
        }
        first.round_as(&second);
        second.round_as(&first);
        let what = other.display().to_string();
        let found = comparison::compare([&first, &second], &what, request, self.tolerance, threads)?;
        let mut rows = vec![["output", "largest difference", "of its largest value"].map(str::to_owned)];
        rows.extend(found.agreed.iter().map(|Agreed { name, absolute, relative }| {
            [name.clone(), format!("{absolute:.1e}"), format!("{relative:.1e}")]
        }));
        let Request { batch, seq, cached, .. } = found.request;
        let mut out = Stdout::lock();
        let (place, tolerance) = (self.file.display(), found.tolerance);
        if tolerance <= verify::TOLERANCE {
            writeln!(out, "{what} agrees with {place} within {tolerance:e}")?;
        } else {
            let largest = found.largest();
            writeln!(
                out,
                "{what} differs from {place} by at most {largest:.1e}, where {tolerance:e} is allowed"
            )?;
        }
        writeln!(out, "read: {batch} × {seq} tokens, {cached} of them through the cache")?;
        write!(out, "{}", table(&rows))?;
        out.flush()
    }

    fn check(&self) -> Result<(), Failure> {
        let place = self.file.display();
        if self.file.is_dir() {
            let fault = Diagnostic::new(Code::NotAnArtifact).at(place.to_string()).found("a directory");
            return Err(fault
                .help(format!("compile it: llamac compile {} -o OUT", shell_word(&self.file)))
                .into());
        }
        if !self.file.exists() {
            return Err(model::no_file(&self.file).into());
        }
        let start = Instant::now();
        let model = Model::open(&self.file, OpenOptions { verify: true, threads: self.threads.count() })?;
        let time = seconds(start.elapsed().as_secs_f64());
        let (size, tensors) = (bytes(model.file_size() as u64), model.tensor_count());
        let Plan { head, steps, weights, producer, .. } = model.plan();
        let rows = [
            ["size".to_owned(), size],
            ["checksums".to_owned(), format!("{tensors} tensors match, in {time}")],
            ["plan".to_owned(), format!("{}, {} weights, {} steps", head.name(), weights.len(), steps.len())],
            ["compiled by".to_owned(), producer.clone()],
        ];
        let mut out = Stdout::lock();
        write!(out, "{place} is undamaged\n{}", table(&rows))?;
        out.flush()
    }
}
