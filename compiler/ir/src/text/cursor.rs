//! Reading tokens from text, and the errors that say where it went wrong.

use std::fmt;

use crate::verify::VerifyErrors;

/// Text that is not what the grammar expects. Line and column count from 1; columns count characters. Displayed with
/// the line, and a caret under the column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}{}", self.excerpt())]
pub struct SyntaxError {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
    /// What was expected, and what was found.
    pub message: String,
    /// The text of the line.
    pub text: String,
}

impl SyntaxError {
    /// The part of the line around the column, and a caret; nothing of an empty line.
    fn excerpt(&self) -> String {
        const WIDTH: usize = 100;
        if self.text.trim().is_empty() {
            return String::new();
        }
        let before = self.column - 1;
        let start = if before < WIDTH { 0 } else { before - WIDTH / 2 };
        let shown: String = self.text.chars().skip(start).take(WIDTH).collect();
        let shown = shown.replace(char::is_whitespace, " ");
        format!("\n  {}\n  {:>column$}", shown.trim_end(), "^", column = before - start + 1)
    }
}

/// Why a text is not a graph.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TextError {
    /// The text does not follow the grammar, or an instruction is ill-typed.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// Every instruction is well-formed, the graph as a whole is not.
    #[error(transparent)]
    Verify(#[from] VerifyErrors),
}

/// A place in a text, to report an error there later.
#[derive(Clone, Copy)]
pub(crate) struct Mark<'a> {
    text: &'a str,
    at: usize,
}

impl Mark<'_> {
    pub(crate) fn error(self, message: impl Into<String>) -> SyntaxError {
        let (before, after) = self.text.split_at(self.at);
        let line = before.matches('\n').count() + 1;
        let start = before.rsplit('\n').next().unwrap_or_default();
        let text = format!("{start}{}", after.lines().next().unwrap_or_default());
        SyntaxError { line, column: start.chars().count() + 1, message: message.into(), text }
    }
}

