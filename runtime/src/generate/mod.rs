//! Text, or bare token ids, from a prompt: one prefill, then a token at a time.
//!
//! One sequence, as transformers' `generate` without beams: logits of the last position, sampling, end by a token of
//! the eos list, by a stop string or by length. Deliberately absent: batches of prompts.

mod lookup;
mod settings;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use llamac_plan::HeadKind;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use lookup::Decoder;
pub use settings::{GenerateOptions, Settings};

use crate::engine::{Engine, Feed, Keep};
use crate::sampling::Sampler;
use crate::session::{Session, SessionOptions};
use crate::text::{Detokenizer, StopStrings, Tokenizer};

/// A token that was generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The token.
    pub id: u32,
    /// The text that it completes. The texts of all tokens, joined, are what the prompt is continued with; without a
    /// tokenizer there is none.
    pub text: &'a str,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A token of the eos list, which is the last token.
    Eos,
    /// The limit of tokens.
    Length,
    /// The end of the context, before the limit of tokens.
    Context,
    /// A stop string, which is at the end of the text.
    Stop,
    /// The caller wanted no more.
    Cancelled,
}

impl Reason {
    /// The name in machine-readable output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Length | Self::Context => "length",
            Self::Stop => "stop",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Why it ended.
    pub reason: Reason,
    /// Tokens of the prompt, with the one that opens a sequence if the prompt was empty.
    pub prompt_tokens: usize,
    /// The tokens, with the one that ended the text.
    pub tokens: Vec<u32>,
    /// Their text, special tokens left out; empty without a tokenizer.
    pub text: String,
    /// Time until the logits of the first token.
    pub prefill: Duration,
    /// Time from then on. All but the first token took a forward of this time, or were guessed before.
    pub decode: Duration,
    /// Tokens that were guessed, see [`GenerateOptions::lookup`].
    pub guessed: usize,
    /// Those of them that were right.
    pub guessed_right: usize,
}

/// Continues `prompt` and calls `each` with every token as soon as it is known; `Break` ends the generation.
///
/// Without a `tokenizer` there are ids only. An empty prompt is the token that opens a sequence.
///
/// # Errors
/// When the model is not a causal language model, a setting is out of range, the prompt is outside the vocabulary or
/// fills the context, or the model's logits are not numbers.
pub fn generate(
    engine: &mut Engine,
    tokenizer: Option<&Tokenizer>,
    prompt: &[u32],
    options: &GenerateOptions,
    each: impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Generated, Diagnostics> {
    let model = engine.model().clone();
    let plan = model.plan();
    plan.head.expect(HeadKind::CausalLm, model.path())?;
    let bos = plan.generation.bos_token_id;
    let prompt = match (prompt, &bos) {
        ([], Some(bos)) if *bos as usize >= plan.shape.vocab_size => {
            let fault = Diagnostic::new(Code::BadToken).at("bos_token_id").found(bos.to_string());
            let fault = fault.expected(format!("an id below {}", plan.shape.vocab_size));
            return Err(fault.help("give a prompt: only an empty one begins with this token").into());
        }
        ([], Some(bos)) => std::slice::from_ref(bos),
        ([], None) => {
            let fault = Diagnostic::new(Code::BadArgument).at("prompt").expected("at least one token");
            return Err(fault.found("none, and the model has no token that opens a sequence").into());
        }
        _ => prompt,
    };
    let prompt = without_padding(prompt, plan.generation.pad_token_id, options.eos(&plan.generation));
    let settings = options.resolve(&plan.generation, prompt.len(), model.context())?;
    let capacity = prompt.len().saturating_add(settings.max_new_tokens);
    let mut session = Session::new(&model, SessionOptions { capacity, kv: options.kv })?;
    let mut sampler = Sampler::new(settings.sampling.clone(), plan.shape.vocab_size)?;
    sampler.observe(&prompt);
    let text = Text::new(tokenizer, &options.stop_strings, &prompt)?;
    let run = Run { settings, text, each };

    let start = Instant::now();
    let mut logits = engine.forward(&mut [Feed::ids(&mut session, &prompt, Keep::Last(1))])?.feed(0).to_vec();
    let first = Instant::now();
    let mut decoder = Decoder::new(engine, session, &prompt, options.lookup);
    let (reason, tokens, text) =
        run.decode(&mut sampler, &mut logits, |id, logits| decoder.next(id, logits))?;
    let (prefill, decode) = (first - start, first.elapsed());
    let (guessed, guessed_right) = (decoder.guessed, decoder.right);
    let prompt_tokens = prompt.len();
    Ok(Generated { reason, prompt_tokens, tokens, text, prefill, decode, guessed, guessed_right })
}

/// The tokens of `prompt` that transformers attends to when it is given no mask: all but padding, unless the padding
/// token also ends texts. Positions count the tokens that are left, so padding can be left out.
fn without_padding<'p>(prompt: &'p [u32], pad: Option<u32>, eos: &[u32]) -> Cow<'p, [u32]> {
    match pad {
        Some(pad) if !eos.contains(&pad) && prompt.contains(&pad) && prompt.last() != Some(&pad) => {
            prompt.iter().copied().filter(|id| *id != pad).collect()
        }
        _ => prompt.into(),
    }
}

