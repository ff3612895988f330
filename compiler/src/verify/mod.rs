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

/// How far results may be from each other when the narrowest weights of two models are of these dtypes: [`TOLERANCE`]
/// where they are of one, for then they are the same; otherwise eight times what rounding to the narrower one changes
/// at most.
pub fn tolerance(narrowest: [&str; 2]) -> f32 {
    let bits = narrowest.iter().filter_map(|dtype| significant_bits(dtype)).min();
    match bits {
        Some(bits) if narrowest[0] != narrowest[1] => 8.0 * 0.5f32.powi(bits.min(24) as i32),
        _ => TOLERANCE,
    }
}

/// The dtype with the fewest significant bits; others than those that weights are stored in do not count.
pub fn narrowest<'a>(dtypes: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    dtypes.filter_map(|dtype| Some((significant_bits(dtype)?, dtype))).min().map(|(_, dtype)| dtype)
}

/// The significant bits of a dtype by its name; nothing for one that weights are not stored in. Those of blocks are of
/// their largest number, for all numbers of a block are rounded to the same step.
fn significant_bits(dtype: &str) -> Option<u32> {
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
        assert_eq!(tolerance(["f32", "f32"]), TOLERANCE);
        assert_eq!(tolerance(["bf16", "bf16"]), TOLERANCE);
        assert_eq!(tolerance(["f32", "f16"]), 8.0 / 2048.0);
        assert_eq!(tolerance(["bf16", "f32"]), 8.0 / 256.0);
        // As many bits, but other numbers.
        assert_eq!(tolerance(["bf16", "q8"]), 8.0 / 256.0);
        assert_eq!(narrowest(["f32", "q4", "i64", "bf16"].into_iter()), Some("q4"));
        assert_eq!(narrowest(["i64"].into_iter()), None);
    }
}