/// A reader of tokens. Blanks and `//` comments separate tokens and mean nothing.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let mut cursor = Self { text, at: 0 };
        cursor.skip_blanks();
        cursor
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.skip_blanks();
    }

    /// The place of the next token.
    pub(crate) fn mark(&self) -> Mark<'a> {
        Mark { text: self.text, at: self.at }
    }

    pub(crate) fn error(&self, expected: impl fmt::Display) -> SyntaxError {
        let found = match self.rest().chars().next() {
            None => "the end of the text".to_owned(),
            Some(_) => {
                let line = self.rest().lines().next().unwrap_or_default();
                format!("`{}`", line.chars().take(24).collect::<String>().trim_end())
            }
        };
        self.mark().error(format!("expected {expected}, found {found}"))
    }

    pub(crate) fn at_end(&self) -> bool {
        self.rest().is_empty()
    }

    pub(crate) fn at(&self, token: &str) -> bool {
        self.rest().starts_with(token)
    }

    pub(crate) fn at_digit(&self) -> bool {
        self.rest().starts_with(|c: char| c.is_ascii_digit())
    }

    /// Takes `token` if it comes next.
    pub(crate) fn eat(&mut self, token: &str) -> bool {
        let found = self.at(token);
        if found {
            self.advance(token.len());
        }
        found
    }

    pub(crate) fn expect(&mut self, token: &str) -> Result<(), SyntaxError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(format_args!("`{token}`"))) }
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.advance(length);
        &rest[..length]
    }

    /// Letters, digits and `_`, not starting with a digit.
    pub(crate) fn identifier(&mut self, expected: &str) -> Result<&'a str, SyntaxError> {
        if !self.rest().starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(self.error(expected));
        }
        Ok(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_'))
    }

    /// A name as [`write_name`] writes it.
    pub(crate) fn name(&mut self, expected: &str) -> Result<String, SyntaxError> {
        if self.at("\"") {
            return self.quoted();
        }
        if !self.rest().starts_with(is_name_char) {
            return Err(self.error(expected));
        }
        Ok(self.take_while(is_name_char).to_owned())
    }

    /// Digits of an integer that fits in `i64`.
    pub(crate) fn integer(&mut self) -> Result<i64, SyntaxError> {
        let start = self.mark();
        let negative = self.eat("-");
        if !self.at_digit() {
            return Err(self.error("an integer"));
        }
        let digits = self.take_while(|c| c.is_ascii_digit());
        let sign = if negative { "-" } else { "" };
        format!("{sign}{digits}").parse().map_err(|_| start.error(format!("{digits} is too large a number")))
    }

    /// Items separated by commas up to `close`; a trailing comma is allowed.
    pub(crate) fn list<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<Vec<T>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            if self.eat(close) {
                return Ok(items);
            }
            items.push(item(self)?);
            if !self.eat(",") {
                self.expect(close)?;
                return Ok(items);
            }
        }
    }

    /// The raw text of an attribute: up to a `,` or a closing bracket that it did not open.
    pub(crate) fn attribute_value(&mut self) -> Result<&'a str, SyntaxError> {
        let start = self.mark();
        let mut depth = 0usize;
        for (length, c) in self.rest().char_indices() {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth > 0 => depth -= 1,
                ')' | ']' | '}' | ',' if depth == 0 => {
                    let value = self.rest()[..length].trim_end();
                    if value.is_empty() {
                        return Err(self.error("a value"));
                    }
                    self.advance(length);
                    return Ok(value);
                }
                _ => {}
            }
        }
        Err(start.error("this value does not end before the text does"))
    }

    fn quoted(&mut self) -> Result<String, SyntaxError> {
        let start = self.mark();
        let mut name = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.advance(at + 1);
                    return Ok(name);
                }
                '\\' => {
                    let escaped = match chars.next() {
                        Some((_, 'n')) => Some('\n'),
                        Some((_, 'r')) => Some('\r'),
                        Some((_, 't')) => Some('\t'),
                        Some((_, '0')) => Some('\0'),
                        Some((_, c @ ('\\' | '"' | '\''))) => Some(c),
                        Some((_, 'u')) => {
                            let digits: String =
                                chars.by_ref().skip(1).map(|(_, c)| c).take_while(|&c| c != '}').collect();
                            u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)
                        }
                        _ => None,
                    };
                    name.push(escaped.ok_or_else(|| start.error("an unknown escape in this name"))?);
                }
                c => name.push(c),
            }
        }
        Err(start.error("this name has no closing quote"))
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// Whether `name` can be the name of a parameter or a result.
pub(crate) fn is_plain_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_name_char)
}

/// Writes a name of the outside world, quoted where it would not read back otherwise.
pub(crate) fn write_name(f: &mut dyn fmt::Write, name: &str) -> fmt::Result {
    if !name.is_empty() && name.chars().all(is_name_char) { f.write_str(name) } else { write!(f, "{name:?}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_name_reads_back(name in any::<String>()) {
            let mut text = String::new();
            write_name(&mut text, &name).unwrap();
            let mut cursor = Cursor::new(&text);
            prop_assert_eq!(cursor.name("a name").unwrap(), name);
            prop_assert!(cursor.at_end());
        }
    }

    #[test]
    fn errors_count_lines_and_columns() {
        let mut cursor = Cursor::new("a // comment\n  é ?");
        cursor.identifier("a word").unwrap();
        let error = cursor.identifier("a word").unwrap_err();
        assert_eq!(error.to_string(), "line 2, column 3: expected a word, found `é ?`\n    é ?\n    ^");
    }

    #[test]
    fn long_lines_are_shown_around_the_fault() {
        let text = format!("{}?{}", "a\u{a0}".repeat(200), "b".repeat(200));
        let mut cursor = Cursor::new(&text);
        while cursor.identifier("").is_ok() {}
        let error = cursor.error("a word").to_string();
        let lines: Vec<&str> = error.lines().skip(1).collect();
        assert_eq!(lines[0].chars().count(), 102);
        let column = lines[1].chars().count() - 1;
        assert_eq!(lines[0].chars().nth(column), Some('?'));
    }
}
