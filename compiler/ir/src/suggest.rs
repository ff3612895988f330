//! "Did you mean": the nearest known name, for messages.

/// Candidates that are compared: the comparison is slow, and files may hold any number of names.
const MAX_CANDIDATES: usize = 1000;

/// Longer names are no misspellings of ours, and the comparison is quadratic.
const MAX_BYTES: usize = 200;

/// The candidate that `name` is most likely a misspelling of: at most a third of its letters differ. Only the first
/// thousand candidates are looked at.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest_within(name.chars().take(MAX_BYTES).count() / 3, name, candidates)
}

/// As [`nearest`], but at most `edits` letters are inserted, left out, replaced or swapped with their neighbour; letter
/// case aside.
pub fn nearest_within<'a>(
    edits: usize,
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if name.len() > MAX_BYTES {
        return None;
    }
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .take(MAX_CANDIDATES)
        .filter(|candidate| candidate.len() <= MAX_BYTES)
        .map(|candidate| (strsim::osa_distance(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= edits)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?`, or nothing.
pub(crate) fn question<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// The one of `all` whose name is `text`.
///
/// # Errors
/// Which names there are, and which was probably meant.
pub(crate) fn choose<T: Copy>(text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, String> {
    let found = all.iter().copied().find(|one| name(*one) == text);
    found.ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
        format!("expected one of {}{}", names.join(", "), question(text, names.iter().copied()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["default", "linear", "dynamic", "yarn", "llama3", "longrope"];
        assert_eq!(nearest("lama3", known), Some("llama3"));
        assert_eq!(nearest("Linear", known), Some("linear"));
        assert_eq!(nearest("proportional", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("ab", ["ac", "AB"]), Some("AB"));
        assert_eq!(nearest("yran", known), Some("yarn"));
        assert_eq!(nearest(&"y".repeat(1000), known), None);
        assert_eq!(nearest_within(1, "dinamik", known), None);
        assert_eq!(nearest_within(2, "dinamik", known), Some("dynamic"));
    }
}
