//! The naive evaluation of recipes, whole tensors in memory.

use ndarray::{ArrayD, ArrayView1, Axis, concatenate};

use super::{
    FrequencySet, Grid, PackOrder, Packing, QuantizedPart, Scheme, Weight, WeightExpr, Zeros, code_offset,
};
use crate::frequencies;

/// The value of `weight`, rounded to its element type and widened to `f32`.
///
/// `read` gives checkpoint tensors by name, widened to `f32`. A low-rank product accumulates in `f64`.
pub fn evaluate(
    weight: &Weight,
    read: &mut dyn FnMut(&str) -> Result<ArrayD<f32>, String>,
) -> Result<ArrayD<f32>, String> {
    let value = match weight.expr() {
        WeightExpr::Source { tensor, .. } => read(tensor)?,
        WeightExpr::Concat { parts } => {
            let parts = parts.iter().map(|part| evaluate(part, read)).collect::<Result<Vec<_>, _>>()?;
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            concatenate(Axis(0), &views).map_err(|e| format!("{weight}: {e}"))?
        }
        WeightExpr::ConcatColumns { parts } => {
            let parts = parts.iter().map(|part| evaluate(part, read)).collect::<Result<Vec<_>, _>>()?;
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            concatenate(Axis(1), &views)
                .map_err(|e| format!("{weight}: {e}"))?
                .as_standard_layout()
                .into_owned()
        }
        WeightExpr::Slice { base, start, rows } => {
            let rows: Vec<usize> = (*start..start + rows).collect();
            evaluate(base, read)?.select(Axis(0), &rows)
        }
        WeightExpr::ReplaceRows { base, new, rows, by } => {
            let (mut base, new) = (evaluate(base, read)?, evaluate(new, read)?);
            for (row, by) in rows.iter().zip(by) {
                base.index_axis_mut(Axis(0), *row).assign(&new.index_axis(Axis(0), *by));
            }
            base
        }
        WeightExpr::Permute { base, order } => {
            let rows: Vec<usize> = (0..weight.shape()[0]).map(|row| order.source_row(row)).collect();
            evaluate(base, read)?.select(Axis(0), &rows)
        }
        WeightExpr::Transpose { base } => {
            evaluate(base, read)?.reversed_axes().as_standard_layout().into_owned()
        }
        WeightExpr::AddLowRank { base, a, b, scale } => {
            let (mut base, a, b) = (evaluate(base, read)?, evaluate(a, read)?, evaluate(b, read)?);
            for ((row, column), value) in
                (0..base.len()).map(|i| (i / a.shape()[1], i % a.shape()[1])).zip(&mut base)
            {
                let product = (0..a.shape()[0]).map(|r| f64::from(b[[row, r]]) * f64::from(a[[r, column]]));
                *value = (f64::from(*value) + scale.get() * product.sum::<f64>()) as f32;
            }
            base
        }
        WeightExpr::Sum { parts } => {
            let mut sum = evaluate(&parts[0], read)?;
            for part in &parts[1..] {
                sum += &evaluate(part, read)?;
            }
            sum
        }
        WeightExpr::Scale { base, factor } => {
            evaluate(base, read)?.mapv(|value| (f64::from(value) * factor.get()) as f32)
        }
        WeightExpr::SetRowNorms { base, norms } => {
            let (mut base, norms) = (evaluate(base, read)?, evaluate(norms, read)?);
            for (mut row, norm) in base.rows_mut().into_iter().zip(&norms) {
                let squares: f64 = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
                row.mapv_inplace(|value| (f64::from(value) * (f64::from(*norm) / squares.sqrt())) as f32);
            }
            base
        }
        WeightExpr::InvFreq { theta, head_dim, scaling, set } => {
            let long = *set == FrequencySet::Long;
            ArrayD::from_shape_vec(vec![head_dim / 2], frequencies::inverse(*theta, *head_dim, scaling, long))
                .map_err(|e| format!("{weight}: {e}"))?
        }
        WeightExpr::Convert { base, .. } => evaluate(base, read)?,
        WeightExpr::Quantize { base, scheme } => {
            let mut values = evaluate(base, read)?;
            for (i, mut row) in values.rows_mut().into_iter().enumerate() {
                let row = row.as_slice_mut().ok_or("rows are not contiguous")?;
                for (block, (grid, codes)) in quantized_row(base, i, *scheme, row, read)?.iter().enumerate() {
                    let numbers = row[block * Scheme::BLOCK..].iter_mut().zip(codes);
                    numbers.for_each(|(x, &code)| *x = grid.decode(code));
                }
            }
            values
        }
        WeightExpr::Dequantize { base, format } => {
            let mut values = vec![0.0; weight.elements()];
            let rows = bytes(&evaluate(base, read)?);
            format.dequantize(&rows, &mut values);
            ArrayD::from_shape_vec(weight.shape(), values).map_err(|e| format!("{weight}: {e}"))?
        }
        WeightExpr::Unpack { base, packing } => unpacked(base, *packing, weight, read)?,
        WeightExpr::Lookup { codes, table } => {
            let table = evaluate(table, read)?;
            evaluate(codes, read)?.mapv(|code| table[[code as usize]])
        }
        WeightExpr::GatherColumns { base, index } => {
            let (base, index) = (evaluate(base, read)?, evaluate(index, read)?);
            let columns: Vec<usize> = index.iter().map(|&column| column as usize).collect();
            if let Some(column) = columns.iter().find(|column| **column >= base.shape()[1]) {
                return Err(format!("{weight}: there is no column {column}"));
            }
            base.select(Axis(1), &columns).as_standard_layout().into_owned()
        }
        WeightExpr::Offset { base, term } => {
            evaluate(base, read)?.mapv(|value| (f64::from(value) + term.get()) as f32)
        }
        WeightExpr::DequantizeGroups { codes, scales, zeros, group } => {
            let mut values = evaluate(codes, read)?;
            let grids = grids(scales, zeros, read)?;
            let width = values.shape().last().copied().unwrap_or(1).max(1);
            for (i, value) in values.iter_mut().enumerate() {
                let grid = &grids[group.scale(width, scales.shape(), i / width, i % width)];
                *value = (*value - grid.zero) * grid.scale;
            }
            values
        }
        WeightExpr::QuantizedPart { of, part } => quantized_part(of, *part, read)?,
        WeightExpr::PackNibbles { base } => {
            let base = evaluate(base, read)?;
            let pack = |row: ArrayView1<'_, f32>, byte: usize| {
                row[2 * byte] + 16.0 * row.get(2 * byte + 1).copied().unwrap_or(0.0)
            };
            let bytes = weight.shape()[1];
            let packed = base.rows().into_iter().flat_map(|row| (0..bytes).map(move |byte| pack(row, byte)));
            ArrayD::from_shape_vec(weight.shape(), packed.collect()).map_err(|e| format!("{weight}: {e}"))?
        }
        WeightExpr::Literal { shape, values, .. } => {
            let values = values.iter().map(|value| value.f32()).collect();
            ArrayD::from_shape_vec(shape.to_vec(), values).map_err(|e| format!("{weight}: {e}"))?
        }
    };
    if value.shape() != weight.shape() {
        return Err(format!("{weight}: expected shape {:?}, found {:?}", weight.shape(), value.shape()));
    }
    Ok(value.mapv(|v| weight.dtype().round(v)))
}

