//! The evaluation of recipes by rows.

use std::ops::Range;

use llamac_ir::weight::{FrequencySet, Grid, QuantizedPart, Scheme, Weight, WeightExpr};
use llamac_ir::{DType, WeightSource, frequencies};
use ndarray::{ArrayD, IxDyn};

use super::convert::{convert, narrow, widen};
use super::error::ReadError;
use crate::source::Checkpoint;

/// Bytes of rows that are put together from columns of several weights at a time, at least one row.
const TILE: usize = 1 << 18;

/// Bytes of neighbours that a transposition writes at once: a line of the processor's cache.
const LINE: usize = 64;

/// Some rows of a weight, and some columns of these: elements within a row. A vector has one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The rows.
    pub rows: Range<usize>,
    /// The columns.
    pub columns: Range<usize>,
}

impl Block {
    /// All of `weight`.
    pub fn whole(weight: &Weight) -> Self {
        Self::rows(weight, 0..row_count(weight))
    }

    /// All of `rows`.
    pub fn rows(weight: &Weight, rows: Range<usize>) -> Self {
        Self { rows, columns: 0..row_elements(weight) }
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    fn is_in(&self, weight: &Weight) -> bool {
        let within = |range: &Range<usize>, end| range.start <= range.end && range.end <= end;
        within(&self.rows, row_count(weight)) && within(&self.columns, row_elements(weight))
    }
}

/// Gives the rows of recipes. Rows are slices along the first dimension; those of a vector have one element.
///
/// It can be used from several threads at once.
#[derive(Clone, Copy, Debug)]
pub struct WeightReader<'a> {
    checkpoint: &'a Checkpoint,
}

/// Takes the rows of a block as they come: the position of the first one in the block, and their bytes in the recipe's
/// dtype.
pub(super) type Sink<'s> = dyn FnMut(usize, &[u8]) -> Result<(), ReadError> + 's;

