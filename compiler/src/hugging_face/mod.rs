//! A checkpoint written as transformers loads it: configuration, safetensors, and what the tokenizer needs.
//!
//! Weights are evaluated from their recipes, tile by tile, by all threads at once, each tile straight to its place in its
//! file; memory is a tile a thread, whatever the model. What the checkpoint stores as it is wanted is written from where
//! it is mapped. An interrupted conversion leaves nothing, and begins anew.
//!
//! Not here: where the directory goes and when it gets its name (`output`).

mod layout;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use llamac_ir::WeightExpr;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use rayon::prelude::*;

use self::layout::{Placed, Shard};
use crate::driver::{Converted, Progress};
use crate::output::{Folder, Output, write_fault};
use crate::source::{CONFIG, Checkpoint, GENERATION, INDEX, TOKENIZER_FILES};
use crate::weights::{Block, WeightReader};

/// Bytes of a weight that a thread prepares at a time, at least one row.
const TILE: usize = 4 << 20;

/// What the first weights of a directory are looked through for, to know who wrote it.
const START: u64 = 4096;

/// Writes everything to `folder`.
pub(crate) fn write(
    checkpoint: &Checkpoint,
    max_shard_size: u64,
    folder: &mut Folder,
    progress: &dyn Progress,
) -> Result<Converted, Diagnostics> {
    let shards = layout::shards(checkpoint, max_shard_size);
    let bytes = shards.iter().map(|shard| shard.bytes as u64).sum();
    progress.start(bytes);
    for shard in &shards {
        write_shard(checkpoint, shard, folder.file(Path::new(&shard.name))?, progress)?;
    }
    let mut files: Vec<(&str, Vec<u8>)> = vec![(CONFIG, checkpoint.config_json.clone())];
    files.extend(checkpoint.generation_json.clone().map(|bytes| (GENERATION, bytes)));
    if shards.len() > 1 {
        files.push((INDEX, layout::index(&shards)));
    }
    let mut warnings = Vec::new();
    let context = checkpoint.config.max_position_embeddings;
    files.extend(checkpoint.tokenizer.complete(&checkpoint.tokenizer_path, context, &mut warnings)?);
    for (name, bytes) in files {
        let output = folder.file(Path::new(name))?;
        output.file().write_all(&bytes).map_err(|e| write_fault(output.path(), &e))?;
    }
    let tensors = shards.iter().map(|shard| shard.tensors.len()).sum();
    Ok(Converted { tensors, files: shards.len(), bytes, warnings })
}

fn write_shard(
    checkpoint: &Checkpoint,
    shard: &Shard<'_>,
    output: &Output,
    progress: &dyn Progress,
) -> Result<(), Diagnostics> {
    let header = shard.header();
    let start = header.len() as u64;
    let put = |bytes: &[u8], at: u64| {
        output.file().write_all_at(bytes, at).map_err(|e| write_fault(output.path(), &e))
    };
    put(&header, 0)?;
    let tiles: Vec<(&Placed<'_>, usize)> =
        shard.tensors.iter().flat_map(|placed| placed.tiles().map(move |row| (placed, row))).collect();
    tiles.par_iter().with_max_len(1).try_for_each_init(Vec::new, |buffer, &(placed, row)| {
        let rows = row..placed.rows().min(row + placed.rows_of_tile());
        let place = placed.start + row * placed.row_bytes();
        let length = rows.len() * placed.row_bytes();
        let at = start + place as u64;
        match as_stored(checkpoint, placed) {
            Some(bytes) => put(&bytes[row * placed.row_bytes()..][..length], at)?,
            None => {
                buffer.resize(length, 0);
                let (weight, block) = (placed.weight, Block::rows(placed.weight, rows));
                WeightReader::new(checkpoint)
                    .read(weight, &block, weight.dtype(), buffer)
                    .map_err(Diagnostic::from)?;
                put(buffer, at)?;
            }
        }
        progress.advance(length as u64);
        Ok::<(), Diagnostics>(())
    })
}

/// The bytes of a weight where the checkpoint stores it as it is, row after row.
fn as_stored<'a>(checkpoint: &'a Checkpoint, placed: &Placed<'_>) -> Option<&'a [u8]> {
    let WeightExpr::Source { tensor, .. } = placed.weight.expr() else { return None };
    let plain = checkpoint.tensor(tensor)?.strides().is_none();
    checkpoint.bytes(tensor).filter(|_| plain)
}

/// Says why a folder that is not empty must stay: it holds something that no conversion writes, or weights that llamac
/// did not write.
///
/// # Errors
/// With that reason.
pub fn guard(path: &Path) -> Result<(), Diagnostic> {
    let mut names: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let is_weights = |name: &&String| name.starts_with("model") && name.ends_with(".safetensors");
    let known = |name: &String| {
        [CONFIG, GENERATION, INDEX].contains(&name.as_str())
            || TOKENIZER_FILES.contains(&name.as_str())
            || is_weights(&name)
    };
    let why = match names.iter().find(|name| !known(name)) {
        Some(stranger) => format!("{} is not of a conversion", path.join(stranger).display()),
        None if names.iter().find(is_weights).is_some_and(|name| is_ours(&path.join(name))) => return Ok(()),
        None => "it holds no weights that llamac wrote".to_owned(),
    };
    Err(Diagnostic::new(Code::BadArgument)
        .at(path.display().to_string())
        .message(format!("the folder is not empty, and {why}: it is not replaced"))
        .help("give the output a folder of its own"))
}

/// Whether llamac wrote the weights at `path`.
fn is_ours(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(START).read_to_end(&mut start));
    read.is_ok() && start.windows(layout::PRODUCER.len()).any(|part| part == layout::PRODUCER.as_bytes())
}