/// The part of a generation that knows no model.
struct Run<'t, F> {
    settings: Settings,
    text: Text<'t>,
    each: F,
}

impl<F: FnMut(Event<'_>) -> ControlFlow<()>> Run<'_, F> {
    /// Chooses tokens from `logits`, which `next` replaces by those that follow a token.
    fn decode(
        mut self,
        sampler: &mut Sampler,
        logits: &mut [f32],
        mut next: impl FnMut(u32, &mut [f32]) -> Result<(), Diagnostics>,
    ) -> Result<(Reason, Vec<u32>, String), Diagnostics> {
        let mut tokens = Vec::with_capacity(self.settings.max_new_tokens.min(4096));
        let mut text = String::new();
        loop {
            let id = sampler.next(logits)?;
            tokens.push(id);
            let stops = self.text.stops(id)?;
            let mut end = match () {
                () if self.settings.eos_token_ids.contains(&id) => Some(Reason::Eos),
                () if stops => Some(Reason::Stop),
                () if tokens.len() >= self.settings.max_new_tokens => Some(self.settings.limit),
                () => None,
            };
            let start = text.len();
            self.text.push(id, end.is_some(), &mut text)?;
            if (self.each)(Event { id, text: &text[start..] }).is_break() && end.is_none() {
                self.text.flush(&mut text)?;
                end = Some(Reason::Cancelled);
            }
            if let Some(reason) = end {
                return Ok((reason, tokens, text));
            }
            next(id, logits)?;
        }
    }
}

/// What a tokenizer adds to a generation.
struct Text<'t>(Option<(Detokenizer<'t>, StopStrings<'t>)>);

impl<'t> Text<'t> {
    fn new(tokenizer: Option<&'t Tokenizer>, stop: &[String], prompt: &[u32]) -> Result<Self, Diagnostic> {
        let Some(tokenizer) = tokenizer else {
            if stop.is_empty() {
                return Ok(Self(None));
            }
            return Err(Diagnostic::new(Code::NoTokenizer).message("stop strings need one"));
        };
        let mut strings = StopStrings::new(tokenizer, stop)?;
        strings.prompt(prompt)?;
        Ok(Self(Some((Detokenizer::after(tokenizer, true, prompt)?, strings))))
    }

    /// Whether a stop string ends in `id`.
    fn stops(&mut self, id: u32) -> Result<bool, Diagnostic> {
        self.0.as_mut().map_or(Ok(false), |(_, stop)| stop.push(id))
    }

    /// Appends what `id` completes; everything if it is the `last`.
    fn push(&mut self, id: u32, last: bool, text: &mut String) -> Result<(), Diagnostic> {
        if let Some((stream, _)) = &mut self.0 {
            text.push_str(stream.push(id)?);
        }
        if last { self.flush(text) } else { Ok(()) }
    }

    fn flush(&mut self, text: &mut String) -> Result<(), Diagnostic> {
        if let Some((stream, _)) = &mut self.0 {
            text.push_str(stream.flush()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use llamac_plan::GenerationDefaults;

    use super::*;
    use crate::text::testing::llama;

    type Outcome = (Reason, Vec<u32>, String);

    /// Runs a model that says `script`, whatever it is told; returns what came of it and what the caller was told.
    fn say(
        tokenizer: Option<&Tokenizer>,
        options: &GenerateOptions,
        script: &[u32],
        patience: usize,
    ) -> (Outcome, Vec<(u32, String)>) {
        let n = tokenizer.map_or(16, Tokenizer::vocab_size);
        let defaults = GenerationDefaults { eos_token_ids: vec![2, 7], ..GenerationDefaults::default() };
        let settings = options.resolve(&defaults, 1, 100).expect("valid options");
        let mut sampler = Sampler::new(settings.sampling.clone(), n).expect("valid settings");
        let text = Text::new(tokenizer, &options.stop_strings, &[1]).expect("a text");
        let mut told = Vec::new();
        let each = |event: Event<'_>| {
            told.push((event.id, event.text.to_owned()));
            if told.len() < patience { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let logits = |id: u32| (0..n as u32).map(|i| f32::from(i == id)).collect::<Vec<_>>();
        let mut rest = script[1..].iter();
        let outcome = Run { settings, text, each }
            .decode(&mut sampler, &mut logits(script[0]), |_, out| {
                out.copy_from_slice(&logits(*rest.next().expect("a longer script")));
                Ok(())
            })
            .expect("tokens");
        (outcome, told)
    }

    fn stop(strings: &[&str]) -> GenerateOptions {
        GenerateOptions {
            stop_strings: strings.iter().map(|s| (*s).into()).collect(),
            ..GenerateOptions::default()
        }
    }

    #[test]
    fn ends_by_eos_or_length_without_a_tokenizer() {
        let options = GenerateOptions { max_new_tokens: Some(3), ..GenerateOptions::default() };
        let ((reason, tokens, text), told) = say(None, &options, &[4, 5, 6], 9);
        assert_eq!((reason, tokens, text.as_str()), (Reason::Length, vec![4, 5, 6], ""));
        assert_eq!(told, [(4, String::new()), (5, String::new()), (6, String::new())]);
        // The ending token counts as the limit is reached, too.
        for script in [&[4, 7][..], &[4, 5, 2]] {
            let ((reason, tokens, _), _) = say(None, &options, script, 9);
            assert_eq!((reason, tokens), (Reason::Eos, script.to_vec()));
        }
        let ((reason, tokens, _), _) = say(None, &GenerateOptions::default(), &[4; 20], 99);
        assert_eq!((reason, tokens.len()), (Reason::Length, 20));
    }

    #[test]
    fn ends_by_a_stop_string_with_the_whole_text() {
        let t = llama();
        let id = |p: &str| t.token_to_id(p).expect(p);
        let script = [id("▁a"), id("▁Banana"), id("a")];
        let ((reason, tokens, text), told) = say(Some(&t), &stop(&["a B"]), &script, 9);
        assert_eq!((reason, tokens, text.as_str()), (Reason::Stop, script[..2].to_vec(), "a Banana"));
        assert_eq!(told.iter().map(|t| t.1.as_str()).collect::<Vec<_>>(), ["a", " Banana"]);
    }

    #[test]
    fn withheld_text_comes_with_the_last_token() {
        let t = llama();
        let id = |p: &str| t.token_to_id(p).expect(p);
        let script = [id("a"), id("<0xC3>"), id("<0xA9>"), 2];
        let ((reason, _, text), told) = say(Some(&t), &stop(&[]), &script, 9);
        assert_eq!((reason, text.as_str()), (Reason::Eos, "aé"));
        assert_eq!(told.iter().map(|t| t.1.as_str()).collect::<Vec<_>>(), ["a", "", "", "é"]);
        let ((reason, tokens, text), _) = say(Some(&t), &stop(&[]), &script, 2);
        assert_eq!((reason, tokens.len(), text.as_str()), (Reason::Cancelled, 2, "a\u{FFFD}"));
    }

    #[test]
    fn stop_strings_need_a_tokenizer() {
        let fault = Text::new(None, &["x".into()], &[1]).err().expect("a fault");
        assert_eq!(fault.code, Code::NoTokenizer);
    }
}
