//! How a rotary position embedding's frequencies are scaled: the data. The formulas live with the operations.

use crate::Real;

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
}
