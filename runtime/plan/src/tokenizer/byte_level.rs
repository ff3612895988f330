//! GPT-2's characters for bytes: a printable byte is itself, the others are U+0100 and up, in order.

/// The character that stands for each byte.
pub fn alphabet() -> [char; 256] {
    let mut next = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte if is_printable(byte) => char::from(byte),
        _ => next.next().unwrap_or_default(),
    })
}

/// The byte that a character stands for; nothing for one that stands for none.
pub fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(u32::from(c)) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => {
            let rank = usize::try_from(u32::from(c) - 0x100).ok()?;
            (0..=u8::MAX).filter(|&byte| !is_printable(byte)).nth(rank)
        }
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_characters_of_gpt_2() {
        let alphabet = alphabet();
        assert_eq!(
            [b' ', b'\n', b'a', 0xAD, 0x7F].map(|byte| alphabet[usize::from(byte)]),
            ['Ġ', 'Ċ', 'a', 'Ń', 'ġ']
        );
        assert!((0..=u8::MAX).all(|byte| byte_of(alphabet[usize::from(byte)]) == Some(byte)));
        for c in [' ', '\n', '\u{AD}', '\u{144}', '▁'] {
            assert_eq!(byte_of(c), None, "{c:?}");
        }
    }
}
