//! Names that differ in a number alone, told as one: `past_key_values.0…29.key`.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

/// Consecutive numbers of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folded<T> {
    /// The name, its number replaced by the first and the last one.
    pub name: String,
    /// How many names there are.
    pub repeats: usize,
    /// What they have in common.
    pub what: T,
}

/// Folds names that differ in their last number alone and have the same `what`, in the order in which each kind of
/// name comes first.
pub(super) fn fold<'a, T: Copy + Eq + Hash>(names: impl IntoIterator<Item = (&'a str, T)>) -> Vec<Folded<T>> {
    let mut kinds: HashMap<(&str, &str, bool, T), usize> = HashMap::new();
    let mut groups: Vec<(&str, &str, T, Vec<Option<u64>>)> = Vec::new();
    for (name, what) in names {
        let (before, number, after) = match last_number(name) {
            Some((range, number)) => (&name[..range.start], Some(number), &name[range.end..]),
            None => (name, None, ""),
        };
        let group = *kinds.entry((before, after, number.is_some(), what)).or_insert_with(|| {
            groups.push((before, after, what, Vec::new()));
            groups.len() - 1
        });
        groups[group].3.push(number);
    }
    let mut folded = Vec::new();
    for (before, after, what, mut numbers) in groups {
        numbers.sort_unstable();
        for run in numbers.chunk_by(|a, b| a.zip(*b).is_some_and(|(a, b)| a.checked_add(1) == Some(b))) {
            let number = match (run[0], run[run.len() - 1]) {
                (Some(first), Some(last)) if first < last => format!("{first}…{last}"),
                (Some(first), _) => first.to_string(),
                (None, _) => String::new(),
            };
            folded.push(Folded { name: format!("{before}{number}{after}"), repeats: run.len(), what });
        }
    }
    folded
}

/// The last number in a text, if it is written as numbers are.
fn last_number(text: &str) -> Option<(Range<usize>, u64)> {
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = text[..end]
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    let number: u64 = text[start..end].parse().ok()?;
    (number.to_string() == text[start..end]).then_some((start..end, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(names: &[(&str, char)]) -> Vec<String> {
        let told = |folded: Folded<char>| format!("{} × {} {}", folded.name, folded.repeats, folded.what);
        fold(names.iter().copied()).into_iter().map(told).collect()
    }

    #[test]
    fn consecutive_numbers_are_one() {
        let names = [
            ("ids", 'a'),
            ("past.0.key", 'b'),
            ("past.0.value", 'b'),
            ("past.1.key", 'b'),
            ("past.1.value", 'c'),
            ("past.2.key", 'b'),
            ("past.4.key", 'b'),
        ];
        let expected = [
            "ids × 1 a",
            "past.0…2.key × 3 b",
            "past.4.key × 1 b",
            "past.0.value × 1 b",
            "past.1.value × 1 c",
        ];
        assert_eq!(folded(&names), expected);
    }

    #[test]
    fn what_is_no_number_stays() {
        let names = [
            ("a01", 'x'),
            ("a02", 'x'),
            ("9", 'x'),
            ("é8", 'x'),
            ("é7", 'x'),
            ("n18446744073709551616", 'x'),
        ];
        let expected = ["a01 × 1 x", "a02 × 1 x", "9 × 1 x", "é7…8 × 2 x", "n18446744073709551616 × 1 x"];
        assert_eq!(folded(&names), expected);
        assert_eq!(folded(&[("a", 'x'), ("a", 'x')]), ["a × 1 x", "a × 1 x"]);
        assert_eq!(folded(&[("n18446744073709551615", 'x')]), ["n18446744073709551615 × 1 x"]);
    }
}
