//! Stop strings, as transformers' `StopStringCriteria` defines them.
//!
//! A sequence stops when the text of its tokens contains a stop string that ends inside or at the end of the last
//! token. The token may reach beyond the string ("stop" stops at "st" + "opera"), the string may begin in the prompt,
//! and the text is not trimmed. Tokens are compared by their bytes, so a character that is spelled in byte pieces
//! counts; special tokens count by their names.

use llamac_plan::diagnostic::{Code, Diagnostic};

use super::Tokenizer;

/// What tokens are decoded after, so that a space before a word stays. Any text of plain letters does.
const CONTEXT: &str = "abcdef";

/// Watches a sequence for stop strings.
#[derive(Debug)]
pub struct StopStrings<'t> {
    tokenizer: &'t Tokenizer,
    strings: Vec<Vec<u8>>,
    context: Vec<u32>,
    context_text: String,
    /// The last bytes of the text: as many as a stop string may have before the last token.
    tail: Vec<u8>,
}

impl<'t> StopStrings<'t> {
    /// Watches for any of `strings`. An empty string is refused: it would be found before anything was said.
    pub fn new<S: AsRef<str>>(tokenizer: &'t Tokenizer, strings: &[S]) -> Result<Self, Diagnostic> {
        let strings: Vec<_> = strings.iter().map(|s| s.as_ref().as_bytes().to_vec()).collect();
        if strings.iter().any(Vec::is_empty) {
            let fault = Diagnostic::new(Code::BadArgument).at("stop string");
            return Err(fault.expected("at least one character").found("an empty string"));
        }
        let context = tokenizer.encode(CONTEXT, false)?;
        let context_text = tokenizer.decode(&context, false)?;
        Ok(Self { tokenizer, strings, context, context_text, tail: Vec::new() })
    }

    /// Takes the prompt, in which nothing stops but a stop string may begin.
    pub fn prompt(&mut self, ids: &[u32]) -> Result<(), Diagnostic> {
        if self.strings.is_empty() {
            return Ok(());
        }
        // Tokens have at least one byte, but for ids outside the vocabulary, which say nothing.
        for &id in &ids[ids.len().saturating_sub(self.reach())..] {
            self.append(id)?;
        }
        Ok(())
    }

    /// Takes the next token; whether the sequence stops with it.
    pub fn push(&mut self, id: u32) -> Result<bool, Diagnostic> {
        if self.strings.is_empty() {
            return Ok(false);
        }
        let last = self.append(id)?;
        let ends_in_last = |string: &Vec<u8>| {
            let from = (last + 1).saturating_sub(string.len());
            last < self.tail.len() && self.tail[from..].windows(string.len()).any(|window| window == string)
        };
        Ok(self.strings.iter().any(ends_in_last))
    }

    /// Bytes of a stop string that may lie before the last token.
    fn reach(&self) -> usize {
        self.strings.iter().map(Vec::len).max().map_or(0, |longest| longest - 1)
    }

    /// Adds the token's bytes to the tail and returns where they start.
    fn append(&mut self, id: u32) -> Result<usize, Diagnostic> {
        let bytes = self.tokenizer.bytes_after(&self.context, &self.context_text, id)?;
        let excess = self.tail.len().saturating_sub(self.reach());
        self.tail.drain(..excess);
        let start = self.tail.len();
        self.tail.extend(bytes);
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{byte_level, llama};
    use super::*;

    /// The index of the first of `pieces` that stops.
    fn stops(t: &Tokenizer, strings: &[&str], pieces: &[&str]) -> Option<usize> {
        let mut stop = StopStrings::new(t, strings).expect("strings");
        pieces.iter().position(|p| stop.push(t.token_to_id(p).expect(p)).expect("bytes"))
    }

    #[test]
    fn a_string_ends_inside_the_last_token() {
        let t = llama();
        assert_eq!(stops(&t, &["a Ba"], &["▁a", "▁Banana"]), Some(1));
        assert_eq!(stops(&t, &["nana"], &["▁a", "▁Banana", "a"]), Some(1));
        assert_eq!(stops(&t, &["Banana"], &["▁a", "a", "▁a"]), None);
        assert_eq!(stops(&t, &["zzz", " a"], &["a", "▁a"]), Some(1));
        assert_eq!(stops(&t, &["</s>"], &["a", "</s>"]), Some(1));
    }

    #[test]
    fn characters_spelled_in_bytes_count() {
        let t = llama();
        assert_eq!(stops(&t, &["é"], &["a", "<0xC3>", "<0xA9>", "a"]), Some(2));
        assert_eq!(stops(&t, &["\na"], &["<0x0A>", "a"]), Some(1));
        let t = byte_level();
        assert_eq!(stops(&t, &["中"], &["a", "ä", "¸", "Ń"]), Some(3));
        assert_eq!(stops(&t, &["a a"], &["a", "Ġa"]), Some(1));
    }

    #[test]
    fn a_string_may_begin_in_the_prompt_but_not_end_there() {
        let t = llama();
        let id = |p: &str| t.token_to_id(p).expect(p);
        let mut stop = StopStrings::new(&t, &["Banana a"]).expect("strings");
        stop.prompt(&[id("▁a"), id("▁Banana")]).expect("bytes");
        assert!(stop.push(id("▁a")).expect("bytes"));
        let mut stop = StopStrings::new(&t, &["Banana"]).expect("strings");
        stop.prompt(&[id("▁a"), id("▁Banana")]).expect("bytes");
        assert!(!stop.push(id("▁a")).expect("bytes"));
        assert!(!stop.push(9_999).expect("bytes"));
    }

    #[test]
    fn an_empty_string_is_refused() {
        let fault = StopStrings::new(&llama(), &["a", ""]).expect_err("an empty string");
        assert_eq!(fault.code, Code::BadArgument);
    }
}
