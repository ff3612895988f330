//! `llamac run`: continue a prompt.

use std::ops::ControlFlow;
use std::time::Duration;

use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_compiler::passes::WeightPolicy;
use llamac_runtime::generate::{Event, GenerateOptions, Generated, Reason, generate};
use llamac_runtime::plan::HeadKind;
use llamac_runtime::text::Tokenizer;
use serde::Serialize;

use crate::args::{ChangeArgs, ComputeArgs, Kv, ModelArg, whole};
use crate::console::{Console, Stdout};
use crate::failure::Failure;
use crate::ids::{self, Ids};
use crate::input;
use crate::model::{self, Source};

/// Continue a prompt
///
/// Prints the prompt and what follows it, as it is written. Without options the model's generation_config.json decides
/// how tokens are chosen; without one, the most likely token is taken, 20 times.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    changes: ChangeArgs,
    #[command(flatten)]
    prompt: Prompt,
    /// Tokens to write at most
    #[arg(short = 'n', long = "max-new-tokens", value_name = "N", allow_negative_numbers = true,
        value_parser = whole::<u64>(1..=u64::MAX))]
    max_new_tokens: Option<u64>,
    /// Stop after this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Print JSON: an object for each token, then one for the whole
    #[arg(long)]
    json: bool,
    /// How the cache stores keys and values
    #[arg(long, value_enum)]
    kv: Option<Kv>,
    /// Guess up to N tokens at a time from what followed the same words before; the text is the same
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true,
        value_parser = whole::<u16>(0..=u16::MAX as u64))]
    lookup: u16,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    sampling: Sampling,
}

/// What to continue.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// The prompt; `-` reads standard input
    #[arg(short, long = "prompt", value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// The prompt as token ids
    #[arg(long, value_name = "1,2,3", allow_hyphen_values = true, value_parser = ids::parse)]
    ids: Option<Ids>,
}

/// How tokens are chosen. Any of these but the penalty asks for sampling; a temperature of 0 asks for the most likely
/// token, whatever else is given.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling (any of these but the penalty switches it on)")]
struct Sampling {
    /// Divide logits by this; 0 takes the most likely token
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = whole::<u32>(0..=u32::MAX.into()))]
    top_k: Option<u32>,
    /// Keep the most likely tokens that together reach this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Drop tokens less likely than this fraction of the most likely one
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Seed of the draws [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u64>(0..=u64::MAX))]
    seed: Option<u64>,
    /// Make tokens that occurred less likely; 1 changes nothing
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
}

impl Sampling {
    /// Whether to sample; nothing if the model decides.
    fn do_sample(&self) -> Option<bool> {
        if self.temperature == Some(0.0) {
            return Some(false);
        }
        let asked = self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.min_p.is_some()
            || self.seed.is_some();
        asked.then_some(true)
    }
}

/// A line of `--json`.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Token {
        id: u32,
        text: &'a str,
    },
    Done {
        reason: &'static str,
        prompt_tokens: usize,
        tokens: &'a [u32],
        text: &'a str,
        prefill_ms: f64,
        decode_ms: f64,
        #[serde(flatten)]
        guesses: Option<Guesses>,
    },
}

/// What became of guesses, where `--lookup` asked for some.
#[derive(Clone, Copy, Debug, Serialize)]
struct Guesses {
    guessed: usize,
    guessed_right: usize,
}

impl Args {
    /// Writes the continuation.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        let threads = self.compute.threads.count();
        let source = model::source(&self.model, &self.changes, threads, console)?;
        let options = self.options();
        source.head().expect(HeadKind::CausalLm, &self.model.path)?;
        options.check(source.generation())?;
        let tokenizer = self.tokenizer(&source)?;
        let (prompt, shown) = self.prompt.read(tokenizer.as_ref())?;
        let model = model::compiled(source, &self.model.path, WeightPolicy::default(), threads, console)?;
        let mut engine = model::engine(&model, self.compute.engine(), console)?;
        let mut writer =
            Writer { out: Stdout::lock(), json: self.json, words: tokenizer.is_some(), prompt: Some(shown) };
        let mut written = Ok(());
        let each = |event: Event<'_>| {
            written = writer.token(event);
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let generated = generate(&mut engine, tokenizer.as_ref(), &prompt, &options, each);
        written?;
        // What was written of a line ends before a message begins.
        let ended = writer.end(generated.as_ref().ok().map(|generated| (generated, self.guesses(generated))));
        let generated = generated?;
        ended?;
        if generated.reason == Reason::Context {
            console.warn(format!("the context of {} tokens is full", model.context()));
        }
        if console.is_verbose() {
            console.note(speed(&generated, self.guesses(&generated)));
        }
        Ok(())
    }

    /// The model's tokenizer, which a prompt of ids can do without.
    fn tokenizer(&self, source: &Source) -> Result<Option<Tokenizer>, Diagnostics> {
        match source.tokenizer() {
            Ok(tokenizer) => Ok(Some(tokenizer)),
            Err(faults) if faults.iter().any(|fault| fault.code != Code::NoTokenizer) => Err(faults),
            Err(_) if self.prompt.ids.is_some() => Ok(None),
            Err(_) => Err(Diagnostic::new(Code::NoTokenizer)
                .at(self.model.path.display().to_string())
                .help("give token ids (`--ids`), or use a checkpoint that holds a tokenizer")
                .into()),
        }
    }

    /// What became of the guesses of `generated`, if there were to be any.
    fn guesses(&self, generated: &Generated) -> Option<Guesses> {
        let Generated { guessed, guessed_right, .. } = *generated;
        (self.lookup > 0).then_some(Guesses { guessed, guessed_right })
    }

    fn options(&self) -> GenerateOptions {
        let sampling = &self.sampling;
        let do_sample = sampling.do_sample();
        GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            do_sample,
            temperature: sampling.temperature.filter(|_| do_sample == Some(true)),
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            seed: sampling.seed,
            stop_strings: self.stop.clone(),
            kv: self.kv.map(Into::into),
            lookup: self.lookup.into(),
            ..GenerateOptions::default()
        }
    }
}

