//! Inverse frequencies and angles of rotary embeddings, in the arithmetic of transformers' `ROPE_INIT_FUNCTIONS`:
//! tensors in `f32`, scalars of the configuration in `f64`, quotients of a scalar and a tensor as reciprocals.
//!
//! Pinned to `libm`, so that every machine computes the same bits.

use std::f64::consts::PI;

use crate::{Real, RopeScaling};

/// `base^exponent` of two `f32` numbers, rounded once: the vector library of torch is correctly rounded nearly always,
/// `libm::powf` is not.
fn power(base: f32, exponent: f32) -> f32 {
    libm::pow(f64::from(base), f64::from(exponent)) as f32
}

/// `base^(2i/d)` for `i` in `0..d/2`.
fn powers(base: f32, head_dim: usize) -> impl Iterator<Item = f32> {
    (0..head_dim / 2).map(move |i| power(base, (2 * i) as f32 / head_dim as f32))
}

fn unscaled(base: f32, head_dim: usize) -> Vec<f32> {
    powers(base, head_dim).map(f32::recip).collect()
}

/// The `head_dim / 2` inverse frequencies of a rule, largest first; `long` chooses LongRoPE's second list.
///
/// Dynamic scaling gives its unstretched frequencies; [`dynamic`] stretches them.
pub fn inverse(theta: Real, head_dim: usize, scaling: &RopeScaling, long: bool) -> Vec<f32> {
    let base = theta.f32();
    match scaling {
        RopeScaling::Default | RopeScaling::Dynamic { .. } => unscaled(base, head_dim),
        RopeScaling::Linear { factor } => unscaled(base, head_dim).iter().map(|f| f / factor.f32()).collect(),
        RopeScaling::Yarn { factor, original_max_position, beta_fast, beta_slow, truncate, .. } => {
            let context = *original_max_position as f64;
            let bounds =
                yarn_bounds(theta.get(), head_dim, context, beta_fast.get(), beta_slow.get(), *truncate);
            yarn(base, head_dim, factor.f32(), bounds)
        }
        RopeScaling::Llama3 { factor, low, high, original_max_position } => {
            let context = *original_max_position as f64;
            let bend = |f| llama3(f, factor.f32(), low.get(), high.get(), context);
            unscaled(base, head_dim).into_iter().map(bend).collect()
        }
        RopeScaling::LongRope { short, long: long_list, .. } => {
            let divisors = if long { long_list } else { short };
            powers(base, head_dim)
                .zip(divisors)
                .map(|(power, divisor)| (divisor.f32() * power).recip())
                .collect()
        }
    }
}

/// The inverse frequencies of dynamic NTK scaling for a sequence of `length` positions.
///
/// The length is an integer tensor in transformers, so the base grows in `f32`.
pub fn dynamic(theta: Real, head_dim: usize, factor: Real, max_position: u64, length: i64) -> Vec<f32> {
    let context = max_position as f32;
    let length = length.max(i64::try_from(max_position).unwrap_or(i64::MAX)) as f32;
    let growth = factor.f32() * length / context - (factor.get() - 1.0) as f32;
    let exponent = head_dim as f64 / (head_dim as f64 - 2.0);
    unscaled(theta.f32() * power(growth, exponent as f32), head_dim)
}

/// Where YaRN's ramp begins and ends, in dimensions (Peng et al., "YaRN").
fn yarn_bounds(base: f64, head_dim: usize, context: f64, fast: f64, slow: f64, truncate: bool) -> (f64, f64) {
    let d = head_dim as f64;
    let dimension =
        |rotations: f64| d * libm::log(context / (rotations * 2.0 * PI)) / (2.0 * libm::log(base));
    let (low, high) = (dimension(fast), dimension(slow));
    let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(d - 1.0));
    // Equal ends would divide by zero.
    (low, if low == high { high + 0.001 } else { high })
}

fn yarn(base: f32, head_dim: usize, factor: f32, (low, high): (f64, f64)) -> Vec<f32> {
    let blend = |(i, power): (usize, f32)| {
        let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        let kept = 1.0 - ramp;
        (factor * power).recip() * (1.0 - kept) + power.recip() * kept
    };
    powers(base, head_dim).enumerate().map(blend).collect()
}

/// Llama 3.1's rule for one frequency: low ones divided, high ones kept, a blend between.
fn llama3(frequency: f32, factor: f32, low: f64, high: f64, context: f64) -> f32 {
    let wavelength = frequency.recip() * (2.0 * PI) as f32;
    if wavelength < (context / high) as f32 {
        return frequency;
    }
    if wavelength > (context / low) as f32 {
        return frequency / factor;
    }
    let smooth = (wavelength.recip() * context as f32 - low as f32) / (high - low) as f32;
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

/// Cosine and sine of a position's angle, times the attention factor. The phase is one `f32` product.
pub fn cos_sin(position: i64, inverse_frequency: f32, attention_factor: f32) -> (f32, f32) {
    let phase = position as f32 * inverse_frequency;
    (libm::cosf(phase) * attention_factor, libm::sinf(phase) * attention_factor)
}
