//! Integers of a few bits out of words.

use llamac_ir::weight::{PackOrder, Packing, Weight};

use super::error::ReadError;
use super::reader::{Block, Sink, WeightReader, row_elements};

impl WeightReader<'_> {
    /// A block of the integers that `base` holds.
    pub(super) fn unpack(
        &self,
        base: &Weight,
        packing: Packing,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let Block { rows, columns } = block;
        if packing.order == PackOrder::Down {
            return self.unpack_down(base, packing, block, at, sink);
        }
        let mut integers = vec![0; columns.len()];
        let stored = Block { rows: rows.clone(), columns: packing.bytes(columns, row_elements(base)) };
        self.visit(base, &stored, 0, &mut |row, bytes| {
            bytes.chunks_exact(stored.columns.len()).enumerate().try_for_each(|(i, bytes)| {
                packing.unpack(bytes, columns, &mut integers);
                sink(at + row + i, &integers)
            })
        })
    }

    fn unpack_down(
        &self,
        base: &Weight,
        packing: Packing,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let Block { rows, columns } = block;
        let stored = Block { rows: packing.words(rows), columns: 4 * columns.start..4 * columns.end };
        let width = stored.columns.len();
        let mut words = vec![0; stored.elements()];
        self.visit(base, &stored, 0, &mut |row, bytes| {
            words[row * width..row * width + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        let mut integers = vec![0; columns.len()];
        rows.clone().enumerate().try_for_each(|(i, row)| {
            packing.unpack_down(&words, stored.rows.start, row, &mut integers);
            sink(at + i, &integers)
        })
    }
}
