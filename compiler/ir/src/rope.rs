//! How a rotary position embedding's frequencies are scaled: the data and its text. The formulas are in
//! [`crate::frequencies`].

use std::fmt;
use std::str::FromStr;

use crate::Real;
use crate::attrs::{Attrs, list_text, write_attrs};
use crate::suggest::question;
use crate::text::Cursor;

/// The names of the rules.
const RULES: [&str; 6] = ["default", "linear", "dynamic", "yarn", "llama3", "longrope"];

/// The frequency rule of a rotary embedding, with every default already filled in.
///
/// Names follow the `rope_parameters` of Hugging Face configurations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RopeScaling {
    /// `f_i = theta^(-2i/d)`.
    Default,
    /// Frequencies divided by `factor`.
    Linear {
        /// The divisor.
        factor: Real,
    },
    /// Dynamic NTK: the base grows once a sequence is longer than `max_position`.
    Dynamic {
        /// Growth of the base with length.
        factor: Real,
        /// `max_position_embeddings`: no change up to this length.
        max_position: u64,
    },
    /// YaRN.
    Yarn {
        /// Extension factor.
        factor: Real,
        /// Context length before extension.
        original_max_position: u64,
        /// Rotations above which a dimension is not interpolated.
        beta_fast: Real,
        /// Rotations below which a dimension is fully interpolated.
        beta_slow: Real,
        /// The factor on cos and sin.
        attention_factor: Real,
        /// Whether the ramp's ends are rounded outwards to whole dimensions.
        truncate: bool,
    },
    /// The rule of Llama 3.1 and later.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: Real,
        /// `low_freq_factor`.
        low: Real,
        /// `high_freq_factor`.
        high: Real,
        /// Context length before extension.
        original_max_position: u64,
    },
    /// LongRoPE: a divisor for each frequency, one list for short sequences and one for long.
    LongRope {
        /// Divisors while the length is at most `original_max_position`; `d/2` of them.
        short: Vec<Real>,
        /// Divisors beyond it; `d/2` of them.
        long: Vec<Real>,
        /// The threshold.
        original_max_position: u64,
        /// The factor on cos and sin, the same for both lists.
        attention_factor: Real,
    },
}

impl RopeScaling {
    /// Whether the frequencies depend on the length of the sequence.
    pub fn depends_on_length(&self) -> bool {
        matches!(self, Self::Dynamic { .. } | Self::LongRope { .. })
    }

    /// The factor on cos and sin: 1 but for YaRN and LongRoPE.
    pub fn attention_factor(&self) -> Real {
        match self {
            Self::Yarn { attention_factor, .. } | Self::LongRope { attention_factor, .. } => {
                *attention_factor
            }
            _ => Real::new(1.0),
        }
    }

