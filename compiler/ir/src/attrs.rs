//! Named attributes of operations and recipes as text, between the parser and the types that they build.

use std::fmt::{self, Display};
use std::str::FromStr;

use crate::suggest::nearest;
use crate::text::{Cursor, SyntaxError};

/// Attributes as parsed: names, and values that are still text.
#[derive(Clone, Debug, Default)]
pub struct Attrs(Vec<(String, String)>);

impl Attrs {
    /// The value of `key`, or a message that says what is missing or wrong.
    pub fn get<T: FromStr<Err: Display>>(&self, key: &str) -> Result<T, String> {
        let text = self.text(key)?;
        text.parse().map_err(|e| format!("attribute `{key}`: `{text}` is not a valid value: {e}"))
    }

    /// The value of `key` as a list `[a, b, c]`.
    pub fn list<T: FromStr>(&self, key: &str) -> Result<Vec<T>, String> {
        let text = self.text(key)?;
        let wrong = || format!("attribute `{key}`: `{text}` is not a list such as [1, 2]");
        let items = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or_else(wrong)?.trim();
        if items.is_empty() {
            return Ok(Vec::new());
        }
        items.split(',').map(|item| item.trim().parse().map_err(|_| wrong())).collect()
    }

    /// The value of `key`, or nothing where it says `none`.
    pub fn optional<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>, String> {
        if self.text(key)? == "none" { Ok(None) } else { self.get(key).map(Some) }
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        let found = self.0.iter().find(|(k, _)| k == key);
        let near = || nearest(key, self.keys()).map(|near| format!("; is it `{near}`?")).unwrap_or_default();
        found.map(|(_, v)| v.as_str()).ok_or_else(|| format!("attribute `{key}` is missing{}", near()))
    }

    /// The names that were given.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// Adds an attribute; a name that is already there is an error.
    pub(crate) fn insert(&mut self, key: &str, value: &str) -> Result<(), String> {
        if self.keys().any(|k| k == key) {
            return Err(format!("attribute `{key}` is given twice"));
        }
        self.0.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Reads `key=value, …` up to `close`.
    pub(crate) fn parse(cursor: &mut Cursor<'_>, close: &str) -> Result<Self, SyntaxError> {
        let mut attrs = Self::default();
        cursor.list(close, |cursor| {
            let start = cursor.mark();
            let key = cursor.identifier("an attribute's name")?;
            cursor.expect("=")?;
            attrs.insert(key, cursor.attribute_value()?).map_err(|message| start.error(message))
        })?;
        Ok(attrs)
    }
}

/// A list as [`Attrs::list`] reads it.
pub(crate) fn list_text<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    format!("[{}]", items.join(", "))
}

/// A value as [`Attrs::optional`] reads it.
pub(crate) fn optional_text<T: Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "none".to_owned(), T::to_string)
}

/// Writes `a=1, b=2`.
pub(crate) fn write_attrs(f: &mut dyn fmt::Write, attrs: &[(&str, String)]) -> fmt::Result {
    for (i, (key, value)) in attrs.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        write!(f, "{comma}{key}={value}")?;
    }
    Ok(())
}
