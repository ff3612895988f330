//! `llamac embed`: texts as vectors.

use clap::ValueEnum;
use llamac_compiler::passes::WeightPolicy;
use llamac_runtime::embed;
use serde::Serialize;

use crate::args::{ChangeArgs, ComputeArgs, ModelArg};
use crate::console::{Console, Stdout};
use crate::failure::Failure;
use crate::{model, texts};

/// Show a text as a vector: the model's hidden states after its final norm, pooled
///
/// A text is a line of numbers, or with `--pooling none` a line for each token and an empty line between texts.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    changes: ChangeArgs,
    /// The texts; `-` reads standard input, one text a line
    #[arg(value_name = "TEXT", required = true)]
    texts: Vec<String>,
    /// What becomes of the vectors of a text's tokens
    #[arg(long, value_enum, default_value_t = Pooling::Mean)]
    pooling: Pooling,
    /// Divide each vector by its Euclidean norm
    #[arg(long)]
    normalize: bool,
    /// Print JSON: an object for each text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// What becomes of the vectors of a text's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pooling {
    /// Their mean, special tokens included
    Mean,
    /// That of the last token
    Last,
    /// All of them are printed
    None,
}

impl From<Pooling> for llamac_runtime::Pooling {
    fn from(pooling: Pooling) -> Self {
        match pooling {
            Pooling::Mean => Self::Mean,
            Pooling::Last => Self::Last,
            Pooling::None => Self::None,
        }
    }
}

/// What `--json` prints for a text.
#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    embedding: Embedding<'a>,
}

/// One vector, or one for each token.
#[derive(Serialize)]
#[serde(untagged)]
enum Embedding<'a> {
    Pooled(&'a [f32]),
    Tokens(Vec<&'a [f32]>),
}

impl Args {
    /// Prints the embeddings.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        let threads = self.compute.threads.count();
        let source = model::source(&self.model, &self.changes, threads, console)?;
        let tokenizer = source.tokenizer()?;
        let texts = texts::read(&self.texts)?;
        let ids = texts::encode(&tokenizer, &texts)?;
        let model = model::compiled(source, &self.model.path, WeightPolicy::default(), threads, console)?;
        let mut engine = model::engine(&model, self.compute.engine(), console)?;
        let width = model.plan().shape.hidden_size;
        let mut out = Stdout::lock();
        let print = |i: usize, rows: &[f32]| {
            if self.json {
                let embedding = match self.pooling {
                    Pooling::None => Embedding::Tokens(rows.chunks(width).collect()),
                    Pooling::Mean | Pooling::Last => Embedding::Pooled(rows),
                };
                let line = Line { text: &texts[i], embedding };
                let json = serde_json::to_string(&line).expect("finite numbers and strings are JSON");
                return writeln!(out, "{json}");
            }
            if self.pooling == Pooling::None && i > 0 {
                writeln!(out)?;
            }
            rows.chunks(width).try_for_each(|row| {
                let numbers: Vec<String> = row.iter().map(f32::to_string).collect();
                writeln!(out, "{}", numbers.join(" "))
            })
        };
        let run = |each: texts::Each<'_>| embed(&mut engine, &ids, self.pooling.into(), self.normalize, each);
        texts::printing(run, print)?;
        out.flush()
    }
}
