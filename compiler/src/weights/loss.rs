//! What is lost where weights that another method quantized are quantized again.

use std::collections::BTreeMap;

use llamac_ir::weight::{Grid, Scheme, Weight, WeightExpr};
use llamac_ir::{Graph, Op};

use super::error::ReadError;
use super::reader::{Block, WeightReader, row_count, row_elements};
use crate::report::stored_format;

/// Rows of a matrix that are looked at, all over it: an error of so many numbers is that of all of them.
const ROWS: usize = 32;

/// Matrices of one stored format that were quantized again, to one scheme.
#[derive(Clone, Debug, PartialEq)]
pub struct Requantized {
    /// What the files have, as [`stored_format`] says it.
    pub from: String,
    /// What was made of it.
    pub to: Scheme,
    /// How many.
    pub matrices: usize,
    /// The root of the sum of squared differences over that of squared numbers, in rows all over the matrices.
    pub error: f64,
    /// Scales of carried codes that the scheme does not hold: their blocks were quantized again.
    pub rounded: usize,
}

impl Requantized {
    /// Whether all is what it was.
    pub fn is_lossless(&self) -> bool {
        self.error == 0.0 && self.rounded == 0
    }
}

/// Sums of squares: of differences, and of numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    matrices: usize,
    lost: f64,
    all: f64,
    rounded: usize,
}

/// The matrices of `graph` that the checkpoint has in another method's codes and the graph in a scheme, by
/// formats.
///
/// # Errors
/// Where a weight cannot be read.
pub fn requantized(graph: &Graph, reader: WeightReader<'_>) -> Result<Vec<Requantized>, ReadError> {
    let mut seen: Vec<Weight> = Vec::new();
    let mut found: BTreeMap<(String, Scheme), Sums> = BTreeMap::new();
    let weights = graph.order().into_iter().filter_map(|node| graph.op(node)).flat_map(Op::weights);
    for weight in weights {
        let mut quantized = weight;
        while let WeightExpr::Transpose { base } = quantized.expr() {
            quantized = base;
        }
        let WeightExpr::Quantize { base, scheme } = quantized.expr() else { continue };
        for part in base.row_parts() {
            let Some(codes) = part.stored_codes() else { continue };
            if seen.contains(part) {
                continue;
            }
            seen.push(part.clone());
            let (lost, all) = reader.lost(part, *scheme)?;
            let sums = found.entry((stored_format(codes), *scheme)).or_default();
            sums.matrices += 1;
            sums.lost += lost;
            sums.all += all;
            sums.rounded += reader.rounded(codes, *scheme)?;
        }
    }
    let row = |((from, to), Sums { matrices, lost, all, rounded }): ((String, Scheme), Sums)| Requantized {
        from,
        to,
        matrices,
        error: if lost == 0.0 { 0.0 } else { (lost / all).sqrt() },
        rounded,
    };
    Ok(found.into_iter().map(row).collect())
}

impl WeightReader<'_> {
    /// The scales of `codes`, which `scheme` has the codes of, that it does not hold; none where it has other codes.
    fn rounded(&self, codes: &Weight, scheme: Scheme) -> Result<usize, ReadError> {
        // Those of blocks are of half precision.
        let WeightExpr::DequantizeGroups { scales, .. } = codes.expr() else { return Ok(0) };
        if codes.carried_scheme() != Some(scheme) {
            return Ok(0);
        }
        let mut numbers = vec![0.0; row_elements(scales)];
        let mut count = 0;
        for row in 0..row_count(scales) {
            self.rows(scales, row..row + 1, &mut numbers)?;
            let grids = numbers.iter().map(|&scale| Grid { scale, zero: scheme.zero().unwrap_or_default() });
            count += grids.filter(|grid| !scheme.holds(*grid)).count();
        }
        Ok(count)
    }

    /// The squared differences that `scheme` leaves in some rows of `part`, and their squared numbers.
    fn lost(&self, part: &Weight, scheme: Scheme) -> Result<(f64, f64), ReadError> {
        let Ok(quantized) = part.quantize(scheme) else { return Ok((0.0, 0.0)) };
        let [rows, columns] = [0, 1].map(|dimension| part.shape()[dimension]);
        let count = rows.min(ROWS);
        let mut numbers = vec![0.0; columns];
        let (mut lost, mut all) = (0.0, 0.0);
        for row in (0..count).map(|i| i * rows / count) {
            let block = Block::rows(part, row..row + 1);
            self.floats(part, &block, &mut numbers)?;
            self.quantized(&quantized, &block, &mut |_, grids: &[Grid], codes| {
                let blocks = grids.iter().zip(codes.as_chunks::<{ Scheme::BLOCK }>().0);
                let left = blocks.flat_map(|(grid, codes)| codes.map(|code| grid.decode(code)));
                for (left, number) in left.zip(&numbers) {
                    lost += f64::from(left - number).powi(2);
                    all += f64::from(*number).powi(2);
                }
                Ok(())
            })?;
        }
        Ok((lost, all))
    }
}
