//! Small integers in words: where the bits of each lie.
//!
//! Words are little-endian and have four bytes, so that words and bytes that follow each other are one stream
//! of bits, from the low ones on.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use smallvec::{SmallVec, smallvec};

use crate::suggest::choose;

/// Bytes of a word.
const WORD: usize = 4;

/// Integers that an order repeats after, at most; as many fill whole bytes.
const PERIOD: usize = 8;

/// In what order integers lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PackOrder {
    /// Those of a row one after the other.
    Low,
    /// Those of a row two in a byte, the first in the high bits: bitsandbytes'.
    High,
    /// Those of a row eight in a word, in an order that AutoAWQ's kernels like: 0, 2, 4, 6, 1, 3, 5, 7 from
    /// the low bits on.
    Awq,
    /// Those of a column one after the other: rows are of words, a word of each column side by side.
    Down,
}

impl PackOrder {
    const ALL: [Self; 4] = [Self::Low, Self::High, Self::Awq, Self::Down];

    fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High => "high",
            Self::Awq => "awq",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for PackOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PackOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        choose(text, &Self::ALL, Self::name)
    }
}

/// How integers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packing {
    /// Bits of an integer, 1 to 8.
    pub bits: usize,
    /// Where they lie.
    pub order: PackOrder,
    /// Integers of a row, or of a column; there may be room for more.
    pub count: usize,
    /// What is added to each, beyond its bits from zero on again.
    pub plus: u8,
}

impl Packing {
    /// The shape of the integers in bytes of this shape, or why they hold none.
    pub(super) fn shape(self, stored: &[usize]) -> Result<SmallVec<[usize; 2]>, String> {
        let Self { bits, order, count, .. } = self;
        let room = |bits_there: Option<usize>| bits_there.is_some_and(|there| count <= there / bits);
        let fits = match order {
            _ if !(1..=8).contains(&bits) => false,
            PackOrder::High | PackOrder::Awq => bits == 4,
            PackOrder::Low | PackOrder::Down => true,
        };
        match *stored {
            [words, bytes] if order == PackOrder::Down => {
                let whole = fits && bytes.is_multiple_of(WORD) && room(words.checked_mul(8 * WORD));
                whole.then(|| smallvec![count, bytes / WORD])
            }
            [rows, bytes] => {
                let words = order != PackOrder::Awq || bytes.is_multiple_of(WORD);
                (fits && words && room(bytes.checked_mul(8))).then(|| smallvec![rows, count])
            }
            _ => None,
        }
        .ok_or_else(|| format!("bytes of shape {stored:?} are no {count} integers of {bits} bits, {order}"))
    }

    /// The first bit of integer `i` of a row, or of a column.
    fn bit(self, i: usize) -> usize {
        match self.order {
            PackOrder::Low | PackOrder::Down => i * self.bits,
            PackOrder::High => (i ^ 1) * 4,
            PackOrder::Awq => i / 8 * 32 + [0, 4, 1, 5, 2, 6, 3, 7][i % 8] * 4,
        }
    }

    /// The integer in the low bits of `bits`.
    pub fn integer(self, bits: u32) -> u8 {
        (bits as u8).wrapping_add(self.plus) & (u8::MAX >> (8 - self.bits))
    }

    /// Integer `i` of the stream of a row, or of a column.
    pub(super) fn get(self, stream: &[u8], i: usize) -> u8 {
        let bit = self.bit(i);
        let byte = |at: usize| u32::from(stream.get(at).copied().unwrap_or(0));
        self.integer((byte(bit / 8) | byte(bit / 8 + 1) << 8) >> (bit % 8))
    }

    /// The bytes of a row of `stored` that hold the integers of `columns`, for the orders of rows.
    pub fn bytes(self, columns: &Range<usize>, stored: usize) -> Range<usize> {
        let [start, end] = [columns.start / PERIOD, columns.end.div_ceil(PERIOD)].map(|n| n * self.bits);
        start..end.min(stored)
    }

    /// The integers of `columns` out of [`Packing::bytes`].
    pub fn unpack(self, bytes: &[u8], columns: &Range<usize>, out: &mut [u8]) {
        let first = columns.start % PERIOD;
        for (i, out) in out.iter_mut().enumerate() {
            *out = self.get(bytes, first + i);
        }
    }

    /// The rows of words that hold the integers of `rows`, for [`PackOrder::Down`].
    pub fn words(self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.bits / (8 * WORD)..(rows.end * self.bits).div_ceil(8 * WORD)
    }

