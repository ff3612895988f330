//! What SentencePiece does to a text before it is cut into pieces.

use llamac_plan::sentencepiece::SPACE;

use super::Vocabulary;

/// The text that is cut: characters replaced, spaces as the model wants them. A space is put before it (or after it)
/// only with `prefix`, and only if the model wants one.
///
/// User-defined pieces stay as they are.
pub(in crate::text) fn normalize(vocabulary: &Vocabulary, text: &str, prefix: bool) -> String {
    let model = &vocabulary.model;
    let space = if model.escape_whitespaces { SPACE } else { ' ' };
    let mut parts = Parts { vocabulary, text, at: 0, next: Some(0..0) };
    if model.remove_extra_whitespaces {
        parts.skip_spaces();
    }
    if parts.at == text.len() {
        return String::new();
    }
    let prefix = prefix && model.add_dummy_prefix;
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    if prefix && !model.whitespace_as_suffix {
        out.push(space);
    }
    // Whether spaces that come next are too many.
    let mut after_space = model.remove_extra_whitespaces;
    while let Some(part) = parts.next() {
        let part = if after_space { part.trim_start_matches(' ') } else { part };
        out.extend(part.chars().map(|c| if c == ' ' { space } else { c }));
        if !part.is_empty() {
            after_space = model.remove_extra_whitespaces && part.ends_with(' ');
        }
    }
    if model.remove_extra_whitespaces {
        out.truncate(out.trim_end_matches(space).len());
    }
    if prefix && model.whitespace_as_suffix {
        out.push(space);
    }
    out
}

/// The parts of a text, each as it is replaced: a user-defined piece, what a rule replaces, or one character.
struct Parts<'a> {
    vocabulary: &'a Vocabulary,
    text: &'a str,
    at: usize,
    /// Where the next user-defined piece is, if it has been looked for from before `at`; nothing if there is none.
    next: Option<std::ops::Range<usize>>,
}

impl<'a> Parts<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (part, length) = self.peek()?;
        self.at += length;
        Some(part)
    }

    /// The next part and the number of bytes that it stands for.
    fn peek(&mut self) -> Option<(&'a str, usize)> {
        let rest = &self.text[self.at..];
        let c = rest.chars().next()?;
        if let Some(piece) = self.user_defined() {
            return Some((piece, piece.len()));
        }
        let vocabulary = self.vocabulary;
        let replaced = vocabulary.charsmap.as_ref().and_then(|map| map.longest(rest.as_bytes()));
        match replaced {
            // A rule of a damaged table may end inside a character.
            Some((length, text)) if rest.is_char_boundary(length) => Some((text, length)),
            _ => Some((&rest[..c.len_utf8()], c.len_utf8())),
        }
    }

    /// The user-defined piece that begins here.
    fn user_defined(&mut self) -> Option<&'a str> {
        if self.next.as_ref()?.start < self.at || self.at == 0 {
            let found = self.vocabulary.user_defined(&self.text[self.at..]);
            self.next = found.map(|(start, end)| self.at + start..self.at + end);
        }
        let next = self.next.clone()?;
        (next.start == self.at).then(|| &self.text[next])
    }

    fn skip_spaces(&mut self) {
        while let Some((" ", length)) = self.peek() {
            self.at += length;
        }
    }
}
