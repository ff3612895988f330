//! The activation functions of LLaMA feed-forward blocks, by the names that configurations use.

use std::fmt;
use std::str::FromStr;

use crate::suggest::choose;

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x · σ(x)`; configurations also call it `swish`.
    Silu,
    /// `x · Φ(x)` with the exact error function.
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`]; configurations call it `gelu_new` or `gelu_pytorch_tanh`.
    GeluTanh,
    /// `x · σ(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// Every function, for tables and messages.
    pub const ALL: [Self; 5] = [Self::Silu, Self::Gelu, Self::GeluTanh, Self::QuickGelu, Self::Relu];

    /// The name in IR text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::QuickGelu => "quick_gelu",
            Self::Relu => "relu",
        }
    }

    /// The function's value in single precision.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Silu => x / (1.0 + libm::expf(-x)),
            Self::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                // Hendrycks and Gimpel, "Gaussian Error Linear Units", the tanh form.
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + libm::tanhf(inner))
            }
            Self::QuickGelu => x / (1.0 + libm::expf(-1.702 * x)),
            Self::Relu => x.max(0.0),
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        choose(text, &Self::ALL, Self::name)
    }
}