    /// Row `row` of integers out of `words`, rows of words from row `first` on, for [`PackOrder::Down`].
    pub fn unpack_down(self, words: &[u8], first: usize, row: usize, out: &mut [u8]) {
        let bit = row * self.bits - first * 8 * WORD;
        let (shift, width) = (bit % (8 * WORD), out.len() * WORD);
        let words = words[bit / (8 * WORD) * width..].as_chunks::<WORD>().0;
        for (column, out) in out.iter_mut().enumerate() {
            let low = u32::from_le_bytes(words[column]) >> shift;
            let high = match shift + self.bits > 8 * WORD {
                true => u32::from_le_bytes(words[column + width / WORD]) << (8 * WORD - shift),
                false => 0,
            };
            *out = self.integer(low | high);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packing(bits: usize, order: PackOrder, count: usize) -> Packing {
        Packing { bits, order, count, plus: 0 }
    }

    /// Integers of three bits, as the words that AutoGPTQ makes of 0, 1, … 7, 0, 1, …: the eleventh, 2, has
    /// two bits in the first word.
    #[test]
    fn three_bits_go_over_the_ends_of_words() {
        let words: [u32; 3] = [
            (0..10).fold(2 << 30, |word, i| word | (i % 8) << (3 * i)),
            (0..10).fold(0, |word, i| word | ((i + 3) % 8) << (3 * i + 1)) | ((21 % 8) & 1) << 31,
            ((21 % 8) >> 1) | (0..10).fold(0, |word, i| word | ((i + 6) % 8) << (3 * i + 2)),
        ];
        let stream = words.map(u32::to_le_bytes).concat();
        let low = packing(3, PackOrder::Low, 32);
        let found: Vec<u8> = (0..32).map(|i| low.get(&stream, i)).collect();
        let expected: Vec<u8> = (0..32).map(|i| i % 8).collect();
        assert_eq!(found, expected);
        let down = packing(3, PackOrder::Down, 32);
        for row in 0..32 {
            let words = down.words(&(row..row + 1));
            let mut out = [0];
            down.unpack_down(&stream[words.start * 4..words.end * 4], words.start, row, &mut out);
            assert_eq!(out, [row as u8 % 8], "{row}");
        }
    }

    #[test]
    fn orders_of_nibbles() {
        let stream = 0x7654_3210_u32.to_le_bytes();
        let all = |order| (0..8).map(|i| packing(4, order, 8).get(&stream, i)).collect::<Vec<_>>();
        assert_eq!(all(PackOrder::Low), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(all(PackOrder::High), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(all(PackOrder::Awq), [0, 4, 1, 5, 2, 6, 3, 7]);
    }

    #[test]
    fn pieces_of_rows_are_those_of_the_whole() {
        let stream: Vec<u8> = (0..48u32).map(|i| (i * 151 + 7) as u8).collect();
        for (bits, order) in [
            (2, PackOrder::Low),
            (3, PackOrder::Low),
            (4, PackOrder::Low),
            (8, PackOrder::Low),
            (4, PackOrder::High),
            (4, PackOrder::Awq),
        ] {
            let packing = Packing { plus: 1, ..packing(bits, order, 48 * 8 / bits) };
            for columns in [0..1, 3..17, 8..24, 15..48] {
                let bytes = packing.bytes(&columns, stream.len());
                let mut out = vec![0; columns.len()];
                packing.unpack(&stream[bytes], &columns, &mut out);
                let expected: Vec<u8> = columns.map(|i| packing.get(&stream, i)).collect();
                assert_eq!(out, expected, "{bits} {order}");
            }
        }
    }

    #[test]
    fn what_is_added_begins_again_from_zero() {
        let of = |bits, stored| Packing { plus: 1, ..packing(bits, PackOrder::Low, 1) }.get(&[stored], 0);
        assert_eq!([of(4, 7), of(4, 15), of(8, 255), of(2, 3), of(3, 6)], [8, 0, 0, 0, 7]);
    }

    #[test]
    fn shapes() {
        assert_eq!(packing(3, PackOrder::Low, 30).shape(&[2, 12]).unwrap()[..], [2, 30]);
        assert_eq!(packing(4, PackOrder::Down, 16).shape(&[2, 12]).unwrap()[..], [16, 3]);
        for (bits, order, count, stored) in [
            (3, PackOrder::Low, 33, &[2, 12][..]),
            (9, PackOrder::Low, 1, &[2, 12]),
            (3, PackOrder::High, 1, &[2, 12]),
            (4, PackOrder::Awq, 1, &[2, 6]),
            (4, PackOrder::Down, 16, &[2, 6]),
            (4, PackOrder::Down, 17, &[2, 12]),
            (4, PackOrder::Down, 1, &[12]),
            (4, PackOrder::Low, 1, &[8]),
            (4, PackOrder::Low, 1, &[1, usize::MAX]),
        ] {
            assert!(packing(bits, order, count).shape(stored).is_err(), "{bits} {order} {count} {stored:?}");
        }
    }
}
