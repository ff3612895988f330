//! Text that arrives token by token and adds up to the decoding of the whole.
//!
//! A token has no text of its own: SentencePiece decoders drop the space before the first word of what they decode, a
//! character may be spread over several tokens, and a run of byte pieces is text only if it is valid as a whole. So a
//! window of the latest tokens is decoded again with each new one, and what is new in it is handed out, except for
//! what a later token may still change:
//!
//! - a trailing U+FFFD, which may be the start of a character;
//! - a run of byte pieces that has not ended: one more invalid byte would turn all of it into U+FFFD. A character, or
//!   a line break, that is spelled in bytes therefore comes with the first token after the run.
//!
//! The window is cut from the front where that does not change the text behind it, so a token costs the same
//! wherever in a text it stands.

use llamac_plan::diagnostic::Diagnostic;

use super::tokenizer::{Kind, Tokenizer};

/// The window is cut when it is longer than this.
const LONG: usize = 24;

/// What is left of it then. A decoder's state depends on no more than the last three bytes, and tokens have at
/// least one.
const SHORT: usize = 6;

/// Beyond this it is cut even if nothing visible would remain of it.
const TOO_LONG: usize = 512;

/// What transformers and Rust alike put in the place of bytes that are not UTF-8.
const REPLACEMENT: char = '\u{FFFD}';

/// Turns a stream of token ids into a stream of text. The pieces, joined, are the decoding of all ids at once.
#[derive(Debug)]
pub struct Detokenizer<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// The latest tokens, without those that a decoder would leave out.
    window: Vec<u32>,
    /// The part of the window's text that was handed out.
    shown: String,
    /// What the last call handed out.
    new: String,
}