/// Bytes that were widened.
fn bytes(values: &ArrayD<f32>) -> Vec<u8> {
    values.iter().map(|value| *value as u8).collect()
}

/// The integers that `base` holds, of the shape of `weight`.
fn unpacked(
    base: &Weight,
    packing: Packing,
    weight: &Weight,
    read: &mut dyn FnMut(&str) -> Result<ArrayD<f32>, String>,
) -> Result<ArrayD<f32>, String> {
    let stored = bytes(&evaluate(base, read)?);
    let width = base.shape().last().copied().unwrap_or(1);
    let columns = weight.shape().last().copied().unwrap_or(1);
    let integer = |i: usize| {
        let (row, column) = (i / columns, i % columns);
        f32::from(match packing.order {
            PackOrder::Down => {
                let words = stored.chunks(width).flat_map(|row| &row[4 * column..4 * column + 4]);
                packing.get(&words.copied().collect::<Vec<_>>(), row)
            }
            _ => packing.get(&stored[row * width..(row + 1) * width], column),
        })
    };
    let integers = (0..weight.elements()).map(integer).collect();
    ArrayD::from_shape_vec(weight.shape(), integers).map_err(|e| format!("{weight}: {e}"))
}

/// Scale and code of zero of each group, row by row; the latter may have a sign.
struct StoredGrid {
    scale: f32,
    zero: f32,
}

