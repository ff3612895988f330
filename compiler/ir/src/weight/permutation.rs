//! Row orders of weights, as rules that print small and not as lists of indices.

/// An order of the rows of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permutation {
    /// In each head, rows 0, 2, 4, … then rows 1, 3, 5, …: turns a projection whose rotary pairs are neighbours
    /// (`2i, 2i + 1`, Meta's layout) into one whose pairs are half a head apart (`i, i + head_dim / 2`, Hugging
    /// Face's layout).
    InterleavedToHalf {
        /// The number of heads.
        heads: usize,
        /// Rows of a head; even.
        head_dim: usize,
    },
    /// The inverse of [`Permutation::InterleavedToHalf`].
    HalfToInterleaved {
        /// The number of heads.
        heads: usize,
        /// Rows of a head; even.
        head_dim: usize,
    },
}

impl Permutation {
    /// Why it does not order `rows` rows, if it does not.
    pub(crate) fn check(self, rows: usize) -> Result<(), String> {
        let (Self::InterleavedToHalf { heads, head_dim } | Self::HalfToInterleaved { heads, head_dim }) =
            self;
        if head_dim == 0 || !head_dim.is_multiple_of(2) || heads.checked_mul(head_dim) != Some(rows) {
            return Err(format!("{rows} rows are not {heads} heads of {head_dim}, an even number"));
        }
        Ok(())
    }

    /// The old row that becomes `row`.
    pub fn source_row(self, row: usize) -> usize {
        match self {
            Self::InterleavedToHalf { head_dim, .. } => {
                let (head, i, half) = (row / head_dim, row % head_dim, head_dim / 2);
                head * head_dim + if i < half { 2 * i } else { 2 * (i - half) + 1 }
            }
            Self::HalfToInterleaved { head_dim, .. } => {
                let (head, i) = (row / head_dim, row % head_dim);
                head * head_dim + i / 2 + (i % 2) * (head_dim / 2)
            }
        }
    }

    /// The permutation that undoes this one.
    #[must_use]
    pub fn inverse(self) -> Self {
        match self {
            Self::InterleavedToHalf { heads, head_dim } => Self::HalfToInterleaved { heads, head_dim },
            Self::HalfToInterleaved { heads, head_dim } => Self::InterleavedToHalf { heads, head_dim },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_move_half_a_head_apart() {
        let order = Permutation::InterleavedToHalf { heads: 2, head_dim: 6 };
        let rows: Vec<usize> = (0..12).map(|row| order.source_row(row)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }

    #[test]
    fn the_inverse_undoes() {
        let order = Permutation::InterleavedToHalf { heads: 3, head_dim: 10 };
        for row in 0..30 {
            assert_eq!(order.inverse().source_row(order.source_row(row)), row);
            assert_eq!(order.source_row(order.inverse().source_row(row)), row);
        }
    }
}
