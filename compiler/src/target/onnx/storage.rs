//! Where the constants of a graph are: in the model, in a file that is written for it, or where the checkpoint has them.

use std::fmt;

use llamac_ir::{Weight, WeightExpr};
use llamac_plan::diagnostic::{Code, Diagnostic};

use super::data::DataFile;
use super::model::{Data, Region};
use crate::source::Checkpoint;
use crate::weights::{Block, WeightReader};

/// Where the large constants of an export are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalData {
    /// In one file, written for the graph.
    #[default]
    File,
    /// In the files of the checkpoint, in whose directory the graph is written: no weights are written at all.
    Reference,
    /// In copies of the files of the checkpoint: the output is a checkpoint, too.
    Copy,
}

impl ExternalData {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::File, Self::Reference, Self::Copy];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Reference => "reference",
            Self::Copy => "copy",
        }
    }

    /// Whether the graph takes weights as the checkpoint stores them, and where.
    pub fn is_stored(self) -> bool {
        self != Self::File
    }
}

impl fmt::Display for ExternalData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Constants of fewer bytes are in the model itself.
const SMALL: usize = 1024;

/// Bytes of constants that a graph without a file of its own may hold in itself.
const MAX_INLINE: usize = 4 << 20;

/// Gives constants their places.
#[derive(Debug)]
pub(super) struct Storage<'a> {
    checkpoint: &'a Checkpoint,
    external: ExternalData,
    large: Large,
}

#[derive(Debug)]
enum Large {
    File(DataFile),
    /// Constants that are computed are in the model: how many bytes there may still be, and those for which there is no
    /// room.
    Stored {
        left: usize,
        without: Vec<Weight>,
    },
}

impl<'a> Storage<'a> {
    /// For the constants of `checkpoint`; `name` is that of the file that is written for it, if one is.
    pub(super) fn new(checkpoint: &'a Checkpoint, external: ExternalData, name: &str) -> Self {
        let large = match external {
            ExternalData::File => Large::File(DataFile::new(name)),
            ExternalData::Reference | ExternalData::Copy => {
                Large::Stored { left: MAX_INLINE, without: Vec::new() }
            }
        };
        Self { checkpoint, external, large }
    }

    /// The place of `weight`.
    pub(super) fn place(&mut self, weight: &Weight) -> Result<Data, Diagnostic> {
        let bytes = weight.elements() * weight.dtype().size();
        if bytes < SMALL {
            return inline(self.checkpoint, weight);
        }
        match &mut self.large {
            Large::File(file) => Ok(Data::External(file.place(weight))),
            Large::Stored { left, without } => {
                if let Some(region) = stored(self.checkpoint, weight) {
                    return Ok(Data::External(region));
                }
                let Some(rest) = left.checked_sub(bytes) else {
                    without.push(weight.clone());
                    return Ok(Data::Inline(Vec::new()));
                };
                *left = rest;
                inline(self.checkpoint, weight)
            }
        }
    }

    /// The file that has to be written, if any.
    ///
    /// # Errors
    /// When constants are in no file and too large for the model.
    pub(super) fn finish(self) -> Result<Option<DataFile>, Diagnostic> {
        match self.large {
            Large::File(file) => Ok(Some(file).filter(|file| !file.is_empty())),
            Large::Stored { without, .. } => match without.first() {
                Some(first) => Err(not_stored(self.external, first, without.len())),
                None => Ok(None),
            },
        }
    }
}

fn inline(checkpoint: &Checkpoint, weight: &Weight) -> Result<Data, Diagnostic> {
    let mut bytes = vec![0; weight.elements() * weight.dtype().size()];
    WeightReader::new(checkpoint).read(weight, &Block::whole(weight), weight.dtype(), &mut bytes)?;
    Ok(Data::Inline(bytes))
}

/// Where the checkpoint has `weight` as it is.
fn stored(checkpoint: &Checkpoint, weight: &Weight) -> Option<Region> {
    let WeightExpr::Source { tensor, .. } = weight.expr() else { return None };
    let info = checkpoint.tensor(tensor)?;
    let range = info.range();
    // Runtimes take elements where they are mapped.
    let aligned = range.start.is_multiple_of(weight.dtype().size());
    aligned.then(|| Region {
        file: info.file.to_string(),
        offset: range.start as u64,
        length: range.len() as u64,
    })
}

/// The fault of `count` constants, of which `first` is one.
fn not_stored(external: ExternalData, first: &Weight, count: usize) -> Diagnostic {
    let fault = Diagnostic::new(Code::BadArgument).at(format!("--external-data {external}"));
    let what = match count {
        1 => first.to_string(),
        _ => format!("{first} and {} more", count - 1),
    };
    match first.expr() {
        WeightExpr::Convert { base, dtype } => fault
            .message(format!("the checkpoint does not store {what} as the graph takes them"))
            .expected(dtype.name())
            .found(base.dtype().name())
            .help("keep the checkpoint's dtype with --weights as-is, or write weights with --external-data file"),
        WeightExpr::Source { .. } => fault
            .message(format!("the checkpoint stores {what} where a runtime cannot map them"))
            .expected("elements at multiples of their size")
            .help("write weights with --external-data file"),
        _ => fault
            .message(format!("the graph takes {what}, which the checkpoint does not store"))
            .help("write weights with --external-data file"),
    }
}
