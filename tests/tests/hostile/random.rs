//! Test cases by chance, the same ones every time.

/// A generator (Steele, Lea and Flood, "SplitMix64").
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// `bytes` with one bit of the first `end` bytes turned, and turned back after `test`.
    pub fn flip(&mut self, bytes: &mut [u8], end: usize, test: impl FnOnce(&[u8], usize)) {
        let bit = self.below(end * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        test(bytes, bit);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Numbers and words that are no good in most places of a JSON text.
pub const WORDS: [&str; 16] = [
    "-1",
    "0",
    "1",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e999",
    "NaN",
    "-Infinity",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "\\u0000",
];

/// The JSON text in the first `end` bytes with one of its values replaced by one of [`WORDS`], and all that follows.
pub fn splice(random: &mut Random, bytes: &[u8], end: usize) -> Vec<u8> {
    let values: Vec<usize> = (0..end).filter(|i| matches!(bytes[*i], b':' | b'[' | b',')).collect();
    let start = values[random.below(values.len())] + 1;
    let stop = (start..end).find(|i| matches!(bytes[*i], b',' | b'}' | b']')).unwrap_or(end);
    let word = WORDS[random.below(WORDS.len())].as_bytes();
    [&bytes[..start], word, &bytes[stop..]].concat()
}
