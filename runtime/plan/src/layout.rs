//! The layouts of packed weights: sizes and offsets.
//!
//! A matrix `[rows, cols]` (`[out_features, in_features]` of a linear layer, `[vocabulary, width]` of an embedding) is
//! cut into panels of [`PANEL`] output rows. A panel is one sequential stream; its lanes are rows:
//!
//! | dtype | order within a panel |
//! |---|---|
//! | f32, f16 | `[cols][16 rows]` |
//! | bf16 | `[ceil(cols / 2)][16 rows][2 cols]` |
//! | q8, q4, q4a | a group for every 64 columns: scales, zero points, codes |
//!
//! Quantized columns come in blocks of [`BLOCK`], and blocks in groups of two:
//!
//! | part of a group | bytes | order |
//! |---|---|---|
//! | scales | 64 | `[2 blocks][16 rows]`, f16 |
//! | zero points, q4a only, in every other group, for itself and the next one | 64 | `[2 groups][2 blocks][16 rows]`, u8 |
//! | codes of q8 | 1024 | `[2 blocks][8 runs][16 rows][4 cols]`, u8 |
//! | codes of q4 and q4a | 512 | `[2 blocks][4 runs][16 rows][4 cols]`, u8: run `i` in the low bits, run `i + 4` in the high bits |
//!
//! A number is its scale times what its code is above the zero point: that of its block, else 128 or 8.
//!
//! Rows past the end, blocks past the end and the odd last column of bf16 hold zeros. Codes past the end of a row within
//! a block may be anything. Panels follow each other without gaps, and each starts on a multiple of 32 bytes (64 for all but f16
//! with an odd number of columns) from the matrix's start.

use serde::{Deserialize, Serialize};

/// Output rows of a panel.
pub const PANEL: usize = 16;

/// Columns of a quantized matrix that share a scale.
pub const BLOCK: usize = 32;

/// Columns of a group of blocks.
pub const GROUP: usize = 2 * BLOCK;

/// Bytes of a group's scales, and of its and the next one's zero points.
const HEAD: usize = 64;

/// Alignment in bytes of every tensor in an artifact.
pub const ALIGNMENT: usize = 64;

/// How the elements of a packed matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks of 8-bit codes around 128.
    Q8,
    /// Blocks of 4-bit codes around 8.
    Q4,
    /// Blocks of 4-bit codes around a zero point of their own.
    Q4A,
}

impl WeightDtype {
    /// Every dtype.
    pub const ALL: [Self; 6] = [Self::F32, Self::F16, Self::Bf16, Self::Q8, Self::Q4, Self::Q4A];

    /// Whether elements are codes.
    pub const fn is_quantized(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4 | Self::Q4A)
    }

    /// Bytes of one element.
    ///
    /// # Panics
    /// If elements are codes, which share bytes with others.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8 | Self::Q4 | Self::Q4A => panic!("codes are not elements of a size"),
        }
    }

    /// The name in text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
            Self::Q4A => "q4a",
        }
    }

    /// Bytes of the codes of a group of a panel.
    const fn code_bytes(self) -> usize {
        match self {
            Self::Q8 => PANEL * GROUP,
            _ => PANEL * GROUP / 2,
        }
    }
}

/// Where a group of a quantized panel has its parts, in bytes from the panel's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// `[2 blocks][16 rows]` f16.
    pub scales: usize,
    /// `[2 blocks][16 rows]` u8; of no meaning unless the dtype has zero points.
    pub zeros: usize,
    /// The codes of both blocks.
    pub codes: usize,
}

impl Group {
    /// The group number `group` of a panel of `dtype`, which is quantized.
    #[inline(always)]
    pub const fn of(dtype: WeightDtype, group: usize) -> Self {
        let codes = dtype.code_bytes();
        match dtype {
            WeightDtype::Q4A => {
                let (pair, odd) = (group / 2 * (3 * HEAD + 2 * codes), group % 2);
                let scales = pair + odd * (2 * HEAD + codes);
                Self { scales, zeros: pair + HEAD + odd * 2 * PANEL, codes: scales + (2 - odd) * HEAD }
            }
            _ => {
                let scales = group * (HEAD + codes);
                Self { scales, zeros: scales, codes: scales + HEAD }
            }
        }
    }
}

/// The shape and dtype of a packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MatrixLayout {
    /// Element type.
    pub dtype: WeightDtype,
    /// Output rows, without padding.
    pub rows: usize,
    /// Columns, without padding.
    pub cols: usize,
}

impl MatrixLayout {
    /// Number of panels.
    pub const fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Columns of a panel as stored.
    pub const fn padded_cols(&self) -> usize {
        match self.dtype {
            WeightDtype::F32 | WeightDtype::F16 => self.cols,
            WeightDtype::Bf16 => self.cols.next_multiple_of(2),
            WeightDtype::Q8 | WeightDtype::Q4 | WeightDtype::Q4A => self.cols.next_multiple_of(GROUP),
        }
    }

