//! Numbers in blocks: what GGUF files store a row as, in `ggml`'s types.
//!
//! A block is a few scales and small integers for 32 or 256 neighbours of a row. What it stands for is one product, or a
//! product and a difference, in single precision and in `ggml`'s order, so that numbers are those of its own reference
//! code to the bit. Two of the types are those of [`Scheme`]: their integers need not be found again.
//!
//! Not here: where blocks lie in a file.

mod groups;
mod plain;

use std::fmt;
use std::str::FromStr;

use half::f16;

use super::{Grid, Scheme};
use crate::suggest::choose;

/// A type of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockFormat {
    /// 4 bits around 8, a scale: [`Scheme::Q4`].
    Q4_0,
    /// 4 bits, a scale and the least number.
    Q4_1,
    /// 5 bits around 16, a scale.
    Q5_0,
    /// 5 bits, a scale and the least number.
    Q5_1,
    /// 8 bits with a sign, a scale: [`Scheme::Q8`].
    Q8_0,
    /// 2 bits; 16 groups with scales and least numbers of 4 bits.
    Q2K,
    /// 3 bits with a sign; 16 groups with scales of 6 bits.
    Q3K,
    /// 4 bits; 8 groups with scales and least numbers of 6 bits.
    Q4K,
    /// 5 bits; 8 groups with scales and least numbers of 6 bits.
    Q5K,
    /// 6 bits around 32; 16 groups with scales of 8 bits.
    Q6K,
    /// 4 bits that name one of 16 numbers, a scale.
    Iq4Nl,
    /// 4 bits that name one of 16 numbers; 8 groups with scales of 6 bits.
    Iq4Xs,
}

impl BlockFormat {
    /// Every type.
    pub const ALL: [Self; 12] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Iq4Nl => "iq4_nl",
            Self::Iq4Xs => "iq4_xs",
        }
    }

    /// Numbers of a block.
    pub fn numbers(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Iq4Nl => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Iq4Xs => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Iq4Xs => 136,
        }
    }

    /// The numbers of whole `blocks`, in `out`, which has room for as many as they hold.
    pub fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        match self {
            Self::Q4_0 => each(blocks, out, plain::q4_0),
            Self::Q4_1 => each(blocks, out, plain::q4_1),
            Self::Q5_0 => each(blocks, out, plain::q5_0),
            Self::Q5_1 => each(blocks, out, plain::q5_1),
            Self::Q8_0 => each(blocks, out, plain::q8_0),
            Self::Q2K => each(blocks, out, groups::q2_k),
            Self::Q3K => each(blocks, out, groups::q3_k),
            Self::Q4K => each(blocks, out, groups::q4_k),
            Self::Q5K => each(blocks, out, groups::q5_k),
            Self::Q6K => each(blocks, out, groups::q6_k),
            Self::Iq4Nl => each(blocks, out, plain::iq4_nl),
            Self::Iq4Xs => each(blocks, out, groups::iq4_xs),
        }
    }

    /// The scheme whose codes and scales these blocks hold, if there is one: [`BlockFormat::codes`].
    pub fn scheme(self) -> Option<Scheme> {
        match self {
            Self::Q4_0 => Some(Scheme::Q4),
            Self::Q8_0 => Some(Scheme::Q8),
            _ => None,
        }
    }

    /// Writes the codes of a block of [`BlockFormat::scheme`] and returns what they stand for; nothing for the other
    /// types, and for a block of another length.
    pub fn codes(self, block: &[u8], codes: &mut [u8; Scheme::BLOCK]) -> Option<Grid> {
        let zero = self.scheme()?.zero()?;
        let (scale, integers) = block.split_first_chunk().filter(|_| block.len() == self.bytes())?;
        match self {
            Self::Q4_0 => *codes = plain::nibbles(integers.try_into().ok()?),
            _ => codes.iter_mut().zip(integers).for_each(|(code, byte)| *code = byte.wrapping_add(zero)),
        }
        Some(Grid { scale: half(*scale), zero })
    }
}

/// Gives each block of `BYTES` its `NUMBERS`.
fn each<const BYTES: usize, const NUMBERS: usize>(
    blocks: &[u8],
    out: &mut [f32],
    dequantize: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
) {
    blocks.as_chunks().0.iter().zip(out.as_chunks_mut().0).for_each(|(block, out)| dequantize(block, out));
}

/// A number of half precision.
fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BlockFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        choose(text, &Self::ALL, Self::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of bytes that repeat with no period of the layouts, its scales small.
    fn block(format: BlockFormat, seed: usize) -> Vec<u8> {
        (0..format.bytes()).map(|i| ((i + seed) * 37 % 61) as u8).collect()
    }

    #[test]
    fn every_block_fills_its_numbers() {
        for format in BlockFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
            let blocks = [block(format, 1), block(format, 2)].concat();
            let mut out = vec![f32::NAN; 2 * format.numbers()];
            format.dequantize(&blocks, &mut out);
            assert!(out.iter().all(|x| x.is_finite()), "{format}");
            let mut second = vec![f32::NAN; format.numbers()];
            format.dequantize(&blocks[format.bytes()..], &mut second);
            assert_eq!(out[format.numbers()..], second, "{format}");
        }
    }

    /// Codes, scale and zero make the numbers again, for every byte and for scales of either sign.
    #[test]
    fn codes_are_those_of_the_scheme() {
        let mut carried = Vec::new();
        for format in BlockFormat::ALL {
            let mut codes = [0; Scheme::BLOCK];
            let Some(scheme) = format.scheme() else {
                assert_eq!(format.codes(&block(format, 1), &mut codes), None);
                continue;
            };
            carried.push((format, scheme));
            for start in (0..=255u8).step_by(16) {
                let mut block = vec![0x12, if start % 32 == 0 { 0x2C } else { 0xAC }];
                block.extend((0..format.bytes() as u8 - 2).map(|i| start.wrapping_add(i)));
                let grid = format.codes(&block, &mut codes).unwrap();
                assert_eq!(Some(grid.zero), scheme.zero());
                let mut numbers = [0.0; Scheme::BLOCK];
                format.dequantize(&block, &mut numbers);
                assert_eq!(codes.map(|code| grid.decode(code)), numbers, "{format}");
            }
            assert_eq!(format.codes(&[0; 3], &mut codes), None);
        }
        assert_eq!(carried, [(BlockFormat::Q4_0, Scheme::Q4), (BlockFormat::Q8_0, Scheme::Q8)]);
    }
}