/// Takes quantized rows as they come: the position of a row, its grids, and the codes of its blocks.
type QuantizedSink<'s> = dyn FnMut(usize, &[Grid], &[u8]) -> Result<(), ReadError> + 's;

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
        let block = Block::rows(weight, rows);
        check(weight, &block, out.len() == block.elements(), out.len(), "elements")?;
        self.floats(weight, &block, out)
    }

    /// The elements of `block` as `dtype`, little-endian, row after row: in the recipe's own dtype, stored bytes as they
    /// are; in another, and where values are computed, rounded to nearest.
    ///
    /// # Errors
    /// As [`WeightReader::rows`], and for a finite number that would become infinite.
    pub fn read(
        &self,
        weight: &Weight,
        block: &Block,
        dtype: DType,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        check(weight, block, out.len() == block.elements() * dtype.size(), out.len(), "bytes")?;
        let (width, from, to) = (block.columns.len(), weight.dtype(), dtype.size());
        self.visit(weight, block, 0, &mut |row, bytes| {
            let start = row * width * to;
            let out = &mut out[start..start + bytes.len() / from.size() * to];
            self.converted(weight, block.rows.start + row, bytes, dtype, out)
        })
    }

    /// The whole weight, widened to single precision.
    ///
    /// # Errors
    /// As [`WeightReader::rows`].
    pub fn tensor(&self, weight: &Weight) -> Result<ArrayD<f32>, ReadError> {
        let mut data = vec![0.0; weight.elements()];
        self.rows(weight, 0..row_count(weight), &mut data)?;
        Ok(ArrayD::from_shape_vec(IxDyn(weight.shape()), data).expect("as many elements as the shape has"))
    }

    /// The elements of `block`, widened.
    pub(super) fn floats(&self, weight: &Weight, block: &Block, out: &mut [f32]) -> Result<(), ReadError> {
        let (width, size) = (block.columns.len(), weight.dtype().size());
        self.visit(weight, block, 0, &mut |row, bytes| {
            let start = row * width;
            widen(weight.dtype(), bytes, &mut out[start..start + bytes.len() / size]);
            Ok(())
        })
    }

    /// Gives `block` of `weight`, of which the first row is row `at` of the output, to `sink`; in any order, each row
    /// once.
    pub(super) fn visit(
        &self,
        weight: &Weight,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let Block { rows, columns } = block;
        if block.elements() == 0 {
            return Ok(());
        }
        let within = |rows: Range<usize>| Block { rows, columns: columns.clone() };
        match weight.expr() {
            WeightExpr::Source { tensor, .. } => {
                let (size, width) = (weight.dtype().size(), row_elements(weight));
                let (bytes, strides) = self.source(weight, tensor)?;
                if let Some(strides) = strides {
                    return gather(bytes, strides, size, block, at, sink);
                }
                if columns.len() == width {
                    return sink(at, &bytes[rows.start * width * size..rows.end * width * size]);
                }
                rows.clone().enumerate().try_for_each(|(i, row)| {
                    let [start, end] = [columns.start, columns.end].map(|c| (row * width + c) * size);
                    sink(at + i, &bytes[start..end])
                })
            }
            WeightExpr::Concat { parts } => {
                let mut first = 0;
                for part in parts {
                    let end = first + row_count(part);
                    let (start, stop) = (rows.start.max(first), rows.end.min(end));
                    if start < stop {
                        let block = within(start - first..stop - first);
                        self.visit(part, &block, at + start - rows.start, sink)?;
                    }
                    first = end;
                }
                Ok(())
            }
            WeightExpr::ConcatColumns { parts } => self.concat_columns(weight, parts, block, at, sink),
            WeightExpr::Slice { base, start, .. } => {
                self.visit(base, &within(start + rows.start..start + rows.end), at, sink)
            }
            WeightExpr::ReplaceRows { base, new, rows: replaced, by } => {
                let mut next = rows.start;
                let first = replaced.partition_point(|row| *row < rows.start);
                let met = replaced.iter().zip(by).skip(first).take_while(|(row, _)| **row < rows.end);
                for (&row, &by) in met {
                    self.visit(base, &within(next..row), at + next - rows.start, sink)?;
                    self.visit(new, &within(by..by + 1), at + row - rows.start, sink)?;
                    next = row + 1;
                }
                self.visit(base, &within(next..rows.end), at + next - rows.start, sink)
            }
            WeightExpr::Permute { base, order } => rows.clone().enumerate().try_for_each(|(i, row)| {
                let source = order.source_row(row);
                self.visit(base, &within(source..source + 1), at + i, sink)
            }),
            WeightExpr::Transpose { base } => {
                let block = Block { rows: columns.clone(), columns: rows.clone() };
                let transposed = match weight.dtype() {
                    DType::Bool | DType::U8 | DType::I8 | DType::F8E4M3 => self.transposed::<1>(base, &block),
                    DType::F16 | DType::BF16 => self.transposed::<2>(base, &block),
                    DType::F32 | DType::I32 => self.transposed::<4>(base, &block),
                    DType::I64 => self.transposed::<8>(base, &block),
                };
                sink(at, &transposed?)
            }
            WeightExpr::AddLowRank { base, a, b, scale } => {
                self.add_low_rank(base, a, b, scale.get(), block, at, sink)
            }
            WeightExpr::Sum { parts } => self.sum(parts, block, at, sink),
            WeightExpr::Scale { base, factor } => {
                self.mapped(base, &|value| value * factor.get(), block, at, sink)
            }
            WeightExpr::Offset { base, term } => {
                self.mapped(base, &|value| value + term.get(), block, at, sink)
            }
            WeightExpr::SetRowNorms { base, norms } => self.set_row_norms(base, norms, block, at, sink),
            WeightExpr::InvFreq { theta, head_dim, scaling, set } => {
                let long = *set == FrequencySet::Long;
                let all = frequencies::inverse(*theta, *head_dim, scaling, long);
                sink(at, &narrowed(DType::F32, &all[rows.clone()]))
            }
            WeightExpr::Convert { base, dtype } => {
                let mut converted = Vec::new();
                self.visit(base, block, at, &mut |row, bytes| {
                    converted.resize(bytes.len() / base.dtype().size() * dtype.size(), 0);
                    self.converted(base, rows.start + row - at, bytes, *dtype, &mut converted)?;
                    sink(row, &converted)
                })
            }
            WeightExpr::Quantize { .. } => self.dequantized(weight, block, at, sink),
            WeightExpr::QuantizedPart { of, part } => self.quantized_part(of, *part, block, at, sink),
            WeightExpr::PackNibbles { base } => {
                let two = columns.start * 2..row_elements(base).min(columns.end * 2);
                let block = Block { rows: rows.clone(), columns: two };
                let width = block.columns.len();
                self.visit(base, &block, at, &mut |row, codes| {
                    let pack = |pair: &[u8]| pair[0] | pair.get(1).map_or(0, |high| high << 4);
                    let packed = codes.chunks(width).flat_map(|row| row.chunks(2)).map(pack);
                    sink(row, &packed.collect::<Vec<u8>>())
                })
            }
            WeightExpr::Dequantize { base, format } => self
                .blocks(base, *format, block, &mut |i, values| sink(at + i, &narrowed(DType::F32, values))),
            WeightExpr::DequantizeGroups { .. } => self.groups(weight, block, at, sink),
            WeightExpr::Unpack { base, packing } => self.unpack(base, *packing, block, at, sink),
            WeightExpr::Lookup { codes, table } => self.lookup(codes, table, block, at, sink),
            WeightExpr::GatherColumns { base, index } => self.gather_columns(base, index, block, at, sink),
            WeightExpr::Literal { dtype, values, .. } => {
                let width = row_elements(weight);
                let rows = rows.clone().flat_map(|row| &values[row * width..][columns.clone()]);
                let bytes: Vec<u8> = match dtype {
                    // Single precision does not hold every integer.
                    DType::I64 => rows.flat_map(|value| (value.get() as i64).to_le_bytes()).collect(),
                    DType::I32 => rows.flat_map(|value| (value.get() as i32).to_le_bytes()).collect(),
                    _ => narrowed(*dtype, &rows.map(|value| value.f32()).collect::<Vec<_>>()),
                };
                sink(at, &bytes)
            }
        }
    }

    /// A block of what `map` makes of the numbers of `base`, in double precision.
    fn mapped(
        &self,
        base: &Weight,
        map: &dyn Fn(f64) -> f64,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let mut values = Vec::new();
        self.visit(base, block, at, &mut |row, bytes| {
            values.resize(bytes.len() / base.dtype().size(), 0.0);
            widen(base.dtype(), bytes, &mut values);
            values.iter_mut().for_each(|value| *value = map(f64::from(*value)) as f32);
            sink(row, &narrowed(base.dtype(), &values))
        })
    }

    /// A block of what quantization leaves of a matrix.
    fn dequantized(
        &self,
        of: &Weight,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let columns = &block.columns;
        let skipped = columns.start % Scheme::BLOCK;
        self.quantized(of, block, &mut |i, grids, codes| {
            let blocks = grids.iter().zip(codes.as_chunks::<{ Scheme::BLOCK }>().0);
            let values: Vec<f32> =
                blocks.flat_map(|(grid, codes)| codes.map(|code| grid.decode(code))).collect();
            sink(at + i, &narrowed(DType::F32, &values[skipped..skipped + columns.len()]))
        })
    }

    /// A block of matrices side by side, a tile of its rows at a time.
    fn concat_columns(
        &self,
        weight: &Weight,
        parts: &[Weight],
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let Block { rows, columns } = block;
        let size = weight.dtype().size();
        let width = columns.len() * size;
        let step = (TILE / width).max(1);
        let mut tile = vec![0; step.min(rows.len()) * width];
        for start in rows.clone().step_by(step) {
            let some = start..rows.end.min(start + step);
            let tile = &mut tile[..some.len() * width];
            let mut first = 0;
            for part in parts {
                let end = first + row_elements(part);
                let (from, to) = (columns.start.max(first), columns.end.min(end));
                if from < to {
                    let block = Block { rows: some.clone(), columns: from - first..to - first };
                    let (place, length) = ((from - columns.start) * size, (to - from) * size);
                    self.visit(part, &block, 0, &mut |row, bytes| {
                        let lines = tile[row * width..].chunks_exact_mut(width);
                        for (line, piece) in lines.zip(bytes.chunks_exact(length)) {
                            line[place..place + length].copy_from_slice(piece);
                        }
                        Ok(())
                    })?;
                }
                first = end;
            }
            sink(at + start - rows.start, tile)?;
        }
        Ok(())
    }

    /// A block of what the quantized matrix `of` is stored as.
    fn quantized_part(
        &self,
        of: &Weight,
        part: QuantizedPart,
        block: &Block,
        at: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let columns = &block.columns;
        if let (QuantizedPart::Zeros, Some(zero)) = (part, of.scheme().and_then(Scheme::zero)) {
            return sink(at, &vec![zero; block.elements()]);
        }
        let numbers = match part {
            QuantizedPart::Codes => columns.clone(),
            QuantizedPart::Scales | QuantizedPart::Zeros => {
                columns.start * Scheme::BLOCK..columns.end * Scheme::BLOCK
            }
        };
        let numbers = Block { rows: block.rows.clone(), columns: numbers };
        self.quantized(of, &numbers, &mut |i, grids, codes| match part {
            QuantizedPart::Codes => {
                let skipped = columns.start % Scheme::BLOCK;
                sink(at + i, &codes[skipped..skipped + columns.len()])
            }
            QuantizedPart::Scales => {
                let scales: Vec<f32> = grids.iter().map(|grid| grid.scale).collect();
                sink(at + i, &narrowed(DType::F32, &scales))
            }
            QuantizedPart::Zeros => sink(at + i, &grids.iter().map(|grid| grid.zero).collect::<Vec<u8>>()),
        })
    }

    /// The codes of `block` of the quantized matrix `of` and what they stand for, row by row: its number from the first
    /// of the block on, a grid for each block of codes, and as many codes as these have room for. The columns may go
    /// beyond the last one, and are widened to whole blocks.
    ///
    /// # Errors
    /// As [`WeightReader::rows`], and for a number that is not finite.
    pub(crate) fn quantized(
        &self,
        of: &Weight,
        block: &Block,
        each: &mut QuantizedSink<'_>,
    ) -> Result<(), ReadError> {
        let WeightExpr::Quantize { base, scheme } = of.expr() else {
            unreachable!("parts are of quantized weights")
        };
        let Block { rows, columns } = block;
        let first = columns.start / Scheme::BLOCK * Scheme::BLOCK;
        let end = row_elements(base).min(columns.end.next_multiple_of(Scheme::BLOCK));
        let (width, blocks) = (end - first, (end - first).div_ceil(Scheme::BLOCK));
        let step = (TILE / (width * DType::F32.size())).max(1);
        let mut values = vec![0.0; width * step.min(rows.len())];
        let mut grids = vec![Grid { scale: 0.0, zero: 0 }; blocks * step.min(rows.len())];
        let mut codes = vec![0; grids.len() * Scheme::BLOCK];
        let mut start = rows.start;
        while start < rows.end {
            let (count, carried) = run(base, start..rows.end.min(start + step), *scheme);
            let some = Block { rows: start..start + count, columns: first..end };
            let (grids, codes) = (&mut grids[..count * blocks], &mut codes[..count * blocks * Scheme::BLOCK]);
            if let Some((stored, row)) = carried {
                let block = Block { rows: row..row + count, columns: first..end };
                match stored.expr() {
                    WeightExpr::Dequantize { base, format } => {
                        self.block_codes(base, *format, &block, grids, codes)?;
                    }
                    _ => self.group_codes(stored, &block, grids, codes)?,
                }
            }
            let is_stored = |grid: &Grid| carried.is_some() && scheme.holds(*grid);
            if !grids.iter().all(is_stored) {
                let values = &mut values[..some.elements()];
                self.floats(base, &some, values)?;
                let codes = codes.as_chunks_mut().0.chunks_mut(blocks).zip(grids.chunks_mut(blocks));
                for (i, (values, (codes, grids))) in values.chunks(width).zip(codes).enumerate() {
                    for ((values, codes), grid) in values.chunks(Scheme::BLOCK).zip(codes).zip(grids) {
                        if is_stored(grid) {
                            continue;
                        }
                        *grid = scheme.quantize(values, codes);
                        if !grid.scale.is_finite() {
                            let larger = |a: f32, b: f32| if b.is_nan() || b.abs() > a.abs() { b } else { a };
                            let value = values.iter().copied().fold(0.0, larger);
                            return Err(self.overflow(base, start + i, scheme.name(), value));
                        }
                    }
                }
            }
            if let Some(at) = grids.iter().position(|grid| !grid.scale.is_finite()) {
                return Err(self.overflow(base, start + at / blocks, scheme.name(), grids[at].scale));
            }
            let rows_of = grids.chunks(blocks).zip(codes.chunks(blocks * Scheme::BLOCK));
            for (row, (grids, codes)) in (start - rows.start..).zip(rows_of) {
                each(row, grids, codes)?;
            }
            start += count;
        }
        Ok(())
    }

    /// [`convert`] for rows of `weight` from `row` on.
    fn converted(
        &self,
        weight: &Weight,
        row: usize,
        bytes: &[u8],
        dtype: DType,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        convert(weight.dtype(), bytes, dtype, out)
            .map_err(|value| self.overflow(weight, row, dtype.name(), value))
    }

    /// What is read from.
    pub(super) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The fault of `value` in `row` of `weight`.
    fn overflow(&self, weight: &Weight, row: usize, format: &'static str, value: f32) -> ReadError {
        self.overflow_of(&[weight], row, format, value)
    }

    /// The fault of `value`, which was computed from `row` of `weights`: at the tensor that holds a number which is not
    /// finite, if one does, or else at that of the first of them.
    pub(super) fn overflow_of(
        &self,
        weights: &[&Weight],
        row: usize,
        format: &'static str,
        value: f32,
    ) -> ReadError {
        let place = |tensor: &str| match self.checkpoint.tensor(tensor) {
            Some(info) => format!("{}: {tensor}", info.file),
            None => tensor.to_owned(),
        };
        let mut sources = Vec::new();
        if !value.is_finite() {
            weights
                .iter()
                .for_each(|weight| weight.for_each_source(&mut |of, tensor| sources.push((of, tensor))));
        }
        let culprit = sources.into_iter().find_map(|(of, tensor)| Some((tensor, self.not_finite(of)?)));
        match culprit {
            Some((tensor, value)) => ReadError::NotFinite { place: place(tensor), value },
            None => {
                let first = source_of(weights[0], row).map_or_else(|| weights[0].to_string(), place);
                ReadError::Overflow { place: first, format, value }
            }
        }
    }

    /// The first number of a tensor that is not finite.
    fn not_finite(&self, tensor: &Weight) -> Option<f32> {
        if !(tensor.dtype().is_float() || tensor.dtype() == DType::F8E4M3) {
            return None;
        }
        let mut numbers = vec![0.0; row_elements(tensor)];
        (0..row_count(tensor)).find_map(|row| {
            self.rows(tensor, row..row + 1, &mut numbers).ok()?;
            numbers.iter().copied().find(|number| !number.is_finite())
        })
    }

    /// The bytes of a tensor and its strides, if it has any, checked against the recipe's type.
    fn source(&self, weight: &Weight, tensor: &str) -> Result<(&'a [u8], Option<&'a [usize]>), ReadError> {
        let found = self.checkpoint.tensor(tensor).zip(self.checkpoint.bytes(tensor));
        let Some((info, bytes)) = found else { return Err(ReadError::Missing { tensor: tensor.to_owned() }) };
        if info.dtype != weight.dtype() || info.shape != weight.shape() {
            return Err(ReadError::Type {
                tensor: tensor.to_owned(),
                expected: format!("{}{:?}", weight.dtype(), weight.shape()),
                found: format!("{}{:?}", info.dtype, info.shape),
            });
        }
        Ok((bytes, info.strides()))
    }

    /// The block of the matrix `base`, of elements of `N` bytes, with rows and columns exchanged.
    ///
    /// As many rows as their elements fill a line are gathered, close to the processor, before lines are written.
    fn transposed<const N: usize>(&self, base: &Weight, block: &Block) -> Result<Vec<u8>, ReadError> {
        let (height, width) = (block.rows.len(), block.columns.len());
        let mut out = vec![[0; N]; height * width];
        let mut gathered = vec![[0; N]; LINE / N * width];
        for start in (0..height).step_by(LINE / N) {
            let end = height.min(start + LINE / N);
            let rows = block.rows.start + start..block.rows.start + end;
            let some = Block { rows, columns: block.columns.clone() };
            self.visit(base, &some, 0, &mut |row, bytes| {
                let elements = bytes.as_chunks().0;
                gathered[row * width..][..elements.len()].copy_from_slice(elements);
                Ok(())
            })?;
            for (column, line) in out.chunks_exact_mut(height).enumerate() {
                let elements = gathered[column..].iter().step_by(width);
                for (place, element) in line[start..end].iter_mut().zip(elements) {
                    *place = *element;
                }
            }
        }
        Ok(out.into_flattened())
    }
}