    /// Bytes of one panel.
    pub const fn panel_bytes(&self) -> usize {
        match self.dtype {
            WeightDtype::F32 | WeightDtype::F16 | WeightDtype::Bf16 => {
                PANEL * self.padded_cols() * self.dtype.size()
            }
            // The next group's place is this one's end.
            WeightDtype::Q8 | WeightDtype::Q4 | WeightDtype::Q4A => {
                Group::of(self.dtype, self.cols.div_ceil(GROUP)).scales
            }
        }
    }

    /// Bytes of the whole matrix, or `None` if that does not fit.
    pub fn bytes(&self) -> Option<usize> {
        // No dtype takes more than f32, and padding and heads no more than two groups.
        let cols = self.cols.checked_add(2 * GROUP)?;
        cols.checked_mul(PANEL)?.checked_mul(4)?.checked_mul(self.panels())?;
        Some(self.panels() * self.panel_bytes())
    }

    /// Position, in elements from a panel's start, of `row` (within the panel, below [`PANEL`]) and `col` of a matrix
    /// that is not quantized.
    pub const fn element(&self, row: usize, col: usize) -> usize {
        match self.dtype {
            WeightDtype::Bf16 => (col / 2) * (2 * PANEL) + row * 2 + col % 2,
            _ => col * PANEL + row,
        }
    }

    /// The byte, from a panel's start, and the lowest bit there, of the code of `row` (within the panel) and `col` of a
    /// quantized matrix.
    pub const fn code(&self, row: usize, col: usize) -> (usize, u32) {
        let codes = Group::of(self.dtype, col / GROUP).codes;
        let (block, run, place) = (col / BLOCK % 2, col / 4 % 8, row * 4 + col % 4);
        match self.dtype {
            WeightDtype::Q8 => (codes + (block * 8 + run) * 4 * PANEL + place, 0),
            _ => (codes + (block * 4 + run % 4) * 4 * PANEL + place, run as u32 / 4 * 4),
        }
    }

    /// The byte, from a panel's start, of the scale of `row` (within the panel) and a block of a quantized matrix.
    pub const fn scale(&self, row: usize, block: usize) -> usize {
        Group::of(self.dtype, block / 2).scales + (block % 2 * PANEL + row) * 2
    }

    /// The byte, from a panel's start, of the zero point of `row` (within the panel) and a block of a q4a matrix.
    pub const fn zero(&self, row: usize, block: usize) -> usize {
        Group::of(self.dtype, block / 2).zeros + block % 2 * PANEL + row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_its_own_place() {
        for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
            let layout = MatrixLayout { dtype, rows: 19, cols: 7 };
            let mut seen = vec![false; PANEL * layout.padded_cols()];
            for row in 0..PANEL {
                for col in 0..layout.cols {
                    let place = &mut seen[layout.element(row, col)];
                    assert!(!*place);
                    *place = true;
                }
            }
            assert_eq!(layout.bytes(), Some(2 * seen.len() * dtype.size()));
        }
    }

    /// Codes, scales and zero points fill a panel, bit by bit, but for the zero points of a group that has no next one.
    #[test]
    fn every_code_scale_and_zero_point_has_its_own_bits() {
        for (dtype, bits) in [(WeightDtype::Q8, 8), (WeightDtype::Q4, 4), (WeightDtype::Q4A, 4)] {
            for groups in 1..6 {
                let layout = MatrixLayout { dtype, rows: 33, cols: GROUP * groups };
                let mut seen = vec![0_u8; layout.panel_bytes()];
                let mut take = |byte: usize, bits: u8| {
                    assert_eq!(seen[byte] & bits, 0, "{dtype:?} {groups} {byte}");
                    seen[byte] |= bits;
                };
                for row in 0..PANEL {
                    for col in 0..layout.cols {
                        let (byte, shift) = layout.code(row, col);
                        take(byte, (((1_u32 << bits) - 1) << shift) as u8);
                    }
                    for block in 0..2 * groups {
                        take(layout.scale(row, block), 255);
                        take(layout.scale(row, block) + 1, 255);
                        if dtype == WeightDtype::Q4A {
                            take(layout.zero(row, block), 255);
                        }
                    }
                }
                let free = if dtype == WeightDtype::Q4A { groups % 2 * 2 * PANEL } else { 0 };
                assert_eq!(seen.iter().filter(|&&byte| byte != 255).count(), free, "{dtype:?} {groups}");
                assert_eq!(layout.bytes(), Some(3 * seen.len()));
                assert_eq!(seen.len() % ALIGNMENT, 0);
            }
        }
    }

    #[test]
    fn bits_a_weight_are_what_the_formats_promise() {
        for (dtype, bits) in [(WeightDtype::Q8, 8.5), (WeightDtype::Q4, 4.5), (WeightDtype::Q4A, 4.75)] {
            let layout = MatrixLayout { dtype, rows: 2048, cols: 2048 };
            assert_eq!(layout.bytes().unwrap() as f64 * 8.0 / (2048.0 * 2048.0), bits);
        }
    }

    #[test]
    fn a_size_that_overflows_is_none() {
        for dtype in WeightDtype::ALL {
            let layout = MatrixLayout { dtype, rows: usize::MAX / 2, cols: usize::MAX / 2 };
            assert_eq!(layout.bytes(), None);
        }
    }
}
