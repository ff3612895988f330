//! Faults that a damaged file may have without number: the first ones are told, the rest are counted.

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

/// Faults that are told one by one.
const TOLD: usize = 20;

/// The faults of one file.
pub(crate) struct Capped<'a> {
    file: &'a str,
    first: Diagnostics,
    last: Option<Code>,
    count: usize,
}

impl<'a> Capped<'a> {
    /// None so far in `file`.
    pub fn new(file: &'a str) -> Self {
        Self { file, first: Diagnostics::new(), last: None, count: 0 }
    }

    /// The file.
    pub fn file(&self) -> &'a str {
        self.file
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether further faults are only counted, so that their details are not worth any work.
    pub fn is_full(&self) -> bool {
        self.count >= TOLD
    }

    /// Tells or counts a fault.
    pub fn push(&mut self, fault: Diagnostic) {
        self.count += 1;
        if self.count <= TOLD {
            self.first.push(fault);
        } else {
            self.last = Some(fault.code);
        }
    }

    /// The faults, of which the last one counts what is not told.
    pub fn into_diagnostics(mut self) -> Diagnostics {
        if let Some(code) = self.last {
            let more = self.count - TOLD;
            self.first
                .push(Diagnostic::new(code).at(self.file).message(format!("and {more} more such faults")));
        }
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_counted() {
        let mut faults = Capped::new("f");
        for i in 0..TOLD + 5 {
            assert_eq!(faults.is_full(), i >= TOLD);
            faults.push(Diagnostic::new(Code::BadIndex).message(i.to_string()));
        }
        let told = faults.into_diagnostics();
        assert_eq!(told.iter().count(), TOLD + 1);
        assert!(told.to_string().ends_with("and 5 more such faults"), "{told}");
    }
}
