//! `llamac classify`: which class a text is of.

use llamac_compiler::passes::WeightPolicy;
use llamac_runtime::classify;
use llamac_runtime::plan::HeadKind;
use serde::Serialize;

use crate::args::{ChangeArgs, ComputeArgs, ModelArg};
use crate::console::{Console, Stdout};
use crate::failure::Failure;
use crate::{human, model, texts};

/// Show the scores of a text by label, best first
///
/// The model is a sequence classifier. Scores are probabilities: of one label that is right, or of each label by
/// itself where the model's problem_type is multi_label_classification; a regression's are its own numbers.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    changes: ChangeArgs,
    /// The texts; `-` reads standard input, one text a line
    #[arg(value_name = "TEXT", required = true)]
    texts: Vec<String>,
    /// Print JSON: an object for each text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// What `--json` prints for a text.
#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    scores: Vec<Score<'a>>,
}

#[derive(Serialize)]
struct Score<'a> {
    label: &'a str,
    score: f32,
}

impl Args {
    /// Prints the scores.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        let threads = self.compute.threads.count();
        let source = model::source(&self.model, &self.changes, threads, console)?;
        source.head().expect(HeadKind::SequenceClassification, &self.model.path)?;
        let tokenizer = source.tokenizer()?;
        let texts = texts::read(&self.texts)?;
        let ids = texts::encode(&tokenizer, &texts)?;
        let model = model::compiled(source, &self.model.path, WeightPolicy::default(), threads, console)?;
        let labels = model.plan().head.labels().unwrap_or_default();
        let mut engine = model::engine(&model, self.compute.engine(), console)?;
        let mut out = Stdout::lock();
        let print = |i: usize, scores: &[f32]| {
            let line = Line { text: &texts[i], scores: best_first(labels, scores) };
            match self.json {
                true => {
                    let json = serde_json::to_string(&line).expect("numbers and strings are JSON");
                    writeln!(out, "{json}")
                }
                false => write!(out, "{}", line.block(i, texts.len())),
            }
        };
        texts::printing(|each| classify(&mut engine, &ids, each), print)?;
        out.flush()
    }
}

/// The scores with their labels; of equal ones the first label is first.
fn best_first<'a>(labels: &'a [String], scores: &[f32]) -> Vec<Score<'a>> {
    let mut sorted: Vec<_> =
        labels.iter().zip(scores).map(|(label, &score)| Score { label, score }).collect();
    sorted.sort_by(|a, b| b.score.total_cmp(&a.score));
    sorted
}

impl Line<'_> {
    /// A table of the scores; under the text where there are several.
    fn block(&self, i: usize, texts: usize) -> String {
        let row = |score: &Score<'_>| [score.label.to_owned(), format!("{:.4}", score.score)];
        let table = human::table(&self.scores.iter().map(row).collect::<Vec<_>>());
        if texts == 1 {
            return table;
        }
        let gap = if i == 0 { "" } else { "\n" };
        let lines: String = table.lines().map(|line| format!("  {line}\n")).collect();
        format!("{gap}{}\n{lines}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_score_comes_first() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let sorted = best_first(&labels, &[0.1, 0.8, 0.1]);
        assert_eq!(sorted.iter().map(|score| score.label).collect::<Vec<_>>(), ["b", "a", "c"]);
        let line = Line { text: "x", scores: sorted };
        assert_eq!(line.block(0, 1), "b  0.8000\na  0.1000\nc  0.1000\n");
        assert_eq!(line.block(1, 2), "\nx\n  b  0.8000\n  a  0.1000\n  c  0.1000\n");
    }
}
