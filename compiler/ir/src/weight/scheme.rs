//! Quantization schemes: blocks of numbers as small integers times a scale.
//!
//! A row is cut into blocks of [`Scheme::BLOCK`]; the last one may be shorter. Codes stand for the numbers of a
//! [`Grid`]: a scale, and the code of zero. Scales are rounded to half precision, so that every target stores the same
//! numbers.
//!
//! Four bits are chosen for the least squared error, from candidates: within half a percent of the best scale there is
//! on the weights of trained models. Numbers that already lie on a grid, as those of a checkpoint that another method
//! quantized, keep it: they are exact.

use std::fmt;
use std::str::FromStr;

use half::f16;

use crate::suggest::choose;

/// How numbers are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// 8 bits a number, the scale from the largest magnitude, zero in the middle.
    Q8,
    /// 4 bits a number, zero in the middle.
    Q4,
    /// 4 bits a number, and for each block the code that is zero.
    Q4A,
}

/// What the codes of a block stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// The distance of neighbours, exact in half precision; it may be negative.
    pub scale: f32,
    /// The code of zero.
    pub zero: u8,
}

impl Grid {
    /// The number of a code.
    pub fn decode(self, code: u8) -> f32 {
        (f32::from(code) - f32::from(self.zero)) * self.scale
    }
}

/// The numbers of a block, zeros behind the last.
type Block = [f32; Scheme::BLOCK];

/// Candidates for the scale of [`Scheme::Q4`]: the number of largest magnitude over each of these.
const Q4_PEAKS: [f32; 7] = [-8.4, -7.8, -7.2, -6.6, 7.4, 6.8, 6.2];

/// Candidates for the scale of [`Scheme::Q4A`]: from the least number to the largest in as many steps.
const Q4A_STEPS: [f32; 8] = [14.5, 15.0, 15.7, 16.5, 17.4, 18.5, 19.8, 21.4];

/// The largest code of four bits.
const MAX_4: f32 = 15.0;

impl Scheme {
    /// Numbers that share a scale.
    pub const BLOCK: usize = 32;

    /// Every scheme.
    pub const ALL: [Self; 3] = [Self::Q8, Self::Q4, Self::Q4A];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::Q4 => "q4",
            Self::Q4A => "q4a",
        }
    }

    /// Bits of a code.
    pub fn bits(self) -> usize {
        match self {
            Self::Q8 => 8,
            Self::Q4 | Self::Q4A => 4,
        }
    }

    /// The code of zero, where it is the same in every block.
    pub fn zero(self) -> Option<u8> {
        match self {
            Self::Q8 => Some(128),
            Self::Q4 => Some(8),
            Self::Q4A => None,
        }
    }

    /// Whether this scheme stores `grid` as it is: its scale is one of half precision.
    pub fn holds(self, grid: Grid) -> bool {
        half(grid.scale) == grid.scale && self.zero().is_none_or(|zero| zero == grid.zero)
    }

    /// Writes the codes of `block`, of at most [`Scheme::BLOCK`] numbers, and returns what they stand for. Codes behind
    /// the last number are those of zero.
    ///
    /// Where a number is not finite, or larger than half-precision scales can hold, the scale is not finite either.
    pub fn quantize(self, block: &[f32], codes: &mut [u8; Self::BLOCK]) -> Grid {
        let mut numbers = [0.0; Self::BLOCK];
        numbers[..block.len()].copy_from_slice(block);
        let grid = self.grid(&numbers);
        let inverse = inverse(grid.scale);
        let (zero, most) = (f32::from(grid.zero), ((1 << self.bits()) - 1) as f32);
        for (x, code) in numbers.iter().zip(codes) {
            *code = (round(x * inverse) + zero).clamp(0.0, most) as u8;
        }
        grid
    }

    fn grid(self, block: &Block) -> Grid {
        let peak =
            block.iter().fold(0f32, |peak, x| if x.abs() > peak.abs() || x.is_nan() { *x } else { peak });
        if peak == 0.0 || !peak.is_finite() {
            return Grid { scale: peak, zero: self.zero().unwrap_or(0) };
        }
        match self {
            Self::Q8 => Grid { scale: half(peak.abs() / 127.0), zero: 128 },
            Self::Q4 => {
                let zeros = |least: f32, most: f32| (least >= -8.0 && most <= 7.0).then_some(8.0);
                let candidates = Q4_PEAKS.map(|steps| (peak / steps, 8.0));
                given(block, peak, zeros).unwrap_or_else(|| best(block, &candidates))
            }
            Self::Q4A => {
                let zeros = |least: f32, most: f32| (most - least <= MAX_4).then_some(-least);
                let [least, most] = [f32::min, f32::max].map(|f| block.iter().copied().fold(0.0, f));
                let candidates = Q4A_STEPS.map(|steps| {
                    let scale = most / steps - least / steps;
                    (scale, round(7.5 - (least / 2.0 + most / 2.0) / scale).clamp(0.0, MAX_4))
                });
                given(block, peak, zeros).unwrap_or_else(|| best(block, &candidates))
            }
        }
    }
}

