//! Codes whose scales lie apart: what GPTQ, AWQ, compressed-tensors, bitsandbytes and others make of a
//! matrix.

use super::{Scheme, Weight, WeightExpr};
use crate::DType;

/// Neighbours in a matrix that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// Rows of them; 1 where the scales are a vector.
    pub rows: usize,
    /// Columns of them. Where the scales are a vector, numbers of the matrix that follow each other, row
    /// after row.
    pub columns: usize,
}

/// The codes that stand for zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Zeros {
    /// One for all numbers.
    Same(u8),
    /// One for each scale, of the same shape as the scales.
    Each(Weight),
}

impl Group {
    /// The number of the scale, counted row by row, of the number at `row` and `column` of a matrix of
    /// `width` columns; the scales have the shape `scales`.
    pub fn scale(self, width: usize, scales: &[usize], row: usize, column: usize) -> usize {
        match *scales {
            [_, across] => row / self.rows * across + column / self.columns,
            _ => (row * width + column) / self.columns,
        }
    }

    /// Whether `scales` is the shape of the scales for codes of the shape `codes`.
    pub(super) fn fits(self, codes: &[usize], scales: &[usize]) -> bool {
        if self.rows == 0 || self.columns == 0 {
            return false;
        }
        match (codes, scales) {
            (_, [count]) => {
                self.rows == 1 && codes.iter().product::<usize>().div_ceil(self.columns) == *count
            }
            ([rows, columns], [down, across]) => {
                rows.div_ceil(self.rows) == *down && columns.div_ceil(self.columns) == *across
            }
            _ => false,
        }
    }

    /// Whether each block of a [`Scheme`] has one scale, in rows of `width` numbers.
    fn holds_blocks(self, width: usize, scales: &[usize]) -> bool {
        let one_for_rows =
            if scales.len() == 1 { self.columns.is_multiple_of(width) } else { self.columns >= width };
        one_for_rows
            || self.columns.is_multiple_of(Scheme::BLOCK)
                && (scales.len() == 2 || width.is_multiple_of(Scheme::BLOCK))
    }
}

/// The scheme that holds the `codes` of groups, where there is one: integers of at most four bits with any
/// code of zero, or of eight with zero in the middle, whose scales do not change within a block.
pub(super) fn scheme(codes: &Weight, scales: &Weight, zeros: &Zeros, group: Group) -> Option<Scheme> {
    let width = *codes.shape().last()?;
    if codes.shape().len() != 2 || !group.holds_blocks(width, scales.shape()) {
        return None;
    }
    match (codes.dtype(), code_bits(codes)?, zeros) {
        (DType::U8, 4, Zeros::Same(8)) => Some(Scheme::Q4),
        (DType::U8, 8, Zeros::Same(128)) | (DType::I8, _, Zeros::Same(0)) => Some(Scheme::Q8),
        (DType::U8, ..=4, _) => Some(Scheme::Q4A),
        _ => None,
    }
}

/// What is added to a code of the dtype `codes` to make it one of `scheme`, whose bytes are unsigned.
pub fn code_offset(codes: DType) -> u8 {
    if codes == DType::I8 { 128 } else { 0 }
}

/// Bits of the integers of `codes`, where these were unpacked, or have a sign.
pub(super) fn code_bits(codes: &Weight) -> Option<usize> {
    match codes.expr() {
        WeightExpr::Unpack { packing, .. } => Some(packing.bits),
        WeightExpr::Transpose { base } => code_bits(base),
        _ => (codes.dtype() == DType::I8).then_some(8),
    }
}