impl Prompt {
    /// The prompt's ids, and its text as far as there is one.
    fn read(&self, tokenizer: Option<&Tokenizer>) -> Result<(Vec<u32>, String), Diagnostic> {
        match (&self.prompt, &self.ids, tokenizer) {
            (Some(prompt), _, Some(tokenizer)) => {
                let text = input::text(prompt)?;
                Ok((tokenizer.encode(&text, true)?, text))
            }
            (_, Some(Ids(ids)), Some(tokenizer)) => Ok((ids.clone(), tokenizer.decode(ids, true)?)),
            (_, Some(Ids(ids)), None) => Ok((ids.clone(), String::new())),
            _ => Err(Diagnostic::new(Code::NoTokenizer)),
        }
    }
}

/// Writes a generation as it comes.
struct Writer {
    out: Stdout,
    json: bool,
    /// Whether there is text; otherwise ids are written.
    words: bool,
    /// The prompt's text, until the first token is there: what cannot begin prints nothing.
    prompt: Option<String>,
}

impl Writer {
    fn token(&mut self, event: Event<'_>) -> Result<(), Failure> {
        let prompt = self.prompt.take();
        match (self.json, self.words, prompt) {
            (true, ..) => self.line(&Line::Token { id: event.id, text: event.text })?,
            (false, true, prompt) => write!(self.out, "{}{}", prompt.unwrap_or_default(), event.text)?,
            (false, false, Some(_)) => write!(self.out, "{}", event.id)?,
            (false, false, None) => write!(self.out, ",{}", event.id)?,
        }
        self.out.flush()
    }

    fn end(&mut self, generated: Option<(&Generated, Option<Guesses>)>) -> Result<(), Failure> {
        match (self.json, generated) {
            (true, Some((generated, guesses))) => self.line(&Line::Done {
                reason: generated.reason.name(),
                prompt_tokens: generated.prompt_tokens,
                tokens: &generated.tokens,
                text: &generated.text,
                prefill_ms: milliseconds(generated.prefill),
                decode_ms: milliseconds(generated.decode),
                guesses,
            })?,
            (false, _) if self.prompt.is_none() => writeln!(self.out)?,
            _ => {}
        }
        self.out.flush()
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        let json = serde_json::to_string(line).expect("numbers and strings are JSON");
        writeln!(self.out, "{json}")
    }
}

/// In milliseconds, to a thousandth.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// `prompt: 12 tokens, 340.0 tokens/s; text: 20 tokens, 51.3 tokens/s; 9 of 14 guesses were right`.
fn speed(generated: &Generated, guesses: Option<Guesses>) -> String {
    let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
    let (prompt, new) = (generated.prompt_tokens, generated.tokens.len());
    let prefill = rate(prompt, generated.prefill);
    // The prefill gave the first token.
    let mut line = format!("prompt: {prompt} tokens, {prefill:.1} tokens/s; text: {new} tokens");
    if new > 1 {
        line += &format!(", {:.1} tokens/s", rate(new - 1, generated.decode));
    }
    if let Some(Guesses { guessed, guessed_right }) = guesses {
        line += &format!("; {guessed_right} of {guessed} guesses were right");
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn options(arguments: &[&str]) -> GenerateOptions {
        let line = ["llamac", "model", "-p", "x"].iter().chain(arguments);
        Line::try_parse_from(line).expect("valid arguments").args.options()
    }

    #[test]
    fn sampling_is_switched_on_by_its_options_and_off_by_temperature_0() {
        assert_eq!(options(&[]), GenerateOptions::default());
        assert_eq!(options(&["--repetition-penalty", "1.1"]).do_sample, None);
        for option in ["--temperature=0.5", "--top-k=5", "--top-p=0.5", "--min-p=0.1", "--seed=1"] {
            assert_eq!(options(&[option]).do_sample, Some(true), "{option}");
        }
        let greedy = options(&["--temperature", "0", "--seed", "1"]);
        assert_eq!((greedy.do_sample, greedy.temperature), (Some(false), None));
    }

    #[test]
    fn one_prompt_is_needed() {
        for line in [&["llamac", "model"][..], &["llamac", "model", "-p", "x", "--ids", "1"]] {
            assert!(Line::try_parse_from(line).is_err(), "{line:?}");
        }
        assert!(Line::try_parse_from(["llamac", "model", "-p", "- a list"]).is_ok());
    }

    #[test]
    fn times_are_thousandths_of_milliseconds() {
        assert_eq!(milliseconds(Duration::from_nanos(1_234_567)), 1.235);
    }
}
