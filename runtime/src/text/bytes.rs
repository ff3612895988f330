//! The two ways in which vocabulary pieces stand for bytes.
//!
//! Byte fallback (SentencePiece): the piece `<0xE4>` is one byte. Byte level (GPT-2): each character of a piece is
//! one byte, by a table.

use llamac_plan::tokenizer::byte_level::byte_of;

/// The byte that a piece of the form `<0xNN>` stands for; the same test as the decoder's.
pub(super) fn fallback_byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// The bytes of a byte-level piece. An added token is plain text: if any of its characters is outside the table, the
/// piece stands for its own UTF-8.
pub(super) fn byte_level(piece: &str) -> Vec<u8> {
    piece.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| piece.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_inverts_the_table() {
        assert_eq!(byte_level("Ġthe"), b" the");
        assert_eq!(byte_level("Ċ"), b"\n");
        assert_eq!(byte_level("ä¸Ń"), "中".as_bytes());
        assert_eq!(byte_level("Ń"), [0xAD]);
        // A space is not in the table, so this is plain text.
        assert_eq!(byte_level("Ġ x"), "Ġ x".as_bytes());
        assert_eq!(byte_level("▁a"), "▁a".as_bytes());
    }

    #[test]
    fn fallback_bytes_have_two_digits() {
        assert_eq!(fallback_byte("<0xE4>"), Some(0xE4));
        assert_eq!(fallback_byte("<0x0a>"), Some(10));
        for piece in ["<0x1>", "<0x123>", "0x12", "<0xZZ>", "<0xé>", "<0x>", ""] {
            assert_eq!(fallback_byte(piece), None, "{piece}");
        }
    }
}
