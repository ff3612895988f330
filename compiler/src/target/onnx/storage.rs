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
    /// For the constants of `checkpoint`; `path` is that of the file that is written for it, if one is.
    pub(super) fn new(checkpoint: &'a Checkpoint, external: ExternalData, path: &str) -> Self {
        let large = match external {
            // The model, which is in the same folder, knows it by its last name.
            ExternalData::File => Large::File(DataFile::new(path.rsplit('/').next().unwrap_or(path))),
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
    // Runtimes take elements where they are mapped, one after the other.
    let aligned = range.start.is_multiple_of(weight.dtype().size()) && info.strides().is_none();
    aligned.then(|| Region {
        file: info.file.to_string(),
        offset: range.start as u64,
        length: range.len() as u64,
    })
}

/// The fault of `count` constants, of which `first` is one.
fn not_stored(external: ExternalData, first: &Weight, count: usize) -> Diagnostic {
    let fault = Diagnostic::new(Code::BadArgument).at(format!("--external-data {external}"));
    let what = |first: &Weight| match count {
        1 => first.to_string(),
        _ => format!("{first} and {} more", count - 1),
    };
    match first.expr() {
        WeightExpr::Convert { base, dtype } => fault
            .message(format!("the checkpoint does not store as the graph takes it: {}", what(base)))
            .expected(dtype.name())
            .found(base.dtype().name())
            .help("keep the checkpoint's dtype with --weights as-is, or write weights with --external-data file"),
        WeightExpr::Source { .. } => fault
            .message(format!("the checkpoint stores where a runtime cannot map it: {}", what(first)))
            .expected("elements at multiples of their size")
            .help("write weights with --external-data file"),
        _ => fault
            .message(format!("the checkpoint does not store what the graph takes: {}", what(first)))
            .help("write weights with --external-data file"),
    }
}

#[cfg(test)]
mod tests {
    use llamac_ir::DType;
    use safetensors::tensor::Dtype;

    use super::*;
    use crate::source::testing;

    /// A checkpoint whose embedding is large enough to be stored outside of a model.
    fn checkpoint() -> (tempfile::TempDir, Checkpoint) {
        let mut config = testing::config();
        config["vocab_size"] = 300.into();
        let mut tensors = testing::tensors();
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            let bytes = (0..4800).map(|i| (i % 113) as u8).collect();
            tensors.insert(name.to_owned(), (Dtype::BF16, vec![300, 8], bytes));
        }
        let directory = testing::checkpoint(&config, &tensors);
        let checkpoint = Checkpoint::open(directory.path(), None).unwrap();
        (directory, checkpoint)
    }

    fn source(checkpoint: &Checkpoint, name: &str) -> Weight {
        let info = checkpoint.tensor(name).unwrap();
        Weight::source(name, info.dtype, &info.shape).unwrap()
    }

    #[test]
    fn small_constants_are_in_the_model() {
        let (_directory, checkpoint) = checkpoint();
        let norm = source(&checkpoint, "model.norm.weight");
        for external in [ExternalData::File, ExternalData::Reference, ExternalData::Copy] {
            let mut storage = Storage::new(&checkpoint, external, "d");
            let expected = checkpoint.bytes("model.norm.weight").unwrap().to_vec();
            assert_eq!(storage.place(&norm), Ok(Data::Inline(expected)));
            let numbers = Weight::literal(DType::I64, &[2], &[3.0, -1.0]).unwrap();
            let expected = [3i64, -1].map(i64::to_le_bytes).concat();
            assert_eq!(storage.place(&numbers), Ok(Data::Inline(expected)));
            assert!(storage.finish().unwrap().is_none());
        }
    }

    #[test]
    fn large_constants_are_in_a_file_of_their_own() {
        let (_directory, checkpoint) = checkpoint();
        let embedding = source(&checkpoint, "model.embed_tokens.weight");
        let mut storage = Storage::new(&checkpoint, ExternalData::File, "d");
        let expected = Region { file: "d".to_owned(), offset: 0, length: 4800 };
        assert_eq!(storage.place(&embedding), Ok(Data::External(expected)));
        assert_eq!(storage.finish().unwrap().unwrap().length(), 4800);
    }

    #[test]
    fn stored_tensors_are_found_in_the_files_of_the_checkpoint() {
        let (directory, checkpoint) = checkpoint();
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            let mut storage = Storage::new(&checkpoint, ExternalData::Reference, "d");
            let place = storage.place(&source(&checkpoint, name)).unwrap();
            let Data::External(Region { file, offset, length }) = place else { panic!("{place:?}") };
            let bytes = std::fs::read(directory.path().join(file)).unwrap();
            let found = &bytes[offset as usize..][..length as usize];
            assert_eq!(found, checkpoint.bytes(name).unwrap());
            assert!(storage.finish().unwrap().is_none());
        }
    }

    #[test]
    fn what_is_not_stored_may_not_be_large() {
        let (_directory, checkpoint) = checkpoint();
        let embedding = source(&checkpoint, "model.embed_tokens.weight");
        let converted = embedding.convert(DType::F32).unwrap();
        let mut storage = Storage::new(&checkpoint, ExternalData::Copy, "d");
        assert!(matches!(storage.place(&converted), Ok(Data::Inline(bytes)) if bytes.len() == 9600));
        assert_eq!(storage.finish().unwrap().map(|file| file.length()), None);

        let mut storage = Storage::new(&checkpoint, ExternalData::Reference, "d");
        let parts = std::iter::repeat_n(embedding, 1000);
        let large = Weight::concat(parts).unwrap();
        for weight in [large.convert(DType::F32).unwrap(), large] {
            storage.place(&weight).unwrap();
        }
        let message = storage.finish().unwrap_err().to_string();
        assert!(message.contains("@model.embed_tokens.weight) and 1 more"), "{message}");
        assert!(message.contains("expected f32\n   found    bf16\n   help: keep the"), "{message}");
    }
}