/// The grid that all numbers of `block` lie on, if there is one: `zeros` gives the code of zero for the least and the
/// largest multiple of the scale.
fn given(block: &Block, peak: f32, zeros: impl Fn(f32, f32) -> Option<f32>) -> Option<Grid> {
    let magnitudes = block.iter().map(|x| x.abs()).filter(|x| *x > 0.0);
    let least = magnitudes.fold(f32::INFINITY, f32::min);
    // Most blocks end here.
    if peak.abs() > MAX_4 * least {
        return None;
    }
    let scales = (1..=15u8).flat_map(|steps| [1.0, -1.0].map(|sign| sign * half(least / f32::from(steps))));
    scales.filter(|scale| *scale != 0.0).find_map(|scale| {
        let multiple = |x: &f32| Some(round(x / scale)).filter(|steps| steps * scale == *x);
        let range = block.iter().try_fold((0f32, 0f32), |(least, most), x| {
            multiple(x).map(|steps| (least.min(steps), most.max(steps)))
        });
        let (least, most) = range?;
        Some(Grid { scale, zero: zeros(least, most)? as u8 })
    })
}

/// The grid with the least squared error. A candidate, a scale and the code of zero, is as good as the best scale of the
/// codes that it leads to.
fn best(block: &Block, candidates: &[(f32, f32)]) -> Grid {
    let refined = |(scale, zero): (f32, f32)| {
        let scale = half(fit(block, scale, zero));
        (error(block, scale, zero), scale, zero)
    };
    // The first of equals; errors may all be infinite.
    let better = |best: (f32, f32, f32), next: (f32, f32, f32)| if next.0 < best.0 { next } else { best };
    let chosen = candidates.iter().copied().map(refined).reduce(better).unwrap_or((0.0, 0.0, 0.0));
    let (_, scale, zero) = better(chosen, refined((chosen.1, chosen.2)));
    Grid { scale, zero: zero as u8 }
}

/// Sums are taken in this many parts, which is an order that vectors can follow.
const LANES: usize = 8;

/// The scale with the least squared error for the codes that `scale` gives.
fn fit(block: &Block, scale: f32, zero: f32) -> f32 {
    let inverse = inverse(scale);
    let (mut products, mut squares) = ([0f32; LANES], [0f32; LANES]);
    for numbers in block.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            let code = round(numbers[i] * inverse).clamp(-zero, MAX_4 - zero);
            products[i] += code * numbers[i];
            squares[i] += code * code;
        }
    }
    let square: f32 = squares.iter().sum();
    if square == 0.0 { scale } else { products.iter().sum::<f32>() / square }
}

/// The sum of squared differences that `scale` leaves.
fn error(block: &Block, scale: f32, zero: f32) -> f32 {
    let inverse = inverse(scale);
    let mut sums = [0f32; LANES];
    for numbers in block.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            let code = round(numbers[i] * inverse).clamp(-zero, MAX_4 - zero);
            sums[i] += (code * scale - numbers[i]).powi(2);
        }
    }
    sums.iter().sum()
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { scale.recip() }
}

fn half(scale: f32) -> f32 {
    f16::from_f32(scale).to_f32()
}

/// The nearest integer, ties to even, for magnitudes below 2^22: the sum has no place for fractions. This is an
/// instruction on every processor, other than [`f32::round_ties_even`].
fn round(x: f32) -> f32 {
    const NO_FRACTIONS: f32 = 12_582_912.0;
    (x + NO_FRACTIONS) - NO_FRACTIONS
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
    /// The codes of zero.
    Zeros,
}