fn grids(
    scales: &Weight,
    zeros: &Zeros,
    read: &mut dyn FnMut(&str) -> Result<ArrayD<f32>, String>,
) -> Result<Vec<StoredGrid>, String> {
    let zeros = match zeros {
        Zeros::Same(zero) => vec![f32::from(*zero); scales.elements()],
        Zeros::Each(zeros) => evaluate(zeros, read)?.iter().copied().collect(),
    };
    let scales = evaluate(scales, read)?;
    Ok(scales.iter().zip(zeros).map(|(&scale, zero)| StoredGrid { scale, zero }).collect())
}

/// The blocks that quantizing makes of row `row` of `base`, whose numbers are `numbers`.
fn quantized_row(
    base: &Weight,
    row: usize,
    scheme: Scheme,
    numbers: &[f32],
    read: &mut dyn FnMut(&str) -> Result<ArrayD<f32>, String>,
) -> Result<Vec<(Grid, [u8; Scheme::BLOCK])>, String> {
    let stored = match base.carried(row, scheme) {
        Some((stored, row)) => stored_row(stored, row, read)?,
        None => Vec::new(),
    };
    let blocks = numbers.chunks(Scheme::BLOCK).enumerate().map(|(i, numbers)| match stored.get(i) {
        Some((grid, codes)) if scheme.holds(*grid) => (*grid, *codes),
        _ => {
            let mut codes = [0; Scheme::BLOCK];
            (scheme.quantize(numbers, &mut codes), codes)
        }
    });
    Ok(blocks.collect())
}

/// The blocks of row `row` of `stored`, a recipe that dequantizes.
fn stored_row(
    stored: &Weight,
    row: usize,
    read: &mut dyn FnMut(&str) -> Result<ArrayD<f32>, String>,
) -> Result<Vec<(Grid, [u8; Scheme::BLOCK])>, String> {
    match stored.expr() {
        WeightExpr::Dequantize { base, format } => {
            let row = bytes(&evaluate(base, read)?.select(Axis(0), &[row]));
            let block = |block: &[u8]| {
                let mut codes = [0; Scheme::BLOCK];
                format.codes(block, &mut codes).map(|grid| (grid, codes))
            };
            row.chunks(format.bytes()).map(|bytes| block(bytes).ok_or("another format".to_owned())).collect()
        }
        WeightExpr::DequantizeGroups { codes, scales, zeros, group } => {
            let offset = f32::from(code_offset(codes.dtype()));
            let (grids, numbers) = (grids(scales, zeros, read)?, evaluate(codes, read)?);
            let width = numbers.shape()[1];
            let block = |start: usize| {
                let StoredGrid { scale, zero } = grids[group.scale(width, scales.shape(), row, start)];
                let zero = (zero + offset) as u8;
                let code = |i: usize| match start + i < width {
                    true => (numbers[[row, start + i]] + offset) as u8,
                    false => zero,
                };
                (Grid { scale, zero }, std::array::from_fn(code))
            };
            Ok((0..width).step_by(Scheme::BLOCK).map(block).collect())
        }
        _ => Err(format!("{stored} dequantizes nothing")),
    }
}

