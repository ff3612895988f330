//! How weights are to be stored: a format for all matrices, and others for those that are named.
//!
//! Written as `q4,down_proj=q8,layers.0=f16`. The last entry that fits a matrix decides.

use std::fmt;
use std::str::FromStr;

use llamac_ir::suggest::nearest;
use llamac_ir::{DType, Scheme};

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// As the checkpoint stores it.
    AsIs,
    /// As another floating-point type.
    Float(DType),
    /// Quantized.
    Quantized(Scheme),
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 7] = [
        Self::AsIs,
        Self::Float(DType::F32),
        Self::Float(DType::F16),
        Self::Float(DType::BF16),
        Self::Quantized(Scheme::Q8),
        Self::Quantized(Scheme::Q4),
        Self::Quantized(Scheme::Q4A),
    ];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::AsIs => "as-is",
            Self::Float(dtype) => dtype.name(),
            Self::Quantized(scheme) => scheme.name(),
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            let near = nearest(text, names).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            format!("`{text}` is no format of weights; expected one of {}{near}", names.join(", "))
        })
    }
}

/// A format for matrices of some names, or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyEntry {
    /// Parts of a name between dots, as in `lm_head`, `down_proj` or `layers.0`; nothing for all matrices.
    pub pattern: Option<String>,
    /// The format.
    pub format: WeightFormat,
}

impl fmt::Display for PolicyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            Some(pattern) => write!(f, "{pattern}={}", self.format),
            None => self.format.fmt(f),
        }
    }
}

/// How weights are to be stored. The default leaves them as they are.
///
/// Vectors (norms and biases) are f32 where all matrices have a format, and stay as they are otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightPolicy {
    /// The last entry that fits decides; without one, matrices stay as they are.
    pub entries: Vec<PolicyEntry>,
}

/// Matrices that lose more than others in four bits, or are small: the embedding and the heads. They get eight, unless
/// they are named.
const SENSITIVE: [&str; 4] = ["embed_tokens", "lm_head", "score", "qa_outputs"];

impl From<WeightFormat> for WeightPolicy {
    /// `format` for all matrices.
    fn from(format: WeightFormat) -> Self {
        Self { entries: vec![PolicyEntry { pattern: None, format }] }
    }
}

impl WeightPolicy {
    /// This policy where it says something, and `other` elsewhere.
    pub fn or(self, other: Self) -> Self {
        Self { entries: [other.entries, self.entries].concat() }
    }

    /// The format of a matrix that goes by all of `names`; nothing if no entry fits.
    pub fn format(&self, names: &[&str]) -> Option<WeightFormat> {
        let any = |pattern: &str| names.iter().any(|name| matches(pattern, name));
        let fits = |entry: &&PolicyEntry| entry.pattern.as_deref().is_none_or(any);
        let PolicyEntry { pattern, format } = self.entries.iter().rev().find(fits)?;
        match format {
            WeightFormat::Quantized(Scheme::Q4 | Scheme::Q4A)
                if pattern.is_none() && SENSITIVE.into_iter().any(any) =>
            {
                Some(WeightFormat::Quantized(Scheme::Q8))
            }
            format => Some(*format),
        }
    }

    /// Whether vectors are f32.
    pub fn widens_vectors(&self) -> bool {
        let last = self.entries.iter().rev().find(|entry| entry.pattern.is_none());
        last.is_some_and(|entry| entry.format != WeightFormat::AsIs)
    }
}

/// Whether the parts of `pattern` are neighbours in `name`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let parts = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (pattern, name) = (parts(pattern), parts(name));
    name.windows(pattern.len()).any(|window| window == pattern)
}

