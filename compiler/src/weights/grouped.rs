//! Codes whose scales lie apart, a tile of rows at a time.

use std::ops::Range;

use llamac_ir::DType;
use llamac_ir::weight::{Grid, Group, Scheme, Weight, WeightExpr, Zeros, code_offset};

use super::error::ReadError;
use super::reader::{Block, Sink, WeightReader, narrowed, row_elements};

/// Numbers of a tile, at least one row: rows of packed codes lie side by side, and are read best many at a
/// time.
const TILE: usize = 1 << 18;

/// The scales that a block meets, and the codes of zero, which may have a sign.
struct Grids {
    scales: Vec<f32>,
    zeros: Vec<f32>,
    /// The position of the first among all.
    first: (usize, usize),
    /// Of those that are read, in a row.
    across: usize,
}

impl Grids {
    /// Scale and code of zero of the number at `row` and `column`.
    fn at(&self, group: Group, width: usize, scales: &[usize], row: usize, column: usize) -> (f32, f32) {
        let number = group.scale(width, scales, row, column);
        let (down, across) = match *scales {
            [_, across] => (number / across, number % across),
            _ => (0, number),
        };
        let at = (down - self.first.0) * self.across + across - self.first.1;
        (self.scales[at], self.zeros[at])
    }
}

impl WeightReader<'_> {
    /// A block of the numbers that `weight`, a [`WeightExpr::DequantizeGroups`], makes of codes.
    pub(super) fn groups(
        &self,
        weight: &Weight,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let WeightExpr::DequantizeGroups { codes, scales, zeros, group } = weight.expr() else {
            unreachable!("recipes are told apart before")
        };
        let Block { rows, columns } = block;
        let step = (TILE / columns.len()).max(1);
        let mut numbers = vec![0.0; step.min(rows.len()) * columns.len()];
        for start in rows.clone().step_by(step) {
            let some = Block { rows: start..rows.end.min(start + step), columns: columns.clone() };
            let numbers = &mut numbers[..some.elements()];
            self.floats(codes, &some, numbers)?;
            let grids = self.grids(codes, scales, zeros, *group, &some)?;
            // A vector has a column: its numbers follow each other down.
            let width = if weight.shape().len() == 2 { row_elements(weight) } else { 1 };
            for (row, numbers) in some.rows.clone().zip(numbers.chunks_exact_mut(columns.len())) {
                let mut column = columns.start;
                while column < columns.end {
                    let (scale, zero) = grids.at(*group, width, scales.shape(), row, column);
                    let end = columns.end.min(run_end(*group, width, scales.shape(), row, column));
                    for number in &mut numbers[column - columns.start..end - columns.start] {
                        *number = (*number - zero) * scale;
                    }
                    column = end;
                }
            }
            sink(at + start - rows.start, &narrowed(DType::F32, numbers))?;
        }
        Ok(())
    }

    /// The codes that `weight`, a [`WeightExpr::DequantizeGroups`] of a scheme, has of the numbers of
    /// `block`, whose columns are whole blocks, and what they stand for, row by row.
    pub(super) fn group_codes(
        &self,
        weight: &Weight,
        block: &Block,
        grids: &mut [Grid],
        codes: &mut [u8],
    ) -> Result<(), ReadError> {
        let WeightExpr::DequantizeGroups { codes: stored, scales, zeros, group } = weight.expr() else {
            unreachable!("recipes are told apart before")
        };
        let Block { rows, columns } = block;
        let (width, blocks) = (row_elements(weight), columns.len().div_ceil(Scheme::BLOCK));
        let offset = code_offset(stored.dtype());
        let read = self.grids(stored, scales, zeros, *group, block)?;
        for (i, row) in rows.clone().enumerate() {
            for (n, grid) in grids[i * blocks..(i + 1) * blocks].iter_mut().enumerate() {
                let column = columns.start + n * Scheme::BLOCK;
                let (scale, zero) = read.at(*group, width, scales.shape(), row, column);
                *grid = Grid { scale, zero: (zero as i16 + i16::from(offset)) as u8 };
            }
        }
        let row_codes = blocks * Scheme::BLOCK;
        self.visit(stored, block, 0, &mut |row, bytes| {
            for (i, bytes) in bytes.chunks_exact(columns.len()).enumerate() {
                let out = &mut codes[(row + i) * row_codes..(row + i + 1) * row_codes];
                out.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte.wrapping_add(offset));
                let last = grids[(row + i + 1) * blocks - 1];
                out[columns.len()..].fill(last.zero);
            }
            Ok(())
        })
    }

    /// The scales and zeros that `block` of `codes` meets.
    fn grids(
        &self,
        codes: &Weight,
        scales: &Weight,
        zeros: &Zeros,
        group: Group,
        block: &Block,
    ) -> Result<Grids, ReadError> {
        let Block { rows, columns } = block;
        let met = match scales.shape() {
            [_, _] => Block { rows: met(rows, group.rows), columns: met(columns, group.columns) },
            _ => {
                let width = if codes.shape().len() == 2 { row_elements(codes) } else { 1 };
                let first = rows.start * width + columns.start;
                let end = (rows.end - 1) * width + columns.end;
                Block { rows: met(&(first..end), group.columns), columns: 0..1 }
            }
        };
        let mut grids = Grids {
            scales: vec![0.0; met.elements()],
            zeros: vec![0.0; met.elements()],
            first: (met.rows.start, met.columns.start),
            across: met.columns.len(),
        };
        if scales.shape().len() == 1 {
            grids.first = (0, met.rows.start);
        }
        self.floats(scales, &met, &mut grids.scales)?;
        match zeros {
            Zeros::Same(zero) => grids.zeros.fill(f32::from(*zero)),
            Zeros::Each(zeros) => self.floats(zeros, &met, &mut grids.zeros)?,
        }
        Ok(grids)
    }

    /// A block of the numbers that `codes` name in `table`.
    pub(super) fn lookup(
        &self,
        codes: &Weight,
        table: &Weight,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let mut numbers = vec![0.0; table.elements()];
        self.floats(table, &Block::whole(table), &mut numbers)?;
        self.visit(codes, block, at, &mut |row, codes| {
            let found: Vec<f32> = codes.iter().map(|code| numbers[usize::from(*code)]).collect();
            sink(row, &narrowed(DType::F32, &found))
        })
    }

    /// A block of the columns of `base` that `index` names.
    pub(super) fn gather_columns(
        &self,
        base: &Weight,
        index: &Weight,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let Block { rows, columns } = block;
        let (size, width) = (base.dtype().size(), row_elements(base));
        let mut numbers = vec![0.0; columns.len()];
        self.floats(index, &Block { rows: columns.clone(), columns: 0..1 }, &mut numbers)?;
        let numbers: Vec<usize> = numbers.iter().map(|number| *number as usize).collect();
        if let Some(number) = numbers.iter().find(|number| **number >= width) {
            return Err(ReadError::Column { recipe: index.to_string(), number: *number, columns: width });
        }
        let all = Block { rows: rows.clone(), columns: 0..width };
        self.visit(base, &all, at, &mut |row, bytes| {
            let gathered: Vec<u8> = bytes
                .chunks_exact(width * size)
                .flat_map(|row| numbers.iter().flat_map(move |n| &row[n * size..(n + 1) * size]))
                .copied()
                .collect();
            sink(row, &gathered)
        })
    }
}

/// The groups of `size` that `range` meets.
fn met(range: &Range<usize>, size: usize) -> Range<usize> {
    range.start / size..range.end.div_ceil(size)
}

/// The first column behind `column` that may have another scale.
fn run_end(group: Group, width: usize, scales: &[usize], row: usize, column: usize) -> usize {
    let first = if scales.len() == 1 { row * width } else { 0 };
    ((first + column) / group.columns + 1).saturating_mul(group.columns) - first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_scales_change() {
        let of = |columns| Group { rows: 1, columns };
        assert_eq!(run_end(of(32), 100, &[4, 4], 3, 40), 64);
        // Numbers 300 to 399 of groups of 64.
        assert_eq!(run_end(of(64), 100, &[7], 3, 0), 20);
        assert_eq!(run_end(of(64), 100, &[7], 3, 20), 84);
        assert_eq!(run_end(of(usize::MAX), 100, &[1], 3, 20), usize::MAX - 300);
    }
}
