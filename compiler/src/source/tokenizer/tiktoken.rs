//! Llama 3's own tokenizer file: a line for each token, its bytes in base64 and its rank, which is its id. How a text is
//! split, and which special tokens follow on the vocabulary, the file does not say; it is what Meta's code says.

use std::collections::HashMap;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::tokenizer::byte_level::alphabet;

use super::super::Capped;
use super::byte_level::{self, ByteLevel};
use super::json::{self, Added, Bpe};

/// Special tokens, which follow on the vocabulary.
const SPECIAL: u32 = 256;

/// The most tokens: four times those of Llama 3.
const MAX_TOKENS: usize = 1 << 18;

/// The generation of Llama 3 whose special tokens follow on the vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Llama3 {
    /// Llama 3.
    V3,
    /// Llama 3.1, 3.2 and 3.3, by the names that transformers has for them.
    #[default]
    V31,
}

impl Llama3 {
    /// The special tokens in the order of their ids.
    fn special(self) -> Vec<String> {
        let named: &[(usize, &str)] = match self {
            Self::V3 => &[],
            Self::V31 => &[(4, "finetune_right_pad_id"), (8, "eom_id"), (10, "python_tag")],
        };
        let always = [
            (0, "begin_of_text"),
            (1, "end_of_text"),
            (6, "start_header_id"),
            (7, "end_header_id"),
            (9, "eot_id"),
        ];
        let mut reserved = 0..;
        let name = |i: usize| {
            let mut names = always.iter().chain(named);
            match names.find(|(at, _)| *at == i) {
                Some((_, name)) => format!("<|{name}|>"),
                None => format!("<|reserved_special_token_{}|>", reserved.next().unwrap_or_default()),
            }
        };
        (0..SPECIAL as usize).map(name).collect()
    }
}

/// The token that opens a text.
pub(super) const BOS: &str = "<|begin_of_text|>";

/// Whether a `tokenizer.model` is of this kind: a line of base64, a space and a number.
pub(super) fn is(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    line.len() < 4096 && read(line.trim_ascii_end()).is_some()
}

fn read(line: &[u8]) -> Option<(Vec<u8>, u32)> {
    let at = line.iter().position(|b| *b == b' ')?;
    let token = base64::decode(&line[..at]).ok().filter(|token| !token.is_empty())?;
    Some((token, std::str::from_utf8(&line[at + 1..]).ok()?.parse().ok()?))
}

/// The tokens of a file, by id.
fn tokens(bytes: &[u8], name: &str) -> Result<Vec<Vec<u8>>, Diagnostics> {
    let mut faults = Capped::new(name);
    let at = |line: usize| Diagnostic::new(Code::BadTokenizer).at(format!("{name}: line {}", line + 1));
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if tokens.len() == MAX_TOKENS {
            let more = at(i).message("there are more tokens than in any vocabulary");
            return Err(more.expected(format!("at most {MAX_TOKENS}")).into());
        }
        let id = tokens.len() as u32;
        match read(line.trim_ascii_end()) {
            Some((token, rank)) => {
                if rank != id {
                    let fault = at(i).message("ranks are not in order");
                    faults.push(fault.expected(id.to_string()).found(rank.to_string()));
                }
                tokens.push(token);
            }
            None => {
                let shown = String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned();
                let fault = at(i).expected("bytes in base64, a space and a number").found(shown);
                faults.push(fault.help("the file may be cut: fetch it again"));
                tokens.push(Vec::new());
            }
        }
    }
    let mut ids: HashMap<&[u8], usize> = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
        if let Some(first) = ids.insert(token, id) {
            let fault = Diagnostic::new(Code::BadTokenizer).at(format!("{name}: token {id}"));
            faults.push(fault.message(format!("token {first} has the same bytes")));
        }
    }
    if faults.is_empty()
        && let Some(byte) = (0..=u8::MAX).find(|byte| !ids.contains_key(&[*byte][..]))
    {
        let fault = Diagnostic::new(Code::BadTokenizer).at(name).expected("a token for each byte");
        faults.push(fault.found(format!("none for byte {byte}")).help("the file may be cut: fetch it again"));
    }
    faults.into_diagnostics().or(tokens)
}

/// The file as a `tokenizer.json`, and the number of its ids; `name` is what messages call it.
///
/// # Errors
/// `BadTokenizer` with the lines at fault.
pub(super) fn to_json(bytes: &[u8], generation: Llama3, name: &str) -> Result<(Vec<u8>, usize), Diagnostics> {
    let tokens = tokens(bytes, name)?;
    let order: Vec<u32> = (0..tokens.len() as u32).collect();
    let merges = json::merges(&tokens, &order, |_, _| true, name)?;
    let alphabet = alphabet();
    let text = |token: &Vec<u8>| token.iter().map(|&byte| alphabet[usize::from(byte)]).collect::<String>();
    let pieces: Vec<String> = tokens.iter().map(text).collect();
    let special = generation.special().into_iter().zip(tokens.len() as u32..);
    let added: Vec<Added> = special.map(|(content, id)| Added::new(id, content, true)).collect();
    let bos = added.iter().find(|token| token.token.content == BOS);
    let model = Bpe::new(&pieces, merges);
    let file = byte_level::file(ByteLevel::Llama3, model, bos, None, added.clone());
    Ok((json::write(&file), tokens.len() + SPECIAL as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_have_their_places() {
        for (generation, names) in [
            (
                Llama3::V3,
                [
                    (4, "reserved_special_token_2"),
                    (10, "reserved_special_token_5"),
                    (255, "reserved_special_token_250"),
                ],
            ),
            (
                Llama3::V31,
                [(5, "reserved_special_token_2"), (10, "python_tag"), (255, "reserved_special_token_247")],
            ),
        ] {
            let special = generation.special();
            assert_eq!(special.len(), 256);
            for (id, name) in names {
                assert_eq!(special[id], format!("<|{name}|>"));
            }
            assert_eq!((special[0].as_str(), special[9].as_str()), (BOS, "<|eot_id|>"));
        }
    }

    #[test]
    fn lines_at_fault_are_told_together() {
        let bytes: String = (0..=255u8).map(|b| format!("{} {b}\n", base64::encode([b]))).collect();
        assert!(is(bytes.as_bytes()) && tokens(bytes.as_bytes(), "f").is_ok());
        let told = |text: &str| tokens(text.as_bytes(), "f").unwrap_err().to_string();
        let faulty = told(&format!("{bytes}!!! 256\nYWI= 258\nYWI= 258\nYWJj\n"));
        for expected in
            ["f: line 257", "found    !!! 256", "line 258", "expected 257", "line 260", "token 258"]
        {
            assert!(faulty.contains(expected), "{expected}: {faulty}");
        }
        assert!(told("IQ== 0\n").contains("none for byte 0"));
        assert!(told("").contains("none for byte 0"));
        assert!(!is(b"\x0a\x0e\x0a\x05<unk>") && !is(b"") && !is(b"IQ==") && !is(b" 1"));
    }
}
