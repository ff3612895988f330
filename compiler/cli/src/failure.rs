//! Why a command ended early.

use llamac_compiler::diagnostic::{Diagnostic, Diagnostics};

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// Something was wrong.
    Faults(Diagnostics),
    /// Nobody reads standard output any more, as in `llamac … | head`: there is nothing left to do.
    ReaderGone,
}

impl From<Diagnostics> for Failure {
    fn from(faults: Diagnostics) -> Self {
        Self::Faults(faults)
    }
}

impl From<Diagnostic> for Failure {
    fn from(fault: Diagnostic) -> Self {
        Self::Faults(fault.into())
    }
}
