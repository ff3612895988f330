//! What adapters add to weights, and the lengths that they give to rows.

use llamac_ir::weight::Weight;

use super::convert::widen;
use super::error::ReadError;
use super::reader::{Block, Sink, WeightReader, narrowed, row_count, row_elements};

impl WeightReader<'_> {
    /// A block of `base + scale · b · a`. Products are summed in double precision and in the order of the rank.
    #[expect(clippy::too_many_arguments, reason = "the members of one recipe, and where its rows go")]
    pub(super) fn add_low_rank(
        &self,
        base: &Weight,
        a: &Weight,
        b: &Weight,
        scale: f64,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let (rank, width) = (row_count(a), row_elements(a));
        let mut factor = vec![0.0; rank * width];
        self.rows(a, 0..rank, &mut factor)?;
        let mut values = vec![0.0; width];
        let mut weights = vec![0.0; rank];
        let mut sums = vec![0.0; width];
        for (i, row) in block.rows.clone().enumerate() {
            self.rows(base, row..row + 1, &mut values)?;
            self.rows(b, row..row + 1, &mut weights)?;
            sums.fill(-0.0);
            for (weight, factor) in weights.iter().zip(factor.chunks_exact(width.max(1))) {
                for (sum, factor) in sums.iter_mut().zip(factor) {
                    *sum += f64::from(*weight) * f64::from(*factor);
                }
            }
            for (value, sum) in values.iter_mut().zip(&sums) {
                *value = (f64::from(*value) + scale * sum) as f32;
            }
            sink(at + i, &narrowed(base.dtype(), &values[block.columns.clone()]))?;
        }
        Ok(())
    }

    /// A block of the sum of `parts`, row by row.
    pub(super) fn sum(
        &self,
        parts: &[Weight],
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let mut sums = vec![0.0; block.columns.len()];
        let mut values = vec![0.0; block.columns.len()];
        for (i, row) in block.rows.clone().enumerate() {
            let block = Block { rows: row..row + 1, columns: block.columns.clone() };
            self.floats(&parts[0], &block, &mut sums)?;
            for part in &parts[1..] {
                self.floats(part, &block, &mut values)?;
                sums.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
            }
            sink(at + i, &narrowed(parts[0].dtype(), &sums))?;
        }
        Ok(())
    }

    /// A block of `base` with rows of the lengths `norms`. Squares are summed in double precision and in order.
    pub(super) fn set_row_norms(
        &self,
        base: &Weight,
        norms: &Weight,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let mut lengths = vec![0.0; block.rows.len()];
        self.rows(norms, block.rows.clone(), &mut lengths)?;
        let (width, size) = (row_elements(base), base.dtype().size());
        let mut values = vec![0.0; width];
        self.visit(base, &Block::rows(base, block.rows.clone()), 0, &mut |first, bytes| {
            bytes.chunks_exact(width * size).enumerate().try_for_each(|(i, row)| {
                widen(base.dtype(), row, &mut values);
                let squares: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
                let factor = f64::from(lengths[first + i]) / squares.sqrt();
                for value in &mut values {
                    *value = (f64::from(*value) * factor) as f32;
                }
                sink(at + first + i, &narrowed(base.dtype(), &values[block.columns.clone()]))
            })
        })
    }
}
