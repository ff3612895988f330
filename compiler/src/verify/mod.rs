//! Whether two computations of one model agree, and if not, where they part.
//!
//! [`agreement`] compares outputs in the order in which a model computes them, so that the first difference names the
//! module that made it. [`graphs`] does so for a graph before and after it was made legal, by the reference evaluator.
//!
//! Deliberately not here: what runs a model. Whoever has two ways to compute one brings their outputs.

mod agreement;
mod graphs;
mod random;

pub use agreement::{Agreed, agreement};
pub use graphs::graphs;
pub use random::request;

/// How far results of the same weights may be from each other, as a part of a result's largest value. Sums in `f32` in
/// another order differ by 1e-6 to 1e-5.
pub const TOLERANCE: f32 = 1e-4;

/// How far results may be from each other when the narrowest weights of two models have these numbers of significant
/// bits: [`TOLERANCE`] where they are as wide, for then they are the same; otherwise eight times what rounding to the
/// narrower ones changes at most.
pub fn tolerance(bits: [u32; 2]) -> f32 {
    let [a, b] = bits;
    if a == b { TOLERANCE } else { 8.0 * 0.5f32.powi(a.min(b).min(24) as i32) }
}

/// The significant bits of a dtype by its name; nothing for one that weights are not stored in. Those of blocks are of
/// their largest number, for all numbers of a block are rounded to the same step.
pub fn significant_bits(dtype: &str) -> Option<u32> {
    match dtype {
        "f64" => Some(53),
        "f32" => Some(24),
        "f16" => Some(11),
        "bf16" | "q8" => Some(8),
        "q4" | "q4a" => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_allowed_where_there_is_some() {
        assert_eq!(tolerance([24, 24]), TOLERANCE);
        assert_eq!(tolerance([8, 8]), TOLERANCE);
        assert_eq!(tolerance([24, 11]), 8.0 / 2048.0);
        assert_eq!(tolerance([8, 24]), 8.0 / 256.0);
        assert_eq!(["f32", "bf16", "q4", "i64"].map(significant_bits), [Some(24), Some(8), Some(4), None]);
    }
}
