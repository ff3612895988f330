//! Rows that are stored in blocks: only those blocks are read that a tile meets.

use std::ops::Range;

use llamac_ir::weight::{BlockFormat, Grid, Scheme, Weight};

use super::error::ReadError;
use super::reader::{Block, WeightReader};

/// Takes rows as they come: the number of a row, and its numbers.
type NumberSink<'s> = dyn FnMut(usize, &[f32]) -> Result<(), ReadError> + 's;

impl WeightReader<'_> {
    /// Gives the numbers of each row of `block` to `each`, with the number of the row from the first on. `base` holds the
    /// blocks.
    pub(super) fn blocks(
        &self,
        base: &Weight,
        format: BlockFormat,
        block: &Block,
        each: &mut NumberSink<'_>,
    ) -> Result<(), ReadError> {
        let Block { rows, columns } = block;
        let first = columns.start / format.numbers();
        let stored = first..columns.end.div_ceil(format.numbers());
        let mut values = vec![0.0; stored.len() * format.numbers()];
        let skipped = columns.start - first * format.numbers();
        let row_bytes = stored.len() * format.bytes();
        self.visit(base, &stored_block(rows.clone(), &stored, format), 0, &mut |row, bytes| {
            bytes.chunks_exact(row_bytes).enumerate().try_for_each(|(i, bytes)| {
                format.dequantize(bytes, &mut values);
                each(row + i, &values[skipped..skipped + columns.len()])
            })
        })
    }

    /// The codes that `base` holds of the numbers of `block`, whose columns are whole blocks of a [`Scheme`], and what they
    /// stand for, row by row.
    pub(super) fn block_codes(
        &self,
        base: &Weight,
        format: BlockFormat,
        block: &Block,
        grids: &mut [Grid],
        codes: &mut [u8],
    ) -> Result<(), ReadError> {
        let Block { rows, columns } = block;
        let stored = columns.start / Scheme::BLOCK..columns.end.div_ceil(Scheme::BLOCK);
        let codes = codes.as_chunks_mut().0;
        self.visit(base, &stored_block(rows.clone(), &stored, format), 0, &mut |row, bytes| {
            let start = row * stored.len();
            let places = grids[start..].iter_mut().zip(&mut codes[start..]);
            for (block, (grid, codes)) in bytes.chunks_exact(format.bytes()).zip(places) {
                *grid = format.codes(block, codes).expect("the recipe carries this scheme");
            }
            Ok(())
        })
    }
}

/// Where `blocks` of `rows` are.
fn stored_block(rows: Range<usize>, blocks: &Range<usize>, format: BlockFormat) -> Block {
    Block { rows, columns: blocks.start * format.bytes()..blocks.end * format.bytes() }
}