impl<'t> Detokenizer<'t> {
    /// A stream from the start of a text; special tokens are left out if `skip_special`.
    pub fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, window: Vec::new(), shown: String::new(), new: String::new() }
    }

    /// A stream that continues the text of `prompt`, which is not handed out: the space before its first word stays.
    pub fn after(tokenizer: &'t Tokenizer, skip_special: bool, prompt: &[u32]) -> Result<Self, Diagnostic> {
        let mut stream = Self::new(tokenizer, skip_special);
        for &id in prompt {
            if stream.says(id) != Said::Nothing {
                stream.window.push(id);
            }
        }
        let mut start = stream.window.len().saturating_sub(LONG);
        // A run of bytes is text as a whole only.
        while start > 0 && tokenizer.kind(stream.window[start]) == Kind::Byte {
            start -= 1;
        }
        stream.window.drain(..start);
        stream.shown = tokenizer.decode(&stream.window, skip_special)?;
        Ok(stream)
    }

    /// Takes the next token and returns the text that it completes, often none.
    pub fn push(&mut self, id: u32) -> Result<&str, Diagnostic> {
        self.new.clear();
        let said = self.says(id);
        if said == Said::Nothing {
            return Ok("");
        }
        self.window.push(id);
        if said == Said::Piece {
            self.advance(false)?;
            self.trim()?;
        }
        Ok(&self.new)
    }

    /// Ends the text and returns what was withheld. The next token starts another text.
    pub fn flush(&mut self) -> Result<&str, Diagnostic> {
        self.new.clear();
        self.advance(true)?;
        self.window.clear();
        self.shown.clear();
        Ok(&self.new)
    }

    fn says(&self, id: u32) -> Said {
        match self.tokenizer.kind(id) {
            Kind::Unknown => Said::Nothing,
            Kind::Special if self.skip_special => match self.window.last() {
                // To SentencePiece, bytes before it and bytes after it are no one character.
                Some(&last)
                    if self.tokenizer.is_sentencepiece() && self.tokenizer.kind(last) == Kind::Byte =>
                {
                    Said::Piece
                }
                _ => Said::Nothing,
            },
            Kind::Byte => Said::Byte,
            Kind::Special | Kind::Piece => Said::Piece,
        }
    }

    /// Hands out what is new in the window's text.
    fn advance(&mut self, whole: bool) -> Result<(), Diagnostic> {
        let mut text = self.tokenizer.decode(&self.window, self.skip_special)?;
        if !whole {
            text.truncate(settled(&text));
        }
        // What a prompt shows of a character that it does not end stays until something else is there.
        if !self.shown.starts_with(&text) {
            self.new.push_str(&text[common(&self.shown, &text)..]);
            self.shown = text;
        }
        Ok(())
    }

    /// Cuts a long window, unless what is left would be no text: then it would not hold the place of the first word.
    fn trim(&mut self) -> Result<(), Diagnostic> {
        if self.window.len() <= LONG {
            return Ok(());
        }
        let rest = &self.window[self.window.len() - SHORT..];
        let mut text = self.tokenizer.decode(rest, self.skip_special)?;
        text.truncate(settled(&text));
        if !text.is_empty() || self.window.len() > TOO_LONG {
            self.window = rest.to_vec();
            self.shown = text;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Byte,
    Piece,
}

/// Length of the part of `text` that a later token cannot change.
fn settled(text: &str) -> usize {
    text.strip_suffix(REPLACEMENT).unwrap_or(text).len()
}

/// Length in bytes of the longest common start of `a` and `b`. All of `a`, unless a prompt ended in the middle of a
/// character, or of a run of bytes that turned out to be invalid.
fn common(a: &str, b: &str) -> usize {
    if b.starts_with(a) {
        return a.len();
    }
    a.char_indices().zip(b.char_indices()).find(|(x, y)| x != y).map_or(a.len().min(b.len()), |((i, _), _)| i)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{byte_level, llama};
    use super::*;

    fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = Detokenizer::new(tokenizer, true);
        let mut parts: Vec<_> = ids.iter().map(|&id| stream.push(id).expect("a piece").to_owned()).collect();
        parts.push(stream.flush().expect("the rest").to_owned());
        parts
    }

    #[test]
    fn spaces_between_words_stay() {
        let t = llama();
        let ids: Vec<_> = ["▁a", "▁Banana", "▁a"].iter().map(|p| t.token_to_id(p).expect(p)).collect();
        assert_eq!(stream(&t, &ids), ["a", " Banana", " a", ""]);
    }

    #[test]
    fn a_prompt_is_context_and_is_not_repeated() {
        let t = llama();
        let id = |p: &str| t.token_to_id(p).expect(p);
        let mut s = Detokenizer::after(&t, true, &[id("<s>"), id("▁a")]).expect("decodes");
        assert_eq!(s.push(id("▁Banana")).expect("decodes"), " Banana");
        // A prompt that ends within a character: the character is new.
        let mut s = Detokenizer::after(&t, true, &[id("▁a"), id("<0xC3>")]).expect("decodes");
        assert_eq!(s.push(id("<0xA9>")).expect("decodes"), "");
        assert_eq!(s.push(id("a")).expect("decodes"), "éa");
        // One that stays unfinished was shown.
        let mut s = Detokenizer::after(&t, true, &[id("▁a"), id("<0xC3>")]).expect("decodes");
        assert_eq!(s.push(id("a")).expect("decodes"), "a");
        // So was the character that stands for damage, where it is the prompt's own.
        let own = ["▁a", "<0xEF>", "<0xBF>", "<0xBD>"].map(id);
        let mut s = Detokenizer::after(&t, true, &own).expect("decodes");
        assert_eq!(s.push(id("▁a")).expect("decodes"), " a");
        // A prompt's run of bytes that becomes invalid changes its text; the stream goes on.
        let mut s = Detokenizer::after(&t, true, &[id("▁a"), id("<0x0A>")]).expect("decodes");
        assert_eq!(s.push(id("<0xFF>")).expect("decodes"), "");
        assert_eq!(s.push(id("a")).expect("decodes"), "\u{FFFD}\u{FFFD}a");
        assert_eq!(s.push(id("▁a")).expect("decodes"), " a");
    }

    #[test]
    fn a_long_run_of_bytes_at_the_end_of_a_prompt_is_whole() {
        let t = llama();
        let id = |p: &str| t.token_to_id(p).expect(p);
        for count in 1..40 {
            let mut prompt = vec![id("▁a"); 3];
            prompt.extend(["<0xE4>", "<0xB8>", "<0xAD>"].map(id).repeat(count));
            let mut s = Detokenizer::after(&t, true, &prompt).expect("decodes");
            assert_eq!(s.push(id("▁a")).expect("decodes"), " a", "{count}");
            let mut s = Detokenizer::after(&t, true, &prompt).expect("decodes");
            for byte in ["<0xE4>", "<0xB8>", "<0xAD>"] {
                assert_eq!(s.push(id(byte)).expect("decodes"), "");
            }
            assert_eq!(s.push(id("a")).expect("decodes"), "中a", "{count}");
        }
    }

    #[test]
    fn a_character_of_bytes_that_a_prompt_begins_comes_whole() {
        let t = byte_level();
        let id = |p: &str| t.token_to_id(p).expect(p);
        for (tail, said) in [(["Ń", "a"], ["中", "a"]), (["a", "a"], ["a", "a"])] {
            let mut s = Detokenizer::after(&t, true, &[id("a"), id("ä")]).expect("decodes");
            assert_eq!(s.push(id("¸")).expect("decodes"), "");
            assert_eq!(tail.map(|p| s.push(id(p)).expect("decodes").to_owned()), said);
        }
    }

    #[test]
    fn characters_are_never_cut() {
        let t = llama();
        let id = |p: &str| t.token_to_id(p).expect(p);
        let ids = [id("▁a"), id("<0xC3>"), id("<0xA9>"), id("<s>"), id("<0x0A>"), id("a")];
        assert_eq!(stream(&t, &ids), ["a", "", "", "", "", "é\na", ""]);
        assert_eq!(stream(&t, &[id("a"), id("<0xC3>")]), ["a", "", "\u{FFFD}"]);
        let t = byte_level();
        let id = |p: &str| t.token_to_id(p).expect(p);
        // 0xE4 0xB8 0xAD is one character; the lone 0xFF is certain to be invalid once something follows it.
        let ids = [id("a"), id("ä"), id("¸"), id("Ń"), id("ÿ"), id("ÿ"), id("Ġa")];
        assert_eq!(stream(&t, &ids), ["a", "", "", "中", "", "\u{FFFD}", "\u{FFFD} a", ""]);
    }

    #[test]
    fn special_and_unknown_tokens_say_nothing() {
        let t = llama();
        let id = |p: &str| t.token_to_id(p).expect(p);
        let ids = [id("<s>"), 9_999, id("▁a"), id("</s>"), u32::MAX, id("▁a")];
        assert_eq!(stream(&t, &ids), ["", "", "a", "", "", " a", ""]);
        let mut shown = Detokenizer::new(&t, false);
        assert_eq!(shown.push(id("<s>")).expect("decodes"), "<s>");
        assert_eq!(shown.push(id("▁a")).expect("decodes"), " a");
    }

    #[test]
    fn a_long_text_adds_up_and_the_window_stays_short() {
        for t in [llama(), byte_level()] {
            let mut rng = 1u32;
            for _ in 0..40 {
                let mut ids = Vec::new();
                let mut s = Detokenizer::new(&t, true);
                let mut text = String::new();
                for _ in 0..300 {
                    rng = rng.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let id = (rng >> 16) % (t.vocab_size() as u32 + 2);
                    ids.push(id);
                    text += s.push(id).expect("decodes");
                    assert!(t.decode(&ids, true).expect("decodes").starts_with(&text));
                }
                assert!(s.window.len() < 300);
                text += s.flush().expect("decodes");
                assert_eq!(text, t.decode(&ids, true).expect("decodes"));
            }
        }
    }

    #[test]
    fn a_run_of_spaces_keeps_the_next_space() {
        let t = llama();
        let id = |p: &str| t.token_to_id(p).expect(p);
        let mut ids = vec![id("▁"); 200];
        ids.push(id("▁a"));
        assert_eq!(stream(&t, &ids).concat(), t.decode(&ids, true).expect("decodes"));
    }
}
