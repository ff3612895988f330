//! How close numbers must be to their reference.

/// The largest difference allowed: this, plus [`RELATIVE`] of the reference's magnitude.
pub const ABSOLUTE: f32 = 1e-4;

/// See [`ABSOLUTE`].
pub const RELATIVE: f32 = 1e-4;

/// The largest L2 norm of the differences of a whole fixture, relative to that of the reference. (Not of a single
/// case: a classifier's only score may be next to zero, and then its norm measures nothing.)
pub const RELATIVE_L2: f64 = 1e-5;

/// Compares numbers with their reference, element by element and over all of them.
#[derive(Debug, Default)]
pub struct Comparison {
    difference: f64,
    norm: f64,
    problems: Vec<String>,
}

impl Comparison {
    /// Compares `found` with `expected`; the first element of `what` that is too far is noted.
    pub fn add(&mut self, what: &str, found: &[f32], expected: &[f32]) {
        if found.len() != expected.len() {
            self.problems.push(format!("{what}: {} elements instead of {}", found.len(), expected.len()));
        }
        let mut pairs = found.iter().zip(expected);
        // The negation also catches a NaN.
        let far = |(found, expected): &(&f32, &f32)| {
            let within = (*found - *expected).abs() <= ABSOLUTE + RELATIVE * expected.abs();
            !within
        };
        for (found, expected) in pairs.clone() {
            self.difference += f64::from(found - expected).powi(2);
            self.norm += f64::from(*expected).powi(2);
        }
        if let Some((found, expected)) = pairs.find(far) {
            self.problems.push(format!("{what}: {found} instead of {expected}"));
        }
    }

    /// Notes what has no numbers to compare.
    pub fn problem(&mut self, what: String) {
        self.problems.push(what);
    }

    /// The L2 norm of the differences so far, relative to that of the reference.
    pub fn relative_l2(&self) -> f64 {
        (self.difference / self.norm.max(f64::MIN_POSITIVE)).sqrt()
    }

    /// All that is too far.
    pub fn problems(mut self) -> Vec<String> {
        let relative = self.relative_l2();
        if relative > RELATIVE_L2 || relative.is_nan() {
            self.problems.push(format!("the relative L2 difference is {relative:.2e}"));
        }
        self.problems
    }
}
