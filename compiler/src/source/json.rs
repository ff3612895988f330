//! Small JSON files, read so that every fault of a file is found and named by its key.
//!
//! [`object`] parses a whole file; [`Fields`] reads typed members of one object and records what is wrong with
//! each, so that a report holds all faults of a file. Shard indexes and safetensors headers, which may be large, are
//! not read this way.

use std::ops::RangeInclusive;

use llamac_ir::suggest::nearest_within;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use serde_json::{Map, Value};

/// The largest file that is parsed into a tree: a tree takes up to thirty times the bytes of its text.
pub const MAX_BYTES: u64 = 2 << 20;

/// The value of a member that a file may leave out or set to `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given<T> {
    /// The object has no such key.
    Absent,
    /// The key holds `null`.
    Null,
    /// The key holds a value.
    Value(T),
}

impl<T> Given<T> {
    /// The value, if there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Absent | Self::Null => None,
            Self::Value(value) => Some(value),
        }
    }

    /// The value; nothing for `null`; `default` where the key is absent.
    pub fn or_default(self, default: T) -> Option<T> {
        match self {
            Self::Absent => Some(default),
            Self::Null => None,
            Self::Value(value) => Some(value),
        }
    }
}

/// Parses a file that holds one JSON object.
///
/// # Errors
/// `BadJson` with line and column, and with the text around the fault, where the file is not UTF-8, not JSON, nested
/// deeper than 128 levels, holds numbers that JSON does not have (`NaN`, `Infinity`), or is no object.
pub fn object(file: &str, bytes: &[u8]) -> Result<Map<String, Value>, Diagnostic> {
    let bad = |message: String| Diagnostic::new(Code::BadJson).at(file).message(message);
    if bytes.is_empty() {
        return Err(bad("the file is empty".to_owned()));
    }
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        return Err(bad("the file starts with a byte order mark, which JSON does not have".to_owned())
            .help("save the file as UTF-8 without a byte order mark"));
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Diagnostic::new(Code::BadJson).at(file).expected("an object").found(show(&other))),
        Err(error) => {
            let near = window(bytes, error.line(), error.column());
            let fault = bad(error.to_string()).found(format!("… {near} …"));
            Err(if ["NaN", "Infinity"].iter().any(|word| near.contains(word)) {
                fault.help("JSON has no NaN and no Infinity, though Python writes them: put a number there")
            } else {
                fault
            })
        }
    }
}

/// Up to 60 characters around a place in a text, on its line. Columns count bytes from one.
fn window(bytes: &[u8], line: usize, column: usize) -> String {
    let line = bytes.split(|b| *b == b'\n').nth(line.saturating_sub(1)).unwrap_or_default();
    let start = column.saturating_sub(40).min(line.len());
    let end = column.saturating_add(20).min(line.len());
    String::from_utf8_lossy(&line[start..end]).trim().to_owned()
}

/// A value as it stands in its file, cut to 60 characters.
pub fn show(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    text.chars().take(59).chain(['…']).collect()
}

/// Reads the members of one object. A reader returns `None` exactly when it recorded a fault.
pub struct Fields<'a> {
    file: &'a str,
    prefix: String,
    map: &'a Map<String, Value>,
    /// Keys that were looked for.
    known: Vec<String>,
    /// What was wrong so far.
    pub faults: Diagnostics,
}

