//! `llamac verify`: whether a compiled model is what was written.

use std::path::PathBuf;
use std::time::Instant;

use llamac_compiler::diagnostic::{Code, Diagnostic, shell_word};
use llamac_runtime::plan::Plan;
use llamac_runtime::{Model, OpenOptions};

use crate::args::ThreadsArg;
use crate::console::Stdout;
use crate::failure::Failure;
use crate::human::{bytes, seconds, table};
use crate::model;

/// Check a compiled model: every checksum, and the plan
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A compiled model
    file: PathBuf,
    #[command(flatten)]
    threads: ThreadsArg,
}

impl Args {
    /// Checks the file and prints what was checked.
    pub fn run(&self) -> Result<(), Failure> {
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
