//! A float that can be an attribute: equal and hashed by its bits, printed so that it parses back to the same bits.
//!
//! Attributes of operations are compared and hashed (common subexpressions, ties), which IEEE equality forbids.

use std::fmt;
use std::str::FromStr;

/// An `f64` attribute. Configuration files hold decimal numbers and the references compute with them in double
/// precision, so attributes keep all of it; an operation rounds to `f32` where its reference does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Real(u64);

impl Real {
    /// The attribute of `value`.
    pub fn new(value: f64) -> Self {
        Self(value.to_bits())
    }

    /// The number in double precision.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }

    /// The number rounded to single precision.
    pub fn f32(self) -> f32 {
        self.get() as f32
    }
}

impl From<f64> for Real {
    fn from(value: f64) -> Self {
        Self::new(value)
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Real {
    type Err = std::num::ParseFloatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_the_bits() {
        for value in [0.1, -0.0, 1e-5, 500000.0, f64::MAX, f64::MIN_POSITIVE, 1.0 / 3.0] {
            let real = Real::new(value);
            assert_eq!(real.to_string().parse::<Real>().unwrap(), real);
        }
    }
}
