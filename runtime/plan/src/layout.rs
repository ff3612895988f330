//! The layouts of packed weights: sizes and offsets.
//!
//! A matrix `[rows, cols]` (`[out_features, in_features]` of a linear layer, `[vocabulary, width]` of an embedding) is
//! cut into panels of [`PANEL`] output rows. A panel is one sequential stream; its lanes are rows:
//!
//! | dtype | element order within a panel |
//! |---|---|
//! | f32, f16 | `[cols][16 rows]` |
//! | bf16 | `[ceil(cols / 2)][16 rows][2 cols]` |
//!
//! Rows past the end and the odd last column of bf16 hold zeros. Panels follow each other without gaps, and each
//! starts on a multiple of 32 bytes (64 for all but f16 with an odd number of columns) from the matrix's start.

use serde::{Deserialize, Serialize};

/// Output rows of a panel.
pub const PANEL: usize = 16;

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
}

impl WeightDtype {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
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
            WeightDtype::Bf16 => self.cols.next_multiple_of(2),
            _ => self.cols,
        }
    }

    /// Bytes of one panel.
    pub const fn panel_bytes(&self) -> usize {
        PANEL * self.padded_cols() * self.dtype.size()
    }

    /// Bytes of the whole matrix, or `None` if that does not fit.
    pub fn bytes(&self) -> Option<usize> {
        let cols = self.cols.checked_next_multiple_of(2)?;
        let row = cols.checked_mul(PANEL)?.checked_mul(self.dtype.size())?;
        row.checked_mul(self.panels())?;
        Some(self.panels() * self.panel_bytes())
    }

    /// Position, in elements from a panel's start, of `row` (within the panel, below [`PANEL`]) and `col`.
    pub const fn element(&self, row: usize, col: usize) -> usize {
        match self.dtype {
            WeightDtype::Bf16 => (col / 2) * (2 * PANEL) + row * 2 + col % 2,
            _ => col * PANEL + row,
        }
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

    #[test]
    fn a_size_that_overflows_is_none() {
        let layout = MatrixLayout { dtype: WeightDtype::F32, rows: usize::MAX / 2, cols: usize::MAX / 2 };
        assert_eq!(layout.bytes(), None);
    }
}
