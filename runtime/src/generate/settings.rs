//! What a caller asks for, what the model asks for, and what follows from both.
//!
//! A caller's option wins over `generation_config.json`, which wins over transformers' defaults.

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::{GenerationDefaults, KvDtype};

use super::Reason;
use crate::sampling::Sampling;

/// Tokens that are generated if nobody says how many, as in transformers.
const DEFAULT_NEW_TOKENS: u64 = 20;

/// What a caller asks for; what is `None` is left to the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// Tokens to generate at most, at least 1. Wins over `max_length`.
    pub max_new_tokens: Option<u64>,
    /// Prompt and generated tokens together at most; more than the prompt.
    pub max_length: Option<u64>,
    /// See [`Sampling::do_sample`].
    pub do_sample: Option<bool>,
    /// See [`Sampling::temperature`].
    pub temperature: Option<f32>,
    /// See [`Sampling::top_k`].
    pub top_k: Option<u32>,
    /// See [`Sampling::top_p`].
    pub top_p: Option<f32>,
    /// See [`Sampling::min_p`].
    pub min_p: Option<f32>,
    /// See [`Sampling::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// See [`Sampling::seed`]; 0 if not given.
    pub seed: Option<u64>,
    /// Tokens that end the text, in place of the model's; an empty list lets it run on.
    pub eos_token_ids: Option<Vec<u32>>,
    /// The text ends after a token in which one of these ends. They need a tokenizer.
    pub stop_strings: Vec<String>,
    /// How the cache stores keys and values.
    pub kv: Option<KvDtype>,
    /// Tokens that are guessed at a time, at most, from what followed the last tokens when they occurred before. The
    /// result is the same, with sampling too; right guesses save time.
    pub lookup: usize,
}

/// What a generation follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How tokens are chosen; within their valid ranges.
    pub sampling: Sampling,
    /// Tokens to generate at most. The prompt and these fit into the context.
    pub max_new_tokens: usize,
    /// What so many tokens are the end of.
    pub limit: Reason,
    /// Tokens that end the text.
    pub eos_token_ids: Vec<u32>,
}

impl GenerateOptions {
    /// Settings for a prompt of `prompt_tokens` and a model with the given defaults and room for `context` tokens.
    ///
    /// A limit beyond the context is cut to it.
    ///
    /// # Errors
    /// All settings outside their range, and a prompt that leaves no room for a token.
    pub fn resolve(
        &self,
        defaults: &GenerationDefaults,
        prompt_tokens: usize,
        context: usize,
    ) -> Result<Settings, Diagnostics> {
        let mut faults = Diagnostics::new();
        let sampling = self.sampling(defaults);
        faults.absorb(sampling.validate());
        let wanted = faults.absorb(self.limit(defaults, prompt_tokens as u64).map_err(Diagnostics::from));
        let room = context.saturating_sub(prompt_tokens);
        if room == 0 {
            let fault = Diagnostic::new(Code::ContextFull)
                .expected(format!("a prompt of less than {context} tokens"));
            let fault = fault.found(format!("{prompt_tokens} tokens"));
            faults.push(fault.help("shorten the prompt; the model's context has to hold the answer, too"));
        }
        let eos_token_ids = self.eos(defaults).to_vec();
        let (max_new_tokens, limit) = match wanted.and_then(|wanted| usize::try_from(wanted).ok()) {
            Some(wanted) if wanted <= room => (wanted, Reason::Length),
            _ => (room, Reason::Context),
        };
        faults.or(Settings { sampling, max_new_tokens, limit, eos_token_ids })
    }

    /// Checks what can be checked before there is a prompt, for a model with these `defaults`.
    ///
    /// # Errors
    /// All settings of sampling outside their range.
    pub fn check(&self, defaults: &GenerationDefaults) -> Result<(), Diagnostics> {
        self.sampling(defaults).validate()
    }

    /// The tokens that end a text.
    pub(super) fn eos<'a>(&'a self, defaults: &'a GenerationDefaults) -> &'a [u32] {
        self.eos_token_ids.as_ref().unwrap_or(&defaults.eos_token_ids)
    }