    /// Why heads of `head_dim` cannot be rotated by this rule, if they cannot.
    pub fn check(&self, head_dim: usize) -> Result<(), String> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(format!("heads of size {head_dim} cannot be rotated in pairs"));
        }
        match self {
            Self::Dynamic { .. } if head_dim == 2 => {
                Err("dynamic scaling has no exponent for heads of size 2".to_owned())
            }
            Self::LongRope { short, long, .. } => {
                [("short", short), ("long", long)].into_iter().try_for_each(|(name, list)| {
                    let (found, expected) = (list.len(), head_dim / 2);
                    let wrong = || format!("the {name} list has {found} divisors, expected {expected}");
                    if found == expected { Ok(()) } else { Err(wrong()) }
                })
            }
            _ => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Linear { .. } => "linear",
            Self::Dynamic { .. } => "dynamic",
            Self::Yarn { .. } => "yarn",
            Self::Llama3 { .. } => "llama3",
            Self::LongRope { .. } => "longrope",
        }
    }

    fn attrs(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Default => Vec::new(),
            Self::Linear { factor } => vec![("factor", factor.to_string())],
            Self::Dynamic { factor, max_position } => {
                vec![("factor", factor.to_string()), ("max_position", max_position.to_string())]
            }
            Self::Yarn {
                factor,
                original_max_position,
                beta_fast,
                beta_slow,
                attention_factor,
                truncate,
            } => vec![
                ("factor", factor.to_string()),
                ("original_max_position", original_max_position.to_string()),
                ("beta_fast", beta_fast.to_string()),
                ("beta_slow", beta_slow.to_string()),
                ("attention_factor", attention_factor.to_string()),
                ("truncate", truncate.to_string()),
            ],
            Self::Llama3 { factor, low, high, original_max_position } => vec![
                ("factor", factor.to_string()),
                ("low", low.to_string()),
                ("high", high.to_string()),
                ("original_max_position", original_max_position.to_string()),
            ],
            Self::LongRope { short, long, original_max_position, attention_factor } => vec![
                ("short", list_text(short)),
                ("long", list_text(long)),
                ("original_max_position", original_max_position.to_string()),
                ("attention_factor", attention_factor.to_string()),
            ],
        }
    }

    fn build(name: &str, a: &Attrs) -> Result<Self, String> {
        let scaling = match name {
            "default" => Self::Default,
            "linear" => Self::Linear { factor: a.get("factor")? },
            "dynamic" => Self::Dynamic { factor: a.get("factor")?, max_position: a.get("max_position")? },
            "yarn" => Self::Yarn {
                factor: a.get("factor")?,
                original_max_position: a.get("original_max_position")?,
                beta_fast: a.get("beta_fast")?,
                beta_slow: a.get("beta_slow")?,
                attention_factor: a.get("attention_factor")?,
                truncate: a.get("truncate")?,
            },
            "llama3" => Self::Llama3 {
                factor: a.get("factor")?,
                low: a.get("low")?,
                high: a.get("high")?,
                original_max_position: a.get("original_max_position")?,
            },
            "longrope" => Self::LongRope {
                short: a.list("short")?,
                long: a.list("long")?,
                original_max_position: a.get("original_max_position")?,
                attention_factor: a.get("attention_factor")?,
            },
            _ => return Err(format!("`{name}` is not a scaling rule{}", question(name, RULES))),
        };
        match a.keys().find(|key| scaling.attrs().iter().all(|(known, _)| known != key)) {
            Some(key) => Err(format!("{name} has no attribute `{key}`")),
            None => Ok(scaling),
        }
    }
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let attrs = self.attrs();
        if attrs.is_empty() {
            return Ok(());
        }
        f.write_str("(")?;
        write_attrs(f, &attrs)?;
        f.write_str(")")
    }
}

impl FromStr for RopeScaling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut cursor = Cursor::new(text);
        let name = cursor.identifier("a scaling rule").map_err(|e| e.message)?;
        let attrs = if cursor.eat("(") {
            Attrs::parse(&mut cursor, ")").map_err(|e| e.message)?
        } else {
            Attrs::default()
        };
        if cursor.at_end() { Self::build(name, &attrs) } else { Err(cursor.error("nothing more").message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_identity() {
        let half = Real::new(0.5);
        let rules = [
            RopeScaling::Default,
            RopeScaling::Linear { factor: half },
            RopeScaling::Dynamic { factor: half, max_position: 16 },
            RopeScaling::Yarn {
                factor: half,
                original_max_position: 2048,
                beta_fast: Real::new(32.0),
                beta_slow: Real::new(1.0),
                attention_factor: Real::new(1.138629436111989),
                truncate: true,
            },
            RopeScaling::Llama3 {
                factor: half,
                low: half,
                high: Real::new(4.0),
                original_max_position: 8192,
            },
            RopeScaling::LongRope {
                short: vec![half, half],
                long: vec![],
                original_max_position: 16,
                attention_factor: half,
            },
        ];
        for rule in rules {
            assert_eq!(rule.to_string().parse::<RopeScaling>(), Ok(rule));
        }
    }

    #[test]
    fn faults_are_named() {
        let error = |text: &str| text.parse::<RopeScaling>().unwrap_err();
        assert_eq!(error("ntk"), "`ntk` is not a scaling rule");
        assert_eq!(error("lineal"), "`lineal` is not a scaling rule; did you mean `linear`?");
        assert_eq!(error("linear"), "attribute `factor` is missing");
        assert_eq!(error("linear(factor=2.0, low=1.0)"), "linear has no attribute `low`");
        assert_eq!(
            error("linear(factor=x)"),
            "attribute `factor`: `x` is not a valid value: invalid float literal"
        );
    }
}