impl WeightSource for WeightReader<'_> {
    fn load(&self, weight: &Weight) -> Result<ArrayD<f32>, String> {
        self.tensor(weight).map_err(|error| error.to_string())
    }
}

/// The tensor of the checkpoint that `row` of `weight` comes from, or most of it.
fn source_of(weight: &Weight, row: usize) -> Option<&str> {
    match weight.expr() {
        WeightExpr::Source { tensor, .. } => Some(tensor),
        WeightExpr::Concat { parts } => {
            let mut row = row;
            let part = parts.iter().find(|part| {
                let met = row < row_count(part);
                row = if met { row } else { row - row_count(part) };
                met
            });
            source_of(part?, row)
        }
        WeightExpr::Slice { base, start, .. } => source_of(base, start + row),
        WeightExpr::Permute { base, order } => source_of(base, order.source_row(row)),
        _ => weight.parts().first().and_then(|part| source_of(part, row)),
    }
}

/// Gives a block of a vector or matrix, of elements of `size` bytes at the given distances, to `sink`.
fn gather(
    bytes: &[u8],
    strides: &[usize],
    size: usize,
    block: &Block,
    at: usize,
    sink: &mut Sink<'_>,
) -> Result<(), ReadError> {
    let stride = |dimension: usize| strides.get(dimension).copied().unwrap_or(0) * size;
    let (down, right) = (stride(0), stride(1));
    let mut gathered = Vec::with_capacity(block.columns.len() * size);
    block.rows.clone().enumerate().try_for_each(|(i, row)| {
        gathered.clear();
        for column in block.columns.clone() {
            gathered.extend_from_slice(&bytes[row * down + column * right..][..size]);
        }
        sink(at + i, &gathered)
    })
}

