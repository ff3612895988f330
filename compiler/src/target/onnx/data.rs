//! The weights beside a model: one file, laid out in full before a byte of it is written, then streamed.
//!
//! Every part of the file is known by then, so it is cut into tiles that any number of threads read, convert and write
//! in any order; memory is a few tiles a thread, whatever the model. Large tensors lie on boundaries that every
//! operating system can map. The same recipe is stored once, which is all that tied embeddings need.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use llamac_ir::{Weight, WeightExpr};
use llamac_plan::diagnostic::{Diagnostic, Diagnostics};
use rayon::prelude::*;

use super::model::Region;
use crate::driver::Progress;
use crate::output::{Output, write_fault};
use crate::weights::{Block, WeightReader};

/// Boundary of large tensors: the coarsest at which a file can be mapped, that of Windows.
const PAGE: u64 = 64 << 10;

/// Boundary of tensors that are smaller than [`PAGE`].
const LINE: u64 = 64;

/// Bytes that a thread converts at a time, at least one row.
const TILE: usize = 1 << 20;

/// Bytes of a row of a tile of a transposition: such a tile is high, so that it reads more than single elements of a
/// stored row, and yet writes long stretches of its own rows.
const STRETCH: usize = 16 << 10;

/// The plan of a file of weights.
#[derive(Clone, Debug)]
pub struct DataFile {
    name: String,
    entries: Vec<Entry>,
    /// Positions in `entries`.
    known: HashMap<Weight, usize>,
    length: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    weight: Weight,
    offset: u64,
}

/// What is written at a time: a block of an entry.
struct Tile<'a> {
    entry: &'a Entry,
    block: Block,
}

impl DataFile {
    /// An empty file that will be called `name`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), entries: Vec::new(), known: HashMap::new(), length: 0 }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The place of `weight`, which is a new one unless it already has one.
    pub fn place(&mut self, weight: &Weight) -> Region {
        let position = *self.known.entry(weight.clone()).or_insert_with(|| {
            let entry = Entry { weight: weight.clone(), offset: 0 };
            let boundary = if entry.bytes() < PAGE { LINE } else { PAGE };
            let offset = self.length.next_multiple_of(boundary);
            self.length = offset + entry.bytes();
            self.entries.push(Entry { offset, ..entry });
            self.entries.len() - 1
        });
        let entry = &self.entries[position];
        Region { file: self.name.clone(), offset: entry.offset, length: entry.bytes() }
    }

    /// Writes all of it to the empty `output`.
    ///
    /// # Errors
    /// When the output cannot be written, or a weight not read.
    pub fn write(
        &self,
        reader: WeightReader<'_>,
        output: &Output,
        progress: &dyn Progress,
    ) -> Result<(), Diagnostics> {
        progress.start(self.entries.iter().map(Entry::bytes).sum());
        output.file().set_len(self.length).map_err(|e| write_fault(output.path(), &e))?;
        let tiles: Vec<Tile<'_>> = self.entries.iter().flat_map(Entry::tiles).collect();
        let write = |tile: &Tile<'_>| -> Result<(), Diagnostic> {
            let Tile { entry: Entry { weight, .. }, block } = tile;
            let mut bytes = vec![0; block.elements() * weight.dtype().size()];
            reader.read(weight, block, weight.dtype(), &mut bytes)?;
            tile.write(&bytes, output)?;
            progress.advance(bytes.len() as u64);
            Ok(())
        };
        Ok(tiles.par_iter().with_max_len(1).try_for_each(write)?)
    }
}

impl Entry {
    fn bytes(&self) -> u64 {
        (self.weight.elements() * self.weight.dtype().size()) as u64
    }

    fn tiles(&self) -> impl Iterator<Item = Tile<'_>> {
        let all = Block::whole(&self.weight);
        let size = self.weight.dtype().size();
        let width = if is_transposed(&self.weight) { STRETCH / size } else { usize::MAX };
        let width = width.min(all.columns.len()).max(1);
        let height = (TILE / (width * size)).max(1);
        let rows = cut(all.rows, height);
        rows.flat_map(move |rows| {
            cut(all.columns.clone(), width)
                .map(move |columns| Tile { entry: self, block: Block { rows: rows.clone(), columns } })
        })
    }
}

fn is_transposed(weight: &Weight) -> bool {
    match weight.expr() {
        WeightExpr::Transpose { .. } => true,
        WeightExpr::Convert { base, .. }
        | WeightExpr::Slice { base, .. }
        | WeightExpr::PackNibbles { base } => is_transposed(base),
        _ => false,
    }
}

/// `range` in pieces of `size`, the last of them of what is left.
fn cut(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |start| start..end.min(start + size))
}