impl<'a> Fields<'a> {
    /// Reads `map`, which is the whole of `file`.
    pub fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file, prefix: String::new(), map, known: Vec::new(), faults: Diagnostics::new() }
    }

    /// Reads `map`, the object under `key`. Its faults have to be taken over by the caller.
    pub fn nested(&self, key: &str, map: &'a Map<String, Value>) -> Self {
        Self { prefix: format!("{}{key}.", self.prefix), ..Self::new(self.file, map) }
    }

    /// The object itself.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The place of `key`, for messages: `config.json: rope_scaling.factor`.
    pub fn place(&self, key: &str) -> String {
        format!("{}: {}{key}", self.file, self.prefix)
    }

    /// Records a fault of kind `code` at `key`, completed by `detail`.
    pub fn fault(&mut self, code: Code, key: &str, detail: impl FnOnce(Diagnostic) -> Diagnostic) {
        self.faults.push(detail(Diagnostic::new(code).at(self.place(key))));
    }

    fn wrong(&mut self, key: &str, expected: &str, found: &Value) {
        self.fault(Code::BadConfigValue, key, |d| d.expected(expected).found(show(found)));
    }

    /// The raw value; `null` counts as given.
    pub fn raw(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    /// The key of the file that is most likely `key`, misspelled. Keys that nobody has looked for yet are among the
    /// candidates, so that it has to be very near.
    pub fn misspelling(&self, key: &str) -> Option<&'a str> {
        nearest_within(2, key, self.strangers())
    }

    /// Keys of the file that nobody looked for.
    pub fn strangers(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str).filter(|key| !self.known.iter().any(|known| known == key))
    }

    /// Warns of keys that nobody looked for and that are a letter away from one that the file does not have, short
    /// ones aside: files have many more keys than those that are read. Called when everything was read.
    pub fn warn_of_misspellings(&self, warnings: &mut Vec<String>) {
        const SHORT: usize = 6;
        let absent = || self.known.iter().map(String::as_str).filter(|known| !self.map.contains_key(*known));
        for stranger in self.strangers().filter(|key| key.len() >= SHORT) {
            if let Some(near) = nearest_within(1, stranger, absent()) {
                warnings.push(format!("{} means nothing; did you mean {near}?", self.place(stranger)));
            }
        }
    }

    /// Reads `key` by `read`, which refuses what is not `expected`.
    fn read<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<Given<T>> {
        self.known.push(key.to_owned());
        match self.map.get(key) {
            None => Some(Given::Absent),
            Some(Value::Null) => Some(Given::Null),
            Some(value) => match read(value) {
                Some(read) => Some(Given::Value(read)),
                None => {
                    self.wrong(key, expected, value);
                    None
                }
            },
        }
    }

    /// Refuses `null`, and puts `default` where the key is absent.
    fn required<T>(&mut self, key: &str, expected: &str, given: Option<Given<T>>, default: T) -> Option<T> {
        let value = given?.or_default(default);
        if value.is_none() {
            self.wrong(key, expected, &Value::Null);
        }
        value
    }

    /// A whole number in `range`, or absent, or null.
    pub fn maybe_integer(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<Given<u64>> {
        let expected = integers(&range);
        self.read(key, &expected, |v| v.as_u64().filter(|n| range.contains(n)))
    }

    /// A whole number in `range`; `default` where the key is absent.
    pub fn integer(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> Option<u64> {
        let expected = integers(&range);
        let given = self.maybe_integer(key, range);
        self.required(key, &expected, given, default)
    }

    /// A finite number that `fits`, or absent, or null. `expected` says which numbers fit.
    pub fn maybe_number(
        &mut self,
        key: &str,
        expected: &str,
        fits: impl Fn(f64) -> bool,
    ) -> Option<Given<f64>> {
        self.read(key, expected, |v| v.as_f64().filter(|x| x.is_finite() && fits(*x)))
    }

    /// A finite number that `fits`; `default` where the key is absent.
    pub fn number(
        &mut self,
        key: &str,
        expected: &str,
        fits: impl Fn(f64) -> bool,
        default: f64,
    ) -> Option<f64> {
        let given = self.maybe_number(key, expected, fits);
        self.required(key, expected, given, default)
    }

    /// `true` or `false`, or absent, or null.
    pub fn maybe_boolean(&mut self, key: &str) -> Option<Given<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// `true` or `false`; `default` where the key is absent.
    pub fn boolean(&mut self, key: &str, default: bool) -> Option<bool> {
        let given = self.maybe_boolean(key);
        self.required(key, "true or false", given, default)
    }

    /// A string, or absent, or null.
    pub fn maybe_string(&mut self, key: &str) -> Option<Given<&'a str>> {
        self.read(key, "a string", Value::as_str)
    }

    /// An object, or absent, or null.
    pub fn maybe_object(&mut self, key: &str) -> Option<Given<&'a Map<String, Value>>> {
        self.read(key, "an object", Value::as_object)
    }

    /// A list of which every element is read by `element`, or absent, or null.
    pub fn maybe_list<T>(
        &mut self,
        key: &str,
        expected: &str,
        element: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<Given<Vec<T>>> {
        self.read(key, expected, |v| v.as_array()?.iter().map(element).collect())
    }

    /// A token id; a negative one, which old files write for "none", counts as null.
    pub fn token(&mut self, key: &str) -> Option<Given<u32>> {
        let expected = "a token id (a whole number below 2147483648) or null";
        match self.read(key, expected, token)? {
            Given::Value(Some(id)) => Some(Given::Value(id)),
            Given::Value(None) | Given::Null => Some(Given::Null),
            Given::Absent => Some(Given::Absent),
        }
    }

    /// One token id, a list of them, or none; negative ones are dropped.
    pub fn tokens(&mut self, key: &str) -> Option<Given<Vec<u32>>> {
        self.read(key, "a token id, a list of token ids, or null", |value| match value {
            Value::Array(list) => {
                let ids: Option<Vec<Option<u32>>> = list.iter().map(token).collect();
                Some(ids?.into_iter().flatten().collect())
            }
            one => Some(token(one)?.into_iter().collect()),
        })
    }
}

