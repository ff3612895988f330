//! The commands, one file each: its arguments and what it does.

mod bench;
mod classify;
mod compile;
mod completions;
mod convert;
mod embed;
mod estimate;
mod eval;
mod explain;
mod inspect;
mod perplexity;
mod print;
mod run;
mod tokenize;
mod verify;

use clap::Subcommand;

use crate::console::Console;
use crate::failure::Failure;

/// What llamac can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Compile(compile::Args),
    Convert(convert::Args),
    Estimate(estimate::Args),
    Eval(eval::Args),
    Run(run::Args),
    Classify(classify::Args),
    Embed(embed::Args),
    Inspect(inspect::Args),
    Tokenize(tokenize::Args),
    Perplexity(perplexity::Args),
    Bench(bench::Args),
    Verify(verify::Args),
    Print(print::Args),
    Explain(explain::Args),
    Completions(completions::Args),
}

impl Command {
    /// Does it.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        match self {
            Self::Compile(args) => args.run(console),
            Self::Convert(args) => args.run(console),
            Self::Estimate(args) => args.run(console),
            Self::Eval(args) => args.run(console),
            Self::Run(args) => args.run(console),
            Self::Classify(args) => args.run(console),
            Self::Embed(args) => args.run(console),
            Self::Inspect(args) => args.run(console),
            Self::Tokenize(args) => args.run(console),
            Self::Perplexity(args) => args.run(console),
            Self::Bench(args) => args.run(console),
            Self::Verify(args) => args.run(console),
            Self::Print(args) => args.run(),
            Self::Explain(args) => args.run(),
            Self::Completions(args) => args.run(),
        }
    }
}
