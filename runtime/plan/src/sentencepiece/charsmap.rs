//! Rules that replace characters: a trie of what is replaced, in the form of a double array, and the texts that come
//! in its place.
//!
//! A unit of the array is 32 bits: a label in the lowest eight (and bit 31, which only units that hold values have),
//! whether a value follows in bit 8, and the distance to the next unit in the upper 22, times 256 if bit 9 is set.

/// The rules of a model, ready to be looked up.
#[derive(Debug)]
pub struct CharsMap {
    trie: Vec<u32>,
    /// Texts, each ended by a zero.
    texts: String,
}

const VALUE: u32 = 1 << 31;

/// The longest text that may come in the place of a character. The longest of Unicode's own, of NFKC, has 33 bytes.
const MAX_TEXT: usize = 256;

impl CharsMap {
    /// Reads what a model holds; nothing for no rules.
    ///
    /// # Errors
    /// Where the trie is longer than all, the texts are not UTF-8, or one is so long that a short input would become
    /// a huge one.
    pub fn parse(blob: &[u8]) -> Result<Option<Self>, String> {
        if blob.is_empty() {
            return Ok(None);
        }
        let cut = || "its table of characters is cut".to_owned();
        let (size, rest) = blob.split_first_chunk().ok_or_else(cut)?;
        let (trie, texts) = rest.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or_else(cut)?;
        let texts = std::str::from_utf8(texts).map_err(|e| format!("its table of characters: {e}"))?;
        if texts.split('\0').any(|text| text.len() > MAX_TEXT) {
            return Err(format!("its table of characters has a text of more than {MAX_TEXT} bytes"));
        }
        let (units, _) = trie.as_chunks();
        let trie = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Some(Self { trie, texts: texts.to_owned() }))
    }

    /// How many times longer it may make a text: as the longest that may come in the place of a byte.
    pub fn growth(&self) -> usize {
        self.texts.split('\0').map(str::len).max().unwrap_or_default().max(1)
    }

    /// The longest start of `text` that is replaced: its length, and what comes in its place.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let unit = |at: u32| self.trie.get(at as usize).copied();
        let mut at = offset(unit(0)?);
        let mut longest = None;
        for (i, &byte) in text.iter().enumerate() {
            at ^= u32::from(byte);
            let Some(found) = unit(at).filter(|unit| unit & (VALUE | 0xff) == u32::from(byte)) else { break };
            at ^= offset(found);
            if found >> 8 & 1 == 1
                && let Some(value) = unit(at)
            {
                longest = Some((i + 1, value & !VALUE));
            }
        }
        let (length, from) = longest?;
        let rest = self.texts.get(from as usize..)?;
        Some((length, rest.split('\0').next().unwrap_or_default()))
    }
}

fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & 1 << 9) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_tables_are_refused_or_replace_nothing() {
        assert!(CharsMap::parse(&[]).is_ok_and(|map| map.is_none()));
        for blob in [&[1, 0, 0][..], &[5, 0, 0, 0, 1, 2, 3, 4], &[0, 0, 0, 0, 0xff]] {
            assert!(CharsMap::parse(blob).is_err());
        }
        let table = |length| [&[0; 4][..], &vec![b'b'; length], b"\0c\0"].concat();
        assert_eq!(CharsMap::parse(&table(256)).unwrap().unwrap().growth(), 256);
        assert!(CharsMap::parse(&table(257)).is_err_and(|why| why.contains("more than 256 bytes")));
        for trie in [&[][..], &[u32::MAX; 3], &[0x8000_0100, 0, 0x161]] {
            let bytes: Vec<u8> = trie.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            let blob = [&(bytes.len() as u32).to_le_bytes()[..], &bytes, b"x\0"].concat();
            let map = CharsMap::parse(&blob).unwrap().unwrap();
            assert!(map.longest(b"a\0\xff").is_none_or(|(length, _)| length <= 3));
        }
    }
}
