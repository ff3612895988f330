//! Sentences on tensors that are in the files and change nothing, though somebody may have meant them to.

/// Why tensors without a meaning are ignored.
pub(super) const STRANGERS: &str = "no LLaMA model has tensors of these names";

/// Tells that `tensors`, by their names in the files, are ignored for this `reason`; nothing if there are none.
pub(super) fn warn(tensors: &[&str], reason: &str, warnings: &mut Vec<String>) {
    match tensors {
        [] => {}
        [one] => warnings.push(format!("a tensor is ignored: {one} ({reason})")),
        [first, ..] => {
            warnings.push(format!("{} tensors are ignored: {first} and others ({reason})", tensors.len()));
        }
    }
}