    fn sampling(&self, defaults: &GenerationDefaults) -> Sampling {
        let model = Sampling::from_defaults(defaults);
        Sampling {
            do_sample: self.do_sample.unwrap_or(model.do_sample),
            temperature: self.temperature.unwrap_or(model.temperature),
            top_k: self.top_k.unwrap_or(model.top_k),
            top_p: self.top_p.unwrap_or(model.top_p),
            min_p: self.min_p.or(model.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(model.repetition_penalty),
            seed: self.seed.unwrap_or(model.seed),
        }
    }

    /// Tokens to generate at most, whatever the context.
    fn limit(&self, defaults: &GenerationDefaults, prompt_tokens: u64) -> Result<u64, Diagnostic> {
        let of_length = |length: u64| match length.checked_sub(prompt_tokens) {
            None | Some(0) => Err(Diagnostic::new(Code::BadArgument)
                .at("max_length")
                .expected(format!("more than the {prompt_tokens} tokens of the prompt"))
                .found(length.to_string())
                .help("say how many tokens to generate (max_new_tokens) instead")),
            Some(new) => Ok(new),
        };
        let of_new = |new: u64| match new {
            0 => {
                Err(Diagnostic::new(Code::BadArgument).at("max_new_tokens").expected("at least 1").found("0"))
            }
            new => Ok(new),
        };
        match (self.max_new_tokens, self.max_length, defaults.max_new_tokens, defaults.max_length) {
            (Some(new), ..) | (None, None, Some(new), _) => of_new(new),
            (None, Some(length), ..) | (None, None, None, Some(length)) => of_length(length),
            (None, None, None, None) => Ok(DEFAULT_NEW_TOKENS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_tokens(options: GenerateOptions, defaults: &GenerationDefaults) -> Result<usize, Vec<Code>> {
        let settings =
            options.resolve(defaults, 10, 100).map_err(|f| f.iter().map(|f| f.code).collect::<Vec<_>>())?;
        Ok(settings.max_new_tokens)
    }

    fn length(max_new_tokens: Option<u64>, max_length: Option<u64>) -> GenerateOptions {
        GenerateOptions { max_new_tokens, max_length, ..GenerateOptions::default() }
    }

    #[test]
    fn limits_come_from_the_caller_then_the_model_then_the_default() {
        let none = GenerationDefaults::default();
        let model =
            |max_new_tokens, max_length| GenerationDefaults { max_new_tokens, max_length, ..none.clone() };
        assert_eq!(new_tokens(length(None, None), &none), Ok(20));
        assert_eq!(new_tokens(length(Some(7), Some(50)), &none), Ok(7));
        assert_eq!(new_tokens(length(None, Some(50)), &model(Some(3), Some(90))), Ok(40));
        assert_eq!(new_tokens(length(None, None), &model(Some(3), Some(90))), Ok(3));
        assert_eq!(new_tokens(length(None, None), &model(None, Some(90))), Ok(80));
        assert_eq!(new_tokens(length(Some(u64::MAX), None), &none), Ok(90));
        assert_eq!(new_tokens(length(None, Some(4096)), &none), Ok(90));
    }

    #[test]
    fn limits_without_room_are_refused() {
        let none = GenerationDefaults::default();
        assert_eq!(new_tokens(length(Some(0), None), &none), Err(vec![Code::BadArgument]));
        assert_eq!(new_tokens(length(None, Some(10)), &none), Err(vec![Code::BadArgument]));
        let faults = GenerateOptions::default().resolve(&none, 100, 100).expect_err("no room");
        assert_eq!(faults.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::ContextFull]);
        assert_eq!(GenerateOptions::default().resolve(&none, 99, 100).map(|s| s.max_new_tokens), Ok(1));
    }

    #[test]
    fn the_model_decides_what_the_caller_does_not() {
        let model = GenerationDefaults {
            do_sample: true,
            temperature: 0.6,
            top_p: 0.9,
            eos_token_ids: vec![5, 6],
            ..GenerationDefaults::default()
        };
        let options = GenerateOptions { top_p: Some(0.5), seed: Some(3), ..GenerateOptions::default() };
        let s = options.resolve(&model, 1, 100).expect("valid settings");
        assert_eq!((s.sampling.do_sample, s.sampling.temperature, s.sampling.top_p), (true, 0.6, 0.5));
        assert_eq!((s.sampling.top_k, s.sampling.seed), (50, 3));
        assert_eq!(s.eos_token_ids, [5, 6]);
        let options = GenerateOptions { eos_token_ids: Some(vec![]), ..GenerateOptions::default() };
        let s = options.resolve(&model, 1, 100).expect("valid settings");
        assert!(s.eos_token_ids.is_empty());
    }

    #[test]
    fn all_faults_are_reported_together() {
        let options = GenerateOptions {
            do_sample: Some(true),
            temperature: Some(-1.0),
            top_p: Some(2.0),
            ..length(Some(0), None)
        };
        let faults = options.resolve(&GenerationDefaults::default(), 200, 100).expect_err("faults");
        assert_eq!(faults.iter().count(), 4);
    }
}
