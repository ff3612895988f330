//! Words of messages that come from elsewhere: from the system, or from names of files.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::Path;

/// What the system says of `error`, as a part of a sentence and without its number: `permission denied`.
pub fn reason(error: &impl Display) -> String {
    let text = error.to_string();
    let Some((words, _)) = text.split_once(" (os error ") else { return text };
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// `path` as a word of a shell's command line, in quotes where it needs them.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// `text` with control characters written out, so that a name of a file cannot move the cursor; lines stay lines.
pub fn printable(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(harmless) {
        return text.into();
    }
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if harmless(c) { printable.push(c) } else { printable.extend(c.escape_default()) }
    }
    printable.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_speaks_in_sentences() {
        assert_eq!(reason(&std::io::Error::from_raw_os_error(13)), "permission denied");
        assert_eq!(reason(&"This is not a file"), "This is not a file");
    }

    #[test]
    fn words_of_a_shell_are_quoted_where_they_need_it() {
        for (path, word) in [
            ("models/a-1.llamac", "models/a-1.llamac"),
            ("my model", "'my model'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(printable("a\u{1b}[2J\nb"), "a\\u{1b}[2J\nb");
        assert_eq!(printable("größe"), "größe");
    }
}