impl FromStr for WeightPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut policy = Self::default();
        for part in text.split(',') {
            let (pattern, format) = match part.split_once('=') {
                None => (None, part),
                Some((pattern, format)) => (Some(pattern.to_owned()), format),
            };
            if pattern.iter().flat_map(|pattern| pattern.split('.')).any(str::is_empty) {
                return Err(format!("`{part}` names no weights; write NAME=FORMAT, as in lm_head=q8"));
            }
            let entry = PolicyEntry { pattern, format: format.parse()? };
            if let Some(other) = policy.entries.iter().find(|other| other.pattern == entry.pattern) {
                let what = entry.pattern.as_deref().unwrap_or("all weights");
                return Err(format!("`{other}` and `{entry}` are both for {what}; give one of them"));
            }
            policy.entries.push(entry);
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(policy: &str, names: &[&str]) -> String {
        let policy: WeightPolicy = policy.parse().unwrap();
        policy.format(names).map_or_else(|| "none".to_owned(), |format| format.to_string())
    }

    const DOWN: &str = "model.layers.1.mlp.down_proj.weight";

    #[test]
    fn the_last_entry_that_fits_decides() {
        assert_eq!(format("q8", &[DOWN]), "q8");
        assert_eq!(format("q8,down_proj=f16", &[DOWN]), "f16");
        assert_eq!(format("down_proj=f16,q8", &[DOWN]), "q8");
        assert_eq!(format("q8,layers.1=bf16,down_proj=as-is", &[DOWN]), "as-is");
        assert_eq!(format("layers.0=q8", &[DOWN]), "none");
        assert_eq!(format("q8,lm_head=f32", &["lm_head", "model.embed_tokens.weight"]), "f32");
    }

    #[test]
    fn parts_of_names_are_whole() {
        assert!(matches("layers.1", "model.layers.1.mlp"));
        assert!(matches(DOWN, DOWN));
        for pattern in ["layers.1", "ayers.10", "proj", "layers.mlp", "model.layers.10.mlp.up_proj.weight.x"]
        {
            assert!(!matches(pattern, "model.layers.10.mlp.up_proj.weight"), "{pattern}");
        }
    }

    #[test]
    fn four_bits_spare_what_is_sensitive() {
        for four in ["q4", "q4a"] {
            assert_eq!(format(four, &[DOWN]), four);
            assert_eq!(format(four, &["lm_head.weight"]), "q8");
            assert_eq!(format(four, &["model.embed_tokens.weight"]), "q8");
            assert_eq!(format(four, &["score"]), "q8");
            assert_eq!(format(&format!("{four},lm_head={four}"), &["lm_head.weight"]), four);
        }
        assert_eq!(format("f16", &["lm_head.weight"]), "f16");
    }

    #[test]
    fn vectors_follow_what_is_said_of_all_matrices() {
        let widens = |text: &str| text.parse::<WeightPolicy>().unwrap().widens_vectors();
        assert!(widens("f16") && widens("lm_head=as-is,q8"));
        assert!(!widens("as-is") && !widens("lm_head=q8"));
        let [eight, stored] = ["q8", "as-is"].map(|text| text.parse::<WeightPolicy>().unwrap());
        assert!(eight.clone().or(stored.clone()).widens_vectors());
        assert!(!stored.or(eight).widens_vectors());
    }

    #[test]
    fn mistakes_are_told() {
        let error = |text: &str| text.parse::<WeightPolicy>().unwrap_err();
        insta::assert_snapshot!(error("q5"), @"`q5` is no format of weights; expected one of as-is, f32, f16, bf16, q8, q4, q4a");
        insta::assert_snapshot!(error("lm_head=fp16"), @"`fp16` is no format of weights; expected one of as-is, f32, f16, bf16, q8, q4, q4a; did you mean f16?");
        insta::assert_snapshot!(error("q4,=q8"), @"`=q8` names no weights; write NAME=FORMAT, as in lm_head=q8");
        insta::assert_snapshot!(error("q4,a..b=q8"), @"`a..b=q8` names no weights; write NAME=FORMAT, as in lm_head=q8");
        insta::assert_snapshot!(error("q4,lm_head=f16,q8"), @"`q4` and `q8` are both for all weights; give one of them");
        insta::assert_snapshot!(error("q4,lm_head=q8,lm_head=f32"), @"`lm_head=q8` and `lm_head=f32` are both for lm_head; give one of them");
        insta::assert_snapshot!(error("f16,f16"), @"`f16` and `f16` are both for all weights; give one of them");
        insta::assert_snapshot!(error(""), @"`` is no format of weights; expected one of as-is, f32, f16, bf16, q8, q4, q4a");
    }
}