impl Tile<'_> {
    /// Writes `bytes`, the rows of the block one after the other, to their places.
    fn write(&self, bytes: &[u8], output: &Output) -> Result<(), Diagnostic> {
        let size = self.entry.weight.dtype().size();
        let width = Block::whole(&self.entry.weight).columns.len();
        let Block { rows, columns } = &self.block;
        let stretch = if columns.len() == width { bytes.len() } else { columns.len() * size };
        for (row, bytes) in rows.clone().zip(bytes.chunks(stretch.max(1))) {
            let at = self.entry.offset + ((row * width + columns.start) * size) as u64;
            output.file().write_all_at(bytes, at).map_err(|e| write_fault(output.path(), &e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use llamac_ir::DType;

    use super::*;
    use crate::driver::Silent;
    use crate::source::{Checkpoint, testing};

    fn source(checkpoint: &Checkpoint, name: &str) -> Weight {
        let info = checkpoint.tensor(name).unwrap();
        Weight::source(name, info.dtype, &info.shape).unwrap()
    }

    /// A matrix that is not in any file; nothing here reads it.
    fn matrix(name: &str, rows: usize) -> Weight {
        Weight::source(name, DType::BF16, &[rows, 1024]).unwrap()
    }

    fn f32(weight: &Weight) -> Weight {
        weight.convert(DType::F32).unwrap()
    }

    #[test]
    fn large_tensors_begin_on_pages_and_equal_ones_are_one() {
        let mut file = DataFile::new("d");
        let mut place = |weight: &Weight| {
            let region = file.place(weight);
            assert_eq!(region.file, "d");
            (region.offset, region.length)
        };
        let (a, b) = (matrix("a", 5), matrix("b", 33));
        assert_eq!(place(&f32(&a)), (0, 5 * 4096));
        assert_eq!(place(&Weight::source("c", DType::F32, &[17]).unwrap()), (20480, 68));
        assert_eq!(place(&a), (20608, 5 * 2048));
        assert_eq!(place(&b), (65536, 33 * 2048));
        assert_eq!(place(&f32(&matrix("a", 5))), (0, 5 * 4096));
        assert_eq!(place(&f32(&b)), (3 * 65536, 33 * 4096));
        assert_eq!(file.length(), 3 * 65536 + 33 * 4096);
    }

    #[test]
    fn tiles_cover_every_element_once() {
        let high = Weight::source("w", DType::BF16, &[9001, 130]).unwrap();
        for weight in [
            f32(&matrix("w", 1000)),
            f32(&high.transpose().unwrap()),
            high.transpose().unwrap(),
            Weight::source("v", DType::F32, &[600_001]).unwrap(),
            Weight::source("s", DType::F32, &[]).unwrap(),
            Weight::source("wide", DType::F32, &[2, 1 << 20]).unwrap(),
            Weight::source("empty", DType::F32, &[0, 3]).unwrap(),
        ] {
            let entry = Entry { weight, offset: 0 };
            let width = Block::whole(&entry.weight).columns.len();
            let mut seen = vec![0u8; entry.weight.elements()];
            for Tile { block, .. } in entry.tiles() {
                let bytes = block.elements() * entry.weight.dtype().size();
                assert!(bytes <= TILE || block.rows.len() == 1);
                for row in block.rows {
                    seen[row * width..][block.columns.clone()].iter_mut().for_each(|count| *count += 1);
                }
            }
            assert!(seen.iter().all(|count| *count == 1), "{}", entry.weight);
        }
    }

    #[test]
    fn the_file_holds_what_was_placed() {
        let directory = testing::checkpoint(&testing::config(), &testing::tensors());
        let checkpoint = Checkpoint::open(directory.path(), None).unwrap();
        let reader = WeightReader::new(&checkpoint);
        let up = source(&checkpoint, "model.layers.1.mlp.up_proj.weight");
        let gate = source(&checkpoint, "model.layers.1.mlp.gate_proj.weight");
        let both = Weight::concat([gate, up.clone()]).unwrap();
        let weights = [
            up.clone(),
            f32(&up),
            both.transpose().unwrap(),
            f32(&both),
            source(&checkpoint, "model.norm.weight"),
        ];
        let mut file = DataFile::new("d");
        let regions: Vec<Region> = weights.iter().map(|weight| file.place(weight)).collect();
        let output = Output::temporary().unwrap();
        file.write(reader, &output, &Silent).unwrap();
        assert_eq!(output.file().metadata().unwrap().len(), file.length());
        for (weight, region) in weights.iter().zip(regions) {
            let mut expected = vec![0; weight.elements() * weight.dtype().size()];
            reader.read(weight, &Block::whole(weight), weight.dtype(), &mut expected).unwrap();
            let mut found = vec![0; region.length as usize];
            output.file().read_exact_at(&mut found, region.offset).unwrap();
            assert_eq!(found, expected, "{weight}");
        }
    }

    #[test]
    fn tiles_of_a_transposition_reach_their_places() {
        let weight = Weight::source("w", DType::BF16, &[9000, 130]).unwrap().transpose().unwrap();
        let entry = Entry { weight, offset: 128 };
        let output = Output::temporary().unwrap();
        let element = |row: usize, column: usize| ((row * 9000 + column) % 65521) as u16;
        for tile in entry.tiles() {
            let Block { rows, columns } = tile.block.clone();
            let elements = rows.flat_map(|row| columns.clone().map(move |column| element(row, column)));
            tile.write(&elements.flat_map(u16::to_le_bytes).collect::<Vec<_>>(), &output).unwrap();
        }
        let mut found = vec![0; 130 * 9000 * 2];
        output.file().read_exact_at(&mut found, 128).unwrap();
        for (i, bytes) in found.as_chunks().0.iter().enumerate() {
            assert_eq!(u16::from_le_bytes(*bytes), element(i / 9000, i % 9000));
        }
    }
}
