//! Quantization schemes: blocks of numbers as small integers times a scale.
//!
//! A row is cut into blocks of [`Scheme::BLOCK`]; the last one may be shorter. Scales are rounded to half precision, so
//! that every target stores the same numbers. Symmetric only: a code is an offset from [`Scheme::zero`].

use std::fmt;
use std::str::FromStr;

use half::f16;

use crate::suggest::choose;

/// How numbers are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// 8 bits a number, the scale from the largest magnitude.
    Q8,
    /// 4 bits a number, the scale by least squares among candidates.
    Q4,
}

/// Candidates for the scale of [`Scheme::Q4`]: the largest magnitude over each of these.
const Q4_STEPS: [f32; 9] = [8.0, -8.0, 7.75, -7.75, 7.5, -7.5, 7.0, -7.0, -6.5];

impl Scheme {
    /// Numbers that share a scale.
    pub const BLOCK: usize = 32;

    /// Every scheme.
    pub const ALL: [Self; 2] = [Self::Q8, Self::Q4];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// Bits of a code.
    pub fn bits(self) -> usize {
        match self {
            Self::Q8 => 8,
            Self::Q4 => 4,
        }
    }

    /// The code of zero; a code is never less than 0 nor more than twice this, less one.
    pub fn zero(self) -> u8 {
        1 << (self.bits() - 1)
    }

    /// Writes the codes of `block` and returns their scale, so that a number is about `scale · (code - zero)`.
    ///
    /// Numbers that are not finite are no business of a quantizer: they make a scale that is not finite either.
    pub fn quantize(self, block: &[f32], codes: &mut [u8]) -> f32 {
        let peak =
            block.iter().fold(0f32, |peak, x| if x.abs() > peak.abs() || x.is_nan() { *x } else { peak });
        if peak == 0.0 {
            codes.fill(self.zero());
            return 0.0;
        }
        let scale = match self {
            Self::Q8 => f16::from_f32(peak.abs() / 127.0),
            Self::Q4 => best(block, peak),
        };
        self.encode(block, scale.to_f32(), codes);
        scale.to_f32()
    }

    /// Puts what quantization leaves of each number of a row in its place.
    pub fn round_row(self, row: &mut [f32]) {
        let mut codes = [0; Self::BLOCK];
        for block in row.chunks_mut(Self::BLOCK) {
            let scale = self.quantize(block, &mut codes);
            block.iter_mut().zip(&codes).for_each(|(x, &code)| *x = self.decode(code, scale));
        }
    }

    /// The number of a code.
    pub fn decode(self, code: u8, scale: f32) -> f32 {
        (f32::from(code) - f32::from(self.zero())) * scale
    }

    fn encode(self, block: &[f32], scale: f32, codes: &mut [u8]) {
        let (zero, inverse) = (f32::from(self.zero()), if scale == 0.0 { 0.0 } else { scale.recip() });
        for (x, code) in block.iter().zip(codes) {
            *code = (x * inverse + zero).round_ties_even().clamp(0.0, 2.0 * zero - 1.0) as u8;
        }
    }
}

/// The scale with the least squared error: each candidate's codes have a best scale of their own.
fn best(block: &[f32], peak: f32) -> f16 {
    let mut best = (f32::INFINITY, f16::from_f32(peak / -8.0));
    for step in Q4_STEPS {
        let inverse = step / peak;
        let (mut dot, mut square) = (0f32, 0f32);
        for x in block {
            let code = (x * inverse).round_ties_even().clamp(-8.0, 7.0);
            dot += code * x;
            square += code * code;
        }
        if square == 0.0 {
            continue;
        }
        let scale = f16::from_f32(dot / square);
        let wide = scale.to_f32();
        let inverse = if wide == 0.0 { 0.0 } else { wide.recip() };
        let error: f32 =
            block.iter().map(|x| (x - (x * inverse).round_ties_even().clamp(-8.0, 7.0) * wide).powi(2)).sum();
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        choose(text, &Self::ALL, Self::name)
    }
}

/// What a quantized matrix is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantizedPart {
    /// The codes.
    Codes,
    /// The scales.
    Scales,
}

impl QuantizedPart {
    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Codes => "codes",
            Self::Scales => "scales",
        }
    }
}

impl fmt::Display for QuantizedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for QuantizedPart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        choose(text, &[Self::Codes, Self::Scales], Self::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(scheme: Scheme, block: &[f32]) -> Vec<f32> {
        let mut codes = vec![0; block.len()];
        let scale = scheme.quantize(block, &mut codes);
        codes.iter().map(|&code| scheme.decode(code, scale)).collect()
    }

    fn error(scheme: Scheme, block: &[f32]) -> f32 {
        round_trip(scheme, block).iter().zip(block).map(|(a, b)| (a - b).powi(2)).sum()
    }

    /// A block with one outlier, as rows of trained matrices have.
    fn block() -> Vec<f32> {
        (0..32u8).map(|i| (f32::from(i) * 0.7).sin() * if i == 9 { 3.0 } else { 1.0 }).collect()
    }

    #[test]
    fn codes_are_close() {
        let (block, peak) = (block(), 3.0);
        for (found, x) in round_trip(Scheme::Q8, &block).iter().zip(&block) {
            assert!((found - x).abs() <= peak / 127.0 * 0.51, "{found} for {x}");
        }
        for (found, x) in round_trip(Scheme::Q4, &block).iter().zip(&block) {
            assert!((found - x).abs() <= peak / 8.0 * 0.7, "{found} for {x}");
        }
    }

    #[test]
    fn four_bits_are_better_than_by_the_largest_magnitude_alone() {
        let block = block();
        let peak = block.iter().fold(0f32, |peak, x| if x.abs() > peak.abs() { *x } else { peak });
        let scale = f16::from_f32(peak / -8.0).to_f32();
        let mut codes = vec![0; 32];
        Scheme::Q4.encode(&block, scale, &mut codes);
        let by_peak: f32 =
            codes.iter().zip(&block).map(|(&code, x)| (Scheme::Q4.decode(code, scale) - x).powi(2)).sum();
        assert!(error(Scheme::Q4, &block) < by_peak);
    }

    #[test]
    fn zeros_and_short_blocks_are_exact() {
        for scheme in Scheme::ALL {
            assert_eq!(round_trip(scheme, &[0.0; 32]), [0.0; 32]);
            // But for the rounding of the scale.
            assert!((round_trip(scheme, &[0.5])[0] - 0.5).abs() < 2e-4);
            assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }
    }
}
