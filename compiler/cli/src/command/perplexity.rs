//! `llamac perplexity`: how likely a text is to a model, and how far the model is from another.

use std::path::PathBuf;

use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_compiler::driver::Progress;
use llamac_compiler::passes::WeightPolicy;
use llamac_runtime::perplexity::{Measured, perplexity};
use llamac_runtime::plan::HeadKind;
use llamac_runtime::text::Tokenizer;
use llamac_runtime::{Engine, Model};
use serde::Serialize;

use crate::args::{ChangeArgs, ComputeArgs, ModelArg, whole};
use crate::console::{Console, Stdout};
use crate::failure::Failure;
use crate::progress::{Bar, Unit};
use crate::{human, input, model};

/// Measure the perplexity of a text
///
/// The text's tokens are cut into windows, each scored on its own: every token but a window's first. With --against,
/// also how far the model's predictions are from another's: the mean Kullback-Leibler divergence in nats, and how often
/// the most likely token is the same.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The text, in UTF-8; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A model to compare with, such as the same weights in f32
    #[arg(long, value_name = "MODEL")]
    against: Option<PathBuf>,
    /// Tokens of a window [default: 512, or the model's context]
    #[arg(long, value_name = "N", conflicts_with = "lines", allow_negative_numbers = true,
        value_parser = whole::<u32>(2..=u32::MAX as u64))]
    context: Option<u32>,
    /// Score each line as a text of its own, between the tokens that open and end a text
    #[arg(long)]
    lines: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    perplexity: f64,
    nll: f64,
    scored_tokens: u64,
    sequences: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
}

#[derive(Serialize)]
struct Against {
    perplexity: f64,
    nll: f64,
    perplexity_ratio: f64,
    kl_divergence: f64,
    largest_kl_divergence: f64,
    top1_agreement: f64,
}

impl Args {
    /// Prints what was measured.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        let threads = self.compute.threads.count();
        let text = input::file(&self.file)?;
        let mut engine = self.engine(&self.model, threads, console)?;
        let against = self.against.as_ref();
        let against = against.map(|path| ModelArg { path: path.clone(), ..self.model.clone() });
        let mut against = against.map(|arg| self.engine(&arg, threads, console)).transpose()?;
        let sequences = self.sequences(engine.model(), &text)?;
        let bar = Bar::new(console, "scoring", Unit::Tokens);
        bar.start(sequences.iter().map(|ids| ids.len() as u64).sum());
        let advance = |tokens| bar.advance(tokens as u64);
        let measured = perplexity(&mut engine, against.as_mut(), &sequences, advance)?;
        drop(bar);
        let report = Report::new(&measured, sequences.len());
        let mut out = Stdout::lock();
        match self.json {
            true => {
                let json = serde_json::to_string(&report).expect("finite numbers are JSON");
                writeln!(out, "{json}")?;
            }
            false => write!(out, "{}", report.table())?,
        }
        out.flush()
    }

    fn engine(&self, arg: &ModelArg, threads: usize, console: &Console) -> Result<Engine, Diagnostics> {
        let source = model::source(arg, &ChangeArgs::default(), threads, console)?;
        source.head().expect(HeadKind::CausalLm, &arg.path)?;
        let model = model::compiled(source, &arg.path, WeightPolicy::default(), threads, console)?;
        Ok(model::engine(&model, self.compute.engine(), console)?)
    }

    /// The text's tokens, cut as the arguments say.
    fn sequences(&self, model: &Model, text: &str) -> Result<Vec<Vec<u32>>, Diagnostics> {
        let tokenizer = model.tokenizer()?;
        let longest = model.context();
        if let Some(window) = self.context.filter(|&window| window as usize > longest) {
            let fault = Diagnostic::new(Code::ContextFull).at(format!("--context {window}"));
            return Err(fault.expected(format!("at most {longest} tokens")).into());
        }
        let sequences = match self.lines {
            true => lines(&tokenizer, text, model.plan().generation.eos_token_ids.first().copied())?,
            false => {
                let window = self.context.map_or_else(|| longest.min(512), |n| n as usize);
                windows(&tokenizer.encode(text, true)?, window)
            }
        };
        if sequences.is_empty() {
            let fault = Diagnostic::new(Code::BadArgument).at(self.file.display().to_string());
            return Err(fault.expected("a text of some tokens").found("nothing to score").into());
        }
        Ok(sequences)
    }
}

/// Windows of `window` tokens; what is left at the end is one if there is something in it to score.
fn windows(ids: &[u32], window: usize) -> Vec<Vec<u32>> {
    ids.chunks(window).filter(|ids| ids.len() > 1).map(<[u32]>::to_vec).collect()
}

/// The tokens of each line that is not empty, and the token that ends a text after them.
fn lines(tokenizer: &Tokenizer, text: &str, eos: Option<u32>) -> Result<Vec<Vec<u32>>, Diagnostics> {
    let texts = text.lines().filter(|line| !line.is_empty());
    let ids = texts.map(|line| -> Result<Vec<u32>, Diagnostic> {
        let mut ids = tokenizer.encode(line, true)?;
        ids.extend(eos.filter(|eos| ids.last() != Some(eos)));
        Ok(ids)
    });
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    Ok(ids.into_iter().filter(|ids| ids.len() > 1).collect())
}

impl Report {
    fn new(measured: &Measured, sequences: usize) -> Self {
        let likelihood = measured.likelihood;
        let against = measured.divergence.map(|divergence| Against {
            perplexity: divergence.reference.perplexity(),
            nll: divergence.reference.nll,
            perplexity_ratio: likelihood.perplexity() / divergence.reference.perplexity(),
            kl_divergence: divergence.kl,
            largest_kl_divergence: divergence.largest_kl,
            top1_agreement: divergence.agreement,
        });
        Self {
            perplexity: likelihood.perplexity(),
            nll: likelihood.nll,
            scored_tokens: likelihood.tokens,
            sequences,
            against,
        }
    }

    fn table(&self) -> String {
        let row = |name: &str, value: String| [name.to_owned(), value];
        let mut rows = vec![
            row("perplexity", format!("{:.4}", self.perplexity)),
            row("tokens", format!("{} in {} sequences", self.scored_tokens, self.sequences)),
        ];
        if let Some(against) = &self.against {
            rows.extend([
                row("the other's perplexity", format!("{:.4}", against.perplexity)),
                row("perplexity ratio", format!("{:.5}", against.perplexity_ratio)),
                row("mean KL divergence", format!("{:.3e} nats", against.kl_divergence)),
                row("largest KL divergence", format!("{:.3e} nats", against.largest_kl_divergence)),
                row("same top token", format!("{:.2} %", 100.0 * against.top1_agreement)),
            ]);
        }
        human::table(&rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_something_to_score() {
        assert_eq!(windows(&[1, 2, 3, 4, 5], 2), [[1, 2], [3, 4]]);
        assert_eq!(windows(&[1, 2, 3, 4, 5], 3), [&[1, 2, 3][..], &[4, 5]]);
        assert_eq!(windows(&[1, 2], 512), [[1, 2]]);
    }
}
