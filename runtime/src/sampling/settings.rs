//! The settings of sampling and their valid ranges.

use llamac_plan::GenerationDefaults;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

/// How the next token is chosen. The defaults are transformers'.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Draw from the distribution. Otherwise the most likely token is taken, and of the other settings only
    /// `repetition_penalty` matters.
    pub do_sample: bool,
    /// Divisor of the logits; a normal number above 0.
    pub temperature: f32,
    /// Keep the k most likely tokens, and those as likely as the last of them; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most likely tokens whose probability reaches this, from 0 to 1; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens that are less likely than this fraction, from 0 to 1, of the most likely one.
    pub min_p: Option<f32>,
    /// Divides the positive logits, and multiplies the negative ones, of tokens that occurred in the sequence; a
    /// normal number above 0; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self::from_defaults(&GenerationDefaults::default())
    }
}

impl Sampling {
    /// The settings that a model asks for, with seed 0.
    pub fn from_defaults(defaults: &GenerationDefaults) -> Self {
        Self {
            do_sample: defaults.do_sample,
            temperature: defaults.temperature,
            top_k: defaults.top_k,
            top_p: defaults.top_p,
            min_p: defaults.min_p,
            repetition_penalty: defaults.repetition_penalty,
            seed: 0,
        }
    }

    /// Reports every setting outside its range; those that are not used may have any value.
    pub fn validate(&self) -> Result<(), Diagnostics> {
        let mut faults = Diagnostics::new();
        let fault = |name: &str, expected: &str, value: f32| {
            Diagnostic::new(Code::BadSampling)
                .at(format!("--{name}"))
                .expected(expected)
                .found(value.to_string())
        };
        // Smaller numbers than the normal ones would make logits infinite.
        let positive = |value: f32| value.is_normal() && value > 0.0;
        const POSITIVE: &str = "a number above 0, at least 1.2e-38";
        let fraction = |value: f32| (0.0..=1.0).contains(&value);
        if !positive(self.repetition_penalty) {
            faults.push(fault("repetition-penalty", POSITIVE, self.repetition_penalty));
        }
        if !self.do_sample {
            return faults.or(());
        }
        if !positive(self.temperature) {
            let fault = fault("temperature", POSITIVE, self.temperature);
            faults.push(fault.help("`--temperature 0` takes the most likely token"));
        }
        if !fraction(self.top_p) {
            faults.push(fault("top-p", "a number from 0 to 1", self.top_p));
        }
        if let Some(min_p) = self.min_p.filter(|&p| !fraction(p)) {
            faults.push(fault("min-p", "a number from 0 to 1", min_p));
        }
        faults.or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sampling: &Sampling) -> Vec<String> {
        match sampling.validate() {
            Ok(()) => Vec::new(),
            Err(faults) => faults.iter().filter_map(|f| f.at.clone()).collect(),
        }
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let s = Sampling::default();
        assert_eq!((s.do_sample, s.temperature, s.top_k, s.top_p, s.min_p), (false, 1.0, 50, 1.0, None));
        assert_eq!((s.repetition_penalty, s.seed), (1.0, 0));
        assert!(names(&s).is_empty());
    }

    #[test]
    fn all_faults_are_reported() {
        let bad = Sampling {
            do_sample: true,
            temperature: 0.0,
            top_p: 1.1,
            min_p: Some(-0.1),
            repetition_penalty: -1.0,
            ..Sampling::default()
        };
        assert_eq!(names(&bad), ["--repetition-penalty", "--temperature", "--top-p", "--min-p"]);
        assert_eq!(names(&Sampling { do_sample: false, ..bad }), ["--repetition-penalty"]);
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for value in [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e-41] {
            let s = Sampling {
                do_sample: true,
                temperature: value,
                repetition_penalty: value,
                ..Sampling::default()
            };
            assert_eq!(names(&s).len(), 2, "{value}");
        }
        let nan = Some(f32::NAN);
        let s = Sampling { do_sample: true, top_p: f32::NAN, min_p: nan, ..Sampling::default() };
        assert_eq!(names(&s), ["--top-p", "--min-p"]);
    }
}
