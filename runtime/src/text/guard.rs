//! The boundary to the `tokenizers` crate, whose panics are faults of a file.
//!
//! The crate trusts its files: a `Strip` decoder that strips more than there is, or a template that names a token that
//! it does not define, is an index out of range inside it. Only this boundary knows that such a panic is the file's
//! fault and not a bug. The panic hook of the program runs before it is caught, so a program that wants no output for
//! such files sets one that is silent.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call into the crate and turns its errors, and its panics, into sentences.
///
/// Going on after a panic is sound: the crate's state is only read, and its caches are skipped while they are locked
/// or poisoned; a tokenizer that panics while it is made or extended is dropped.
pub(super) fn guard<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
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
        assert_eq!(guard(|| Ok(1)), Ok(1));
        assert_eq!(guard::<()>(|| Err("no".into())), Err("no".into()));
        assert!(guard::<()>(|| std::panic::resume_unwind(Box::new(()))).is_err());
    }
}
