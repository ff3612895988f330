//! What adapters add to weights, and the lengths that they give to rows.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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
        let (rank, width) = (row_count(a), block.columns.len());
        let of = |rows: Range<usize>| Block { rows, columns: block.columns.clone() };
        let mut factor = vec![0.0; rank * width];
        self.floats(a, &of(0..rank), &mut factor)?;
        let mut values = vec![0.0; width];
        let mut weights = vec![0.0; rank];
        let mut sums = vec![0.0; width];
        for (i, row) in block.rows.clone().enumerate() {
            self.floats(base, &of(row..row + 1), &mut values)?;
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
            if let Some(value) = values.iter().copied().find(|value| !value.is_finite()) {
                return Err(self.overflow_of(&[a, b, base], row, "f32", value));
            }
            sink(at + i, &narrowed(base.dtype(), &values))?;
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
        let Block { rows, columns } = block;
        let mut lengths = vec![0.0; rows.len()];
        self.rows(norms, rows.clone(), &mut lengths)?;
        // Whoever reads some columns goes through all of them: the lengths of whole rows are found once.
        let known = match columns.len() == row_elements(base) {
            true => None,
            false => Some(self.checkpoint().row_norms.get(base, || self.row_norms(base))?),
        };
        let (width, size) = (columns.len(), base.dtype().size());
        let mut values = vec![0.0; width];
        self.visit(base, block, 0, &mut |row, bytes| {
            bytes.chunks_exact(width * size).enumerate().try_for_each(|(i, bytes)| {
                widen(base.dtype(), bytes, &mut values);
                let length =
                    known.as_ref().map_or_else(|| norm(&values), |known| known[rows.start + row + i]);
                let factor = f64::from(lengths[row + i]) / length;
                for value in &mut values {
                    *value = (f64::from(*value) * factor) as f32;
                }
                sink(at + row + i, &narrowed(base.dtype(), &values))
            })
        })
    }

    /// The lengths of all rows of `base`.
    fn row_norms(&self, base: &Weight) -> Result<Vec<f64>, ReadError> {
        let mut values = vec![0.0; row_elements(base)];
        let each = |row| self.rows(base, row..row + 1, &mut values).map(|()| norm(&values));
        (0..row_count(base)).map(each).collect()
    }
}

/// The length of a row.
fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// The lengths of rows of the matrices that were asked for last, which several threads read the columns of.
#[derive(Debug, Default)]
pub(crate) struct RowNorms(Mutex<VecDeque<(Weight, Slot)>>);

type Slot = Arc<OnceLock<Result<Arc<Vec<f64>>, ReadError>>>;

impl RowNorms {
    /// Matrices that are remembered: memory does not grow with the model.
    const KEPT: usize = 4;

    /// Those of `matrix`, by `find` where they are not known yet.
    fn get(
        &self,
        matrix: &Weight,
        find: impl FnOnce() -> Result<Vec<f64>, ReadError>,
    ) -> Result<Arc<Vec<f64>>, ReadError> {
        let slot = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match known.iter().find(|(known, _)| known == matrix) {
                Some((_, slot)) => Arc::clone(slot),
                None => {
                    let slot = Slot::default();
                    known.truncate(Self::KEPT - 1);
                    known.push_front((matrix.clone(), Arc::clone(&slot)));
                    slot
                }
            }
        };
        slot.get_or_init(|| find().map(Arc::new)).clone()
    }
}
