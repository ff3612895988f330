//! The evaluation of recipes by rows.

use std::ops::Range;

use llamac_ir::weight::{FrequencySet, Weight, WeightExpr};
use llamac_ir::{DType, WeightSource, frequencies};
use llamac_plan::diagnostic::{Code, Diagnostic};
use ndarray::{ArrayD, IxDyn};

use super::convert::{narrow, widen};
use crate::source::Checkpoint;

/// Rows of the operand of a transposition that are evaluated at once.
const TRANSPOSED_ROWS: usize = 16;

/// Why a recipe cannot be read from a checkpoint. Recipes are made from the checkpoint's own tensors, so that none of
/// these depends on a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The checkpoint has no such tensor.
    #[error("weight `{tensor}`: the checkpoint has no such tensor")]
    Missing {
        /// Its name in the recipe.
        tensor: String,
    },
    /// The checkpoint's tensor has another type than the recipe says.
    #[error("weight `{tensor}`: the recipe says {expected}, the checkpoint has {found}")]
    Type {
        /// Its name in the recipe.
        tensor: String,
        /// The type in the recipe.
        expected: String,
        /// The type in the checkpoint.
        found: String,
    },
    /// The rows that are asked for are not there, or do not fill the output.
    #[error("weight `{recipe}`: rows {start} to {end} of {rows}, into {length} {unit}")]
    Rows {
        /// The recipe.
        recipe: String,
        /// The first row asked for.
        start: usize,
        /// The end of the rows asked for.
        end: usize,
        /// The rows that there are.
        rows: usize,
        /// The length of the output.
        length: usize,
        /// What the output counts.
        unit: &'static str,
    },
}

impl From<ReadError> for Diagnostic {
    fn from(error: ReadError) -> Self {
        Self::new(Code::InvalidGraph).message(error.to_string())
    }
}

/// Gives the rows of recipes. Rows are slices along the first dimension; those of a vector have one element.
///
/// It can be used from several threads at once.
#[derive(Clone, Copy, Debug)]
pub struct WeightReader<'a> {
    checkpoint: &'a Checkpoint,
}

/// Takes rows as they come: the position of the first one in the output, and their bytes in the recipe's dtype.
type Sink<'s> = dyn FnMut(usize, &[u8]) + 's;

