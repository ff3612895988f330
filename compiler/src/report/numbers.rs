//! Numbers in the names of modules, which tell repeated layers apart: `model.layers.3.mlp`.

use std::ops::Range;

/// A number in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Number {
    /// The number.
    pub(super) value: usize,
    /// The name before it: `model.layers.`.
    pub(super) prefix: String,
    /// Where the number is.
    range: Range<usize>,
}

/// The numbers in `text` that are parts of names: behind a word and a dot, alone or in the braces of several names, and
/// before another part or the end of the name.
pub(super) fn of(text: &str) -> Vec<Number> {
    let bytes = text.as_bytes();
    let mut numbers = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        if at == start {
            at += 1;
        } else if let (true, Ok(value)) = (begins(bytes, start) && ends(bytes, at), text[start..at].parse()) {
            let name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_');
            let from = bytes[..start].iter().rposition(|byte| !name(byte)).map_or(0, |i| i + 1);
            numbers.push(Number { value, prefix: text[from..start].to_owned(), range: start..at });
        }
    }
    numbers
}

/// Whether a part of a name begins at `start`: `layers.3`, `layers.{3,4}`, but not `0.3`.
fn begins(bytes: &[u8], start: usize) -> bool {
    match bytes[..start] {
        [.., word, b'.'] => word.is_ascii_alphabetic(),
        [.., b'.', b'{'] => true,
        [.., word, b','] => word.is_ascii_alphanumeric() || word == b'_',
        _ => false,
    }
}

/// Whether a part of a name ends at `end`.
fn ends(bytes: &[u8], end: usize) -> bool {
    match bytes[end..] {
        [b'.' | b':' | b'}' | b';', ..] | [] => true,
        [b',', next, ..] => next != b' ',
        _ => false,
    }
}

/// `text` with `numbers` relative to the first of them: equal for layers that differ in their number alone.
pub(super) fn relative(text: &str, numbers: &[Number]) -> String {
    let Some(first) = numbers.first() else { return text.to_owned() };
    let (mut shape, mut at) = (String::with_capacity(text.len()), 0);
    for number in numbers {
        shape.push_str(&text[at..number.range.start]);
        let sign = if number.value < first.value { "-" } else { "+" };
        shape.push_str(&format!("{sign}{}", number.value.abs_diff(first.value)));
        at = number.range.end;
    }
    shape.push_str(&text[at..]);
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_names_are_numbers() {
        let values = |text: &str| of(text).iter().map(|number| number.value).collect::<Vec<_>>();
        assert_eq!(values("model.layers.12.mlp:linear(past.3.key)"), [12, 3]);
        assert_eq!(values("a.layers.{0,0.norm}:add, b.layers.{1,2.norm}"), [0, 0, 1, 2]);
        assert_eq!(values("present.4"), [4]);
        assert!(values("x:split.2, f32[1, 2] {sizes=[3, 4], scale=0.5, eps=1.0} w2.q").is_empty());
        assert!(values("é.7.x 99999999999999999999.x a.99999999999999999999.x").is_empty());
        assert_eq!(of("@model.layers.5.q")[0].prefix, "model.layers.");
    }

    #[test]
    fn layers_that_are_alike_have_one_shape() {
        let shape = |text: &str| relative(text, &of(text));
        assert_eq!(shape("m.layers.3.q(m.layers.2.k)"), shape("m.layers.9.q(m.layers.8.k)"));
        assert_ne!(shape("m.layers.3.q(m.layers.2.k)"), shape("m.layers.3.q(m.layers.3.k)"));
        assert_eq!(shape("nothing"), "nothing");
    }
}