/// A part of the quantized matrix `of`.
fn quantized_part(
    of: &Weight,
    part: QuantizedPart,
    read: &mut dyn FnMut(&str) -> Result<ArrayD<f32>, String>,
) -> Result<ArrayD<f32>, String> {
    let WeightExpr::Quantize { base, scheme } = of.expr() else {
        return Err(format!("{of} is not quantized"));
    };
    let mut values = Vec::new();
    for (i, row) in evaluate(base, read)?.rows().into_iter().enumerate() {
        for (grid, codes) in quantized_row(base, i, *scheme, &row.to_vec(), read)? {
            match part {
                QuantizedPart::Codes => values.extend(codes.map(f32::from)),
                QuantizedPart::Scales => values.push(grid.scale),
                QuantizedPart::Zeros => values.push(f32::from(grid.zero)),
            }
        }
    }
    let rows = of.shape()[0];
    ArrayD::from_shape_vec(vec![rows, values.len() / rows.max(1)], values).map_err(|e| format!("{of}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Permutation, Real};

    #[test]
    fn recipes_do_what_they_say() {
        let w = Weight::source("w", DType::F32, &[4, 2]).unwrap();
        let (a, b) = (
            Weight::source("a", DType::F32, &[1, 2]).unwrap(),
            Weight::source("b", DType::F32, &[4, 1]).unwrap(),
        );
        let mut read = |name: &str| {
            let (shape, data): (Vec<usize>, Vec<f32>) = match name {
                "w" => (vec![4, 2], (0..8u8).map(f32::from).collect()),
                "a" => (vec![1, 2], vec![1.0, 10.0]),
                "n" => (vec![4], vec![1.0, 2.0, 3.0, 4.0]),
                _ => (vec![4, 1], vec![1.0, 2.0, 3.0, 4.0]),
            };
            ArrayD::from_shape_vec(shape, data).map_err(|e| e.to_string())
        };
        let mut values = |w: &Weight| evaluate(w, &mut read).unwrap().into_iter().collect::<Vec<f32>>();
        assert_eq!(values(&w.slice(1, 2).unwrap()), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(values(&w.transpose().unwrap()), [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
        let half = w.permute(Permutation::InterleavedToHalf { heads: 1, head_dim: 4 }).unwrap();
        assert_eq!(values(&half), [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        let sum = w.add_low_rank(&a, &b, Real::new(0.5)).unwrap();
        assert_eq!(values(&sum), [0.5, 6.0, 3.0, 13.0, 5.5, 20.0, 8.0, 27.0]);
        assert_eq!(values(&Weight::sum([w.clone(), sum]).unwrap())[..4], [0.5, 7.0, 5.0, 16.0]);
        assert_eq!(values(&b.scale(Real::new(-0.5)).unwrap()), [-0.5, -1.0, -1.5, -2.0]);
        let norms = Weight::source("n", DType::F32, &[4]).unwrap();
        let stretched = values(&w.set_row_norms(&norms).unwrap());
        assert_eq!(stretched[..2], [0.0, 1.0]);
        assert_eq!(stretched[2..4].iter().map(|x| x * x).sum::<f32>().round(), 4.0);
        assert_eq!(
            values(&Weight::concat([a.clone(), w.slice(3, 1).unwrap()]).unwrap()),
            [1.0, 10.0, 6.0, 7.0]
        );
        let side_by_side = Weight::concat_columns([b.clone(), w.clone()]).unwrap();
        assert_eq!(side_by_side.shape(), [4, 3]);
        assert_eq!(values(&side_by_side), [1.0, 0.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 5.0, 4.0, 6.0, 7.0]);
    }

    #[test]
    fn the_parts_of_a_quantized_matrix_make_it_up() {
        let w = Weight::source("w", DType::F32, &[3, 40]).unwrap();
        let numbers = |n: usize| ((n * 37 + 11) % 64) as f32 / 8.0 - 3.0;
        let mut read = |_: &str| {
            ArrayD::from_shape_vec(vec![3, 40], (0..120).map(numbers).collect()).map_err(|e| e.to_string())
        };
        for scheme in Scheme::ALL {
            let quantized = w.quantize(scheme).unwrap();
            let [codes, scales, zeros] =
                QuantizedPart::ALL.map(|part| quantized.quantized_part(part).unwrap());
            assert_eq!(
                (codes.shape(), scales.shape(), zeros.shape()),
                (&[3, 64][..], &[3, 2][..], &[3, 2][..])
            );
            let mut value = |weight: &Weight| evaluate(weight, &mut read).unwrap();
            let [whole, codes_of, scales_of, zeros_of] =
                [&quantized, &codes, &scales, &zeros].map(&mut value);
            for ((row, column), found) in (0..120).map(|i| (i / 40, i % 40)).zip(&whole) {
                let block = [row, column / 32];
                assert_eq!((codes_of[[row, column]] - zeros_of[block]) * scales_of[block], *found);
            }
            let packed = value(&zeros.pack_nibbles().unwrap());
            assert_eq!(packed.shape(), [3, 1]);
            assert_eq!(packed[[1, 0]], (zeros_of[[1, 0]] + 16.0 * zeros_of[[1, 1]]).round());
        }
    }

    #[test]
    fn a_tensor_of_another_shape_is_an_error() {
        let w = Weight::source("w", DType::F32, &[2]).unwrap();
        let error = evaluate(&w, &mut |_| Ok(ArrayD::zeros(vec![3]))).unwrap_err();
        assert_eq!(error, "@w: expected shape [2], found [3]");
    }
}