/// `Some(None)` for a negative number, `None` for what is no token id.
fn token(value: &Value) -> Option<Option<u32>> {
    if value.as_i64().is_some_and(|n| n < 0) {
        return Some(None);
    }
    let id = u32::try_from(value.as_u64()?).ok()?;
    i32::try_from(id).ok().map(|_| Some(id))
}

fn integers(range: &RangeInclusive<u64>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_text_is_named_with_its_place() {
        let cases: [(&[u8], &str); 8] = [
            (b"", "empty"),
            (b"\xEF\xBB\xBF{}", "byte order mark"),
            (b"{\"a\": \xFF}", "line 1"),
            (b"{\"a\": 1,\n \"b\": NaN}", "\"b\": NaN"),
            (b"{\"a\": -Infinity}", "Python writes them"),
            (b"[1]", "an object"),
            (b"{\"a\": 1e999}", "out of range"),
            (b"{\"a\": ", "EOF"),
        ];
        for (text, expected) in cases {
            let fault = object("config.json", text).unwrap_err().to_string();
            assert!(fault.contains(expected) && fault.contains("config.json"), "{fault}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_a_repeated_key_keeps_its_last_value() {
        let deep = format!("{{\"a\": {}", "[".repeat(1 << 20));
        assert!(object("f", deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
        assert_eq!(object("f", b"{\"a\": 1, \"a\": 2}").unwrap()["a"], 2);
    }

    #[test]
    fn faults_of_several_members_are_collected() {
        let map =
            object("f", br#"{"n": -1, "x": "1", "b": 1, "t": 4294967296, "s": null, "ok": 3}"#).unwrap();
        let mut fields = Fields::new("f", &map);
        assert_eq!(fields.integer("n", 1..=9, 5), None);
        assert_eq!(fields.number("x", "a number", |_| true, 0.0), None);
        assert_eq!(fields.boolean("b", false), None);
        assert_eq!(fields.token("t"), None);
        assert_eq!(fields.integer("s", 1..=9, 5), None);
        assert_eq!(fields.integer("ok", 1..=9, 5), Some(3));
        assert_eq!(fields.integer("gone", 1..=9, 5), Some(5));
        assert_eq!(fields.faults.iter().count(), 5);
    }

    #[test]
    fn token_lists_take_every_spelling() {
        let map = object("f", br#"{"a": 2, "b": [1, -1, 3], "c": -1, "d": null, "e": [1.5]}"#).unwrap();
        let mut fields = Fields::new("f", &map);
        assert_eq!(fields.tokens("a"), Some(Given::Value(vec![2])));
        assert_eq!(fields.tokens("b"), Some(Given::Value(vec![1, 3])));
        assert_eq!(fields.tokens("c"), Some(Given::Value(vec![])));
        assert_eq!(fields.tokens("d"), Some(Given::Null));
        assert_eq!(fields.tokens("e"), None);
    }
}
