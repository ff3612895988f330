//! Opening a compiled model's file: the container, its version and its checksums.
//!
//! The file is mapped, never read into memory. What the plan inside means is checked in [`crate::check`].

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use llamac_plan::Plan;
use llamac_plan::artifact::{CHECKSUMS, FILES, FORMAT, MAX_HEADER, MAX_PLAN, PLAN, VERSION};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use xxhash_rust::xxh3::xxh3_64;

/// An open artifact: its bytes and where each tensor lies in them.
#[derive(Debug)]
pub(crate) struct Artifact {
    path: PathBuf,
    map: Mmap,
    /// By name; positions in the file.
    tensors: BTreeMap<String, Range<usize>>,
}

/// Whether `header` starts like a compiled model, so that a command can tell it from a checkpoint's file.
pub fn is_artifact(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    // SAFETY: as in `Artifact::open`.
    let Ok(map) = (unsafe { Mmap::map(&file) }) else { return false };
    matches!(metadata(path, &map), Ok((_, header)) if format_of(&header) == Some(FORMAT))
}

fn format_of(header: &Metadata) -> Option<&str> {
    header.metadata().as_ref()?.get("format").map(String::as_str)
}

fn not_an_artifact(path: &Path, why: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Code::NotAnArtifact)
        .at(path.display().to_string())
        .message(why)
        .help("`llamac compile CHECKPOINT -o OUT` makes one")
}

fn damaged(path: &Path, why: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Code::DamagedArtifact)
        .at(path.display().to_string())
        .message(why)
        .help("compile the checkpoint again")
}

fn metadata(path: &Path, bytes: &[u8]) -> Result<(usize, Metadata), Diagnostic> {
    let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if length > MAX_HEADER as u64 {
        return Err(not_an_artifact(path, "it does not start with the header of a compiled model"));
    }
    let (header_bytes, header) = safetensors::SafeTensors::read_metadata(bytes)
        .map_err(|e| not_an_artifact(path, format!("it is not a whole safetensors file: {e}")))?;
    Ok((8 + header_bytes, header))
}

impl Artifact {
    /// Maps `file`, called `path` in messages, and checks container and version; with `verify`, every checksum too.
    pub(crate) fn open(file: &File, path: &Path, verify: bool, threads: usize) -> Result<Self, Diagnostics> {
        let io = |e: std::io::Error| {
            Diagnostic::new(Code::Io).at(path.display().to_string()).message(e.to_string())
        };
        // SAFETY: the map is read-only and the compiler replaces an artifact by renaming a new file over it, so the
        // mapped one keeps its bytes. Whoever truncates a mapped file by other means gets a bus error, as with any
        // mapped file; no reference outlives the map.
        let map = unsafe { Mmap::map(file) }.map_err(io)?;
        let (data_start, header) = metadata(path, &map)?;
        if format_of(&header) != Some(FORMAT) {
            return Err(
                not_an_artifact(path, "it is a safetensors file, but not one that llamac compiled").into()
            );
        }
        let version =
            header.metadata().as_ref().and_then(|m| m.get("version")).map_or("none", String::as_str);
        if version != VERSION.to_string() {
            return Err(Diagnostic::new(Code::ArtifactVersion)
                .at(path.display().to_string())
                .expected(format!("version {VERSION}"))
                .found(format!("version {version}"))
                .help("compile the checkpoint again with this llamac, or use the llamac that wrote it")
                .into());
        }
        let tensors: BTreeMap<String, Range<usize>> = header
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, data_start + info.data_offsets.0..data_start + info.data_offsets.1))
            .collect();
        let artifact = Self { path: path.to_owned(), map, tensors };
        if verify {
            artifact.verify(data_start, threads)?;
        }
        Ok(artifact)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// A tensor's bytes.
    pub(crate) fn tensor(&self, name: &str) -> Result<&[u8], Diagnostic> {
        self.range(name).map(|range| &self.map[range])
    }

    /// A tensor's place in the file; always within it.
    pub(crate) fn range(&self, name: &str) -> Result<Range<usize>, Diagnostic> {
        self.tensors
            .get(name)
            .cloned()
            .ok_or_else(|| damaged(&self.path, format!("it has no tensor `{name}`")))
    }

    /// The bytes of `range`, which [`Artifact::range`] gave.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }

    /// A file of the checkpoint that travels in the artifact.
    pub(crate) fn file(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(&format!("{FILES}{name}")).map(|range| &self.map[range.clone()])
    }

    /// The plan, not yet checked.
    pub(crate) fn plan(&self) -> Result<Plan, Diagnostic> {
        let bytes = self.tensor(PLAN)?;
        if bytes.len() > MAX_PLAN {
            return Err(damaged(
                &self.path,
                format!("its plan has {} bytes, more than any has", bytes.len()),
            ));
        }
        serde_json::from_slice(bytes)
            .map_err(|e| damaged(&self.path, format!("its plan cannot be read: {e}")))
    }

    /// A fault in the artifact's content.
    pub(crate) fn damaged(&self, why: impl Into<String>) -> Diagnostic {
        damaged(&self.path, why)
    }

    /// Compares every checksum, in parallel.
    fn verify(&self, data_start: usize, threads: usize) -> Result<(), Diagnostics> {
        let mut spans: Vec<(&str, Range<usize>)> =
            self.tensors.iter().map(|(n, r)| (n.as_str(), r.clone())).collect();
        // Empty tensors share a start with their neighbour; the name decides, as it does for the writer.
        spans.sort_by(|a, b| (a.1.start, a.1.end, a.0).cmp(&(b.1.start, b.1.end, b.0)));
        let slots: Vec<u64> = match spans.first() {
            Some((CHECKSUMS, range))
                if range.len() >= 8 * (spans.len() + 1) && range.len().is_multiple_of(8) =>
            {
                let chunks = self.map[range.clone()].chunks_exact(8);
                chunks
                    .map(|chunk| chunk.iter().rev().fold(0, |slot, byte| slot << 8 | u64::from(*byte)))
                    .collect()
            }
            _ => return Err(self.damaged("its table of checksums is missing or has another size").into()),
        };
        let table = spans[0].1.clone();
        if xxh3_64(&self.map[table.start..table.end - 8]) != slots[slots.len() - 1] {
            return Err(self.damaged("its table of checksums has changed").into());
        }
        spans[0] = ("the header", 0..data_start);
        // Longest first, so that no thread is left alone with a large one.
        let mut order: Vec<usize> = (0..spans.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(spans[i].1.len()));
        let next = AtomicUsize::new(0);
        let wrong: Vec<AtomicBool> = spans.iter().map(|_| AtomicBool::new(false)).collect();
        let work = || {
            while let Some(&i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let differs = xxh3_64(&self.map[spans[i].1.clone()]) != slots[i];
                wrong[i].store(differs, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            // A thread that the system refuses is not needed: this one works, too.
            for _ in 1..threads.clamp(1, order.len()) {
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let mut faults = Diagnostics::new();
        for ((name, _), _) in spans.iter().zip(&wrong).filter(|(_, wrong)| wrong.load(Ordering::Relaxed)) {
            faults.push(
                Diagnostic::new(Code::DamagedArtifact)
                    .at(format!("{}: {name}", self.path.display()))
                    .message("its bytes do not match their checksum")
                    .help("compile the checkpoint again"),
            );
        }
        faults.or(())
    }
}