impl QuantizedPart {
    /// Every part.
    pub const ALL: [Self; 3] = [Self::Codes, Self::Scales, Self::Zeros];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Codes => "codes",
            Self::Scales => "scales",
            Self::Zeros => "zeros",
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
        choose(text, &Self::ALL, Self::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(scheme: Scheme, block: &[f32]) -> Vec<f32> {
        let mut codes = [0; Scheme::BLOCK];
        let quantized = block.chunks(Scheme::BLOCK).flat_map(|block| {
            let grid = scheme.quantize(block, &mut codes);
            block.iter().zip(codes).map(|(_, code)| grid.decode(code)).collect::<Vec<_>>()
        });
        quantized.collect()
    }

    fn squared(found: &[f32], block: &[f32]) -> f64 {
        found.iter().zip(block).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    /// Blocks of numbers that are nearly normal, as those of trained matrices are: sums of uniform ones.
    fn blocks() -> Vec<Block> {
        let mut state = 1u64;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..500).map(|_| std::array::from_fn(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.05)).collect()
    }

    /// The least squared error over very many scales, for each code of zero in `zeros`.
    fn exhaustive(block: &Block, zeros: std::ops::RangeInclusive<u8>) -> f64 {
        let peak = block.iter().fold(0f32, |peak, x| peak.max(x.abs()));
        let scales = (0..1200).flat_map(|i| [1.0, -1.0].map(|s| s * peak / (2.0 + i as f32 * 0.015)));
        let grids = zeros.flat_map(|zero| scales.clone().map(move |scale| (half(scale), f32::from(zero))));
        let errors = grids.map(|(scale, zero)| {
            let decode = |x: &f32| (x / scale).round_ties_even().clamp(-zero, 15.0 - zero) * scale;
            squared(&block.map(|x| decode(&x)), block)
        });
        errors.fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn codes_are_close() {
        for block in blocks() {
            let peak = block.iter().fold(0f32, |peak, x| peak.max(x.abs()));
            for (scheme, most) in [(Scheme::Q8, 0.51 / 127.0), (Scheme::Q4, 0.17), (Scheme::Q4A, 0.17)] {
                for (found, x) in round_trip(scheme, &block).iter().zip(&block) {
                    assert!((found - x).abs() <= peak * most, "{scheme}: {found} for {x}, peak {peak}");
                }
            }
        }
    }

    #[test]
    fn four_bits_are_nearly_the_best_there_are() {
        for (scheme, zeros, most) in [(Scheme::Q4, 8..=8, 1.01), (Scheme::Q4A, 0..=15, 1.02)] {
            let (mut found, mut best) = (0.0, 0.0);
            for block in blocks().iter().step_by(5) {
                found += squared(&round_trip(scheme, block), block);
                best += exhaustive(block, zeros.clone());
            }
            let ratio = (found / best).sqrt();
            assert!(ratio < most, "{scheme}: the error is {ratio} times the least one");
        }
    }

    #[test]
    fn a_code_of_zero_of_their_own_suits_blocks_that_lean_to_a_side() {
        let error = |scheme, lean: f32| -> f64 {
            let lean = |block: &Block| block.map(|x| x + lean);
            blocks().iter().map(lean).map(|block| squared(&round_trip(scheme, &block), &block)).sum()
        };
        assert!(error(Scheme::Q4A, 0.0) < error(Scheme::Q4, 0.0));
        assert!(error(Scheme::Q4A, 0.1) < 0.5 * error(Scheme::Q4, 0.1));
    }

    /// What other methods made of four-bit integers, also of blocks that use few of these.
    #[test]
    fn numbers_on_a_grid_are_exact() {
        let mut next = 7u32;
        let mut random = move |below: u32| {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (next >> 8) % below
        };
        for case in 0..3000 {
            let scale = half((1 + random(4000)) as f32 * [1e-6, 1e-4, 1e-2][case % 3]);
            let (zero, least) = (random(16), random(16));
            let codes = 1 + random(16 - least);
            let block: Block =
                std::array::from_fn(|_| ((least + random(codes)) as f32 - zero as f32) * scale);
            assert_eq!(round_trip(Scheme::Q4A, &block), block, "{scale} {zero}");
            if zero == 8 {
                assert_eq!(round_trip(Scheme::Q4, &block), block, "{scale}");
            }
        }
    }

    #[test]
    fn zeros_and_short_blocks_are_exact() {
        for scheme in Scheme::ALL {
            assert_eq!(round_trip(scheme, &[0.0; 32]), [0.0; 32]);
            // But for the rounding of the scale.
            for x in [0.5, -0.3, 1e-2, -700.0] {
                assert!((round_trip(scheme, &[x])[0] / x - 1.0).abs() < 4e-4, "{scheme} {x}");
            }
            let mut codes = [77; 32];
            let grid = scheme.quantize(&[0.25, -1.0, 3.0], &mut codes);
            assert!(codes[3..].iter().all(|code| *code == grid.zero), "{scheme}");
            assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }
    }

    #[test]
    fn what_no_scale_can_hold_shows() {
        let mut codes = [0; 32];
        for scheme in Scheme::ALL {
            for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38] {
                for block in [&[1.0, x][..], &[x, -0.5, x], &[x; 32]] {
                    assert!(!scheme.quantize(block, &mut codes).scale.is_finite(), "{scheme} {x}");
                }
            }
            // Less than half precision can tell from zero.
            assert_eq!(round_trip(scheme, &[1e-30, -1e-38, 0.0]), [0.0; 3], "{scheme}");
        }
    }
}