/// How many of the first of `rows` of `base` have their codes of `scheme` in rows of one recipe that follow each other, with
/// the recipe and the first of these; or have none.
fn run(base: &Weight, rows: Range<usize>, scheme: Scheme) -> (usize, Option<(&Weight, usize)>) {
    let first = base.carried(rows.start, scheme);
    let follows = |row: &usize| match (first, base.carried(*row, scheme)) {
        (None, None) => true,
        (Some((one, start)), Some((other, at))) => {
            std::ptr::eq(one, other) && at == start + (row - rows.start)
        }
        _ => false,
    };
    (rows.clone().take_while(follows).count(), first)
}

pub(super) fn narrowed(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.size()];
    narrow(dtype, values, &mut bytes);
    bytes
}

/// Rows of a weight; a scalar is one.
/// Slices along the first dimension.
pub(super) fn row_count(weight: &Weight) -> usize {
    weight.shape().first().copied().unwrap_or(1)
}

/// Elements of a row.
pub(super) fn row_elements(weight: &Weight) -> usize {
    weight.shape().iter().skip(1).product()
}

fn check(
    weight: &Weight,
    block: &Block,
    fills: bool,
    length: usize,
    unit: &'static str,
) -> Result<(), ReadError> {
    if fills && block.is_in(weight) {
        return Ok(());
    }
    let Range { start, end } = block.rows;
    let rows = row_count(weight);
    Err(ReadError::Rows { recipe: weight.to_string(), start, end, rows, length, unit })
}

#[cfg(test)]
mod tests;
