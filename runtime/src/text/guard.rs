//! The boundary to the `tokenizers` crate, whose panics are faults of a file.
//!
//! The crate trusts its files: a `Strip` decoder that strips more than there is, or a template that names a token that
//! it does not define, is an index out of range inside it. Only this boundary knows that such a panic is the file's
//! fault and not a bug.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread would become an error about a tokenizer's file. A program's panic hook stays silent
/// then: the caller gets the error.
pub fn panic_is_reported() -> bool {
    GUARDED.get()
}

/// Runs a call into the crate and turns its errors, and its panics, into sentences.
///
/// Going on after a panic is sound: the crate's state is only read, and its caches are skipped while they are locked
/// or poisoned; a tokenizer that panics while it is made or extended is dropped.
pub(super) fn guard<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(false);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("its parts contradict each other".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_errors_become_sentences() {
        assert_eq!(guard(|| Ok(panic_is_reported())), Ok(true));
        assert!(!panic_is_reported());
        assert_eq!(guard::<()>(|| Err("no".into())), Err("no".into()));
        assert!(guard::<()>(|| std::panic::resume_unwind(Box::new(()))).is_err());
        assert!(!panic_is_reported());
    }
}