impl<'a> WeightReader<'a> {
    /// Reads from `checkpoint`.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint }
    }

    /// The elements of `rows`, widened to single precision: exact for f16 and bf16.
    ///
    /// # Errors
    /// Where the recipe does not fit the checkpoint, or `rows` or `out` do not fit the recipe.
    pub fn rows(&self, weight: &Weight, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        let elements = row_elements(weight);
        check(weight, &rows, elements, out.len(), "elements")?;
        let size = weight.dtype().size();
        self.visit(weight, rows, 0, &mut |row, bytes| {
            let start = row * elements;
            widen(weight.dtype(), bytes, &mut out[start..start + bytes.len() / size]);
        })
    }

    /// The elements of `rows` in the weight's own dtype, little-endian: stored bytes as they are, wherever a recipe
    /// only chooses rows; computed values rounded to nearest.
    ///
    /// # Errors
    /// As [`WeightReader::rows`].
    pub fn rows_bytes(&self, weight: &Weight, rows: Range<usize>, out: &mut [u8]) -> Result<(), ReadError> {
        let size = row_elements(weight) * weight.dtype().size();
        check(weight, &rows, size, out.len(), "bytes")?;
        self.visit(weight, rows, 0, &mut |row, bytes| {
            let start = row * size;
            out[start..start + bytes.len()].copy_from_slice(bytes);
        })
    }

    /// The whole weight, widened to single precision.
    ///
    /// # Errors
    /// As [`WeightReader::rows`].
    pub fn tensor(&self, weight: &Weight) -> Result<ArrayD<f32>, ReadError> {
        let mut data = vec![0.0; weight.elements()];
        self.rows(weight, 0..weight.shape().first().copied().unwrap_or(1), &mut data)?;
        Ok(ArrayD::from_shape_vec(IxDyn(weight.shape()), data).expect("as many elements as the shape has"))
    }

    /// Gives `rows` of `weight`, of which the first is row `at` of the output, to `sink`; in any order, each once.
    fn visit(
        &self,
        weight: &Weight,
        rows: Range<usize>,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        if rows.is_empty() {
            return Ok(());
        }
        match weight.expr() {
            WeightExpr::Source { tensor, .. } => {
                let size = row_elements(weight) * weight.dtype().size();
                sink(at, &self.source(weight, tensor)?[rows.start * size..rows.end * size]);
                Ok(())
            }
            WeightExpr::Concat { parts } => {
                let mut first = 0;
                for part in parts {
                    let end = first + row_count(part);
                    let (start, stop) = (rows.start.max(first), rows.end.min(end));
                    if start < stop {
                        self.visit(part, start - first..stop - first, at + start - rows.start, sink)?;
                    }
                    first = end;
                }
                Ok(())
            }
            WeightExpr::Slice { base, start, .. } => {
                self.visit(base, start + rows.start..start + rows.end, at, sink)
            }
            WeightExpr::Permute { base, order } => {
                let first = rows.start;
                rows.into_iter().try_for_each(|row| {
                    let source = order.source_row(row);
                    self.visit(base, source..source + 1, at + row - first, sink)
                })
            }
            WeightExpr::Transpose { base } => {
                sink(at, &self.transposed(base, rows)?);
                Ok(())
            }
            WeightExpr::AddLowRank { base, a, b, scale } => {
                self.add_low_rank(base, a, b, scale.get(), rows, at, sink)
            }
            WeightExpr::InvFreq { theta, head_dim, scaling, set } => {
                let long = *set == FrequencySet::Long;
                let all = frequencies::inverse(*theta, *head_dim, scaling, long);
                sink(at, &narrowed(DType::F32, &all[rows]));
                Ok(())
            }
            WeightExpr::Convert { base, dtype } => {
                let mut values = Vec::new();
                self.visit(base, rows, at, &mut |row, bytes| {
                    values.resize(bytes.len() / base.dtype().size(), 0.0);
                    widen(base.dtype(), bytes, &mut values);
                    sink(row, &narrowed(*dtype, &values));
                })
            }
            WeightExpr::Literal { dtype, values, .. } => {
                let elements = row_elements(weight);
                let values = &values[rows.start * elements..rows.end * elements];
                let values: Vec<f32> = values.iter().map(|value| value.f32()).collect();
                sink(at, &narrowed(*dtype, &values));
                Ok(())
            }
        }
    }

    /// The bytes of a tensor, checked against the recipe's type.
    fn source(&self, weight: &Weight, tensor: &str) -> Result<&'a [u8], ReadError> {
        let found = self.checkpoint.tensor(tensor).zip(self.checkpoint.bytes(tensor));
        let Some((info, bytes)) = found else { return Err(ReadError::Missing { tensor: tensor.to_owned() }) };
        if info.dtype != weight.dtype() || info.shape != weight.shape() {
            return Err(ReadError::Type {
                tensor: tensor.to_owned(),
                expected: format!("{}{:?}", weight.dtype(), weight.shape()),
                found: format!("{}{:?}", info.dtype, info.shape),
            });
        }
        Ok(bytes)
    }

    /// Some columns of the matrix `base`, as rows.
    fn transposed(&self, base: &Weight, columns: Range<usize>) -> Result<Vec<u8>, ReadError> {
        let (size, height, width) = (base.dtype().size(), row_count(base), row_elements(base));
        let mut out = vec![0; columns.len() * height * size];
        let mut scatter = |first: usize, bytes: &[u8]| {
            for (row, bytes) in bytes.chunks_exact(width * size).enumerate() {
                for (i, column) in columns.clone().enumerate() {
                    let to = (i * height + first + row) * size;
                    out[to..to + size].copy_from_slice(&bytes[column * size..(column + 1) * size]);
                }
            }
        };
        for start in (0..height).step_by(TRANSPOSED_ROWS) {
            let end = height.min(start + TRANSPOSED_ROWS);
            self.visit(base, start..end, start, &mut scatter)?;
        }
        Ok(out)
    }

    /// Rows of `base + scale · b · a`. Products are summed in double precision and in the order of the rank.
    #[expect(clippy::too_many_arguments, reason = "the members of one recipe, and where its rows go")]
    fn add_low_rank(
        &self,
        base: &Weight,
        a: &Weight,
        b: &Weight,
        scale: f64,
        rows: Range<usize>,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let (rank, width) = (row_count(a), row_elements(a));
        let mut factor = vec![0.0; rank * width];
        self.rows(a, 0..rank, &mut factor)?;
        let mut values = vec![0.0; width];
        let mut weights = vec![0.0; rank];
        let mut sums = vec![0.0; width];
        let first = rows.start;
        for row in rows {
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
            sink(at + row - first, &narrowed(base.dtype(), &values));
        }
        Ok(())
    }
}

impl WeightSource for WeightReader<'_> {
    fn load(&self, weight: &Weight) -> Result<ArrayD<f32>, String> {
        self.tensor(weight).map_err(|error| error.to_string())
    }
}

fn narrowed(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.size()];
    narrow(dtype, values, &mut bytes);
    bytes
}

/// Rows of a weight; a scalar is one.
fn row_count(weight: &Weight) -> usize {
    weight.shape().first().copied().unwrap_or(1)
}

/// Elements of a row.
fn row_elements(weight: &Weight) -> usize {
    weight.shape().iter().skip(1).product()
}

fn check(
    weight: &Weight,
    rows: &Range<usize>,
    row: usize,
    length: usize,
    unit: &'static str,
) -> Result<(), ReadError> {
    let count = row_count(weight);
    let fits = rows.start <= rows.end && rows.end <= count && (rows.end - rows.start) * row == length;
    if fits {
        return Ok(());
    }
    let Range { start, end } = *rows;
    Err(ReadError::Rows { recipe: weight.to_string(), start, end, rows: count, length, unit })
}

#[cfg(test)]
mod tests;
