//! Opening a compiled model's file: the container, its version and its checksums.
//!
//! The file is mapped, never read into memory. What the plan inside means is checked in [`crate::check`].

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use llamac_plan::Plan;
use llamac_plan::artifact::{BEGINNING, CHECKSUMS, FILES, FORMAT, MAX_HEADER, MAX_PLAN, PLAN, VERSION};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics, reason};
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, SafeTensors};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

/// An open artifact: its bytes and where each tensor lies in them.
#[derive(Debug)]
pub(crate) struct Artifact {
    path: PathBuf,
    map: Mmap,
    /// By name; positions in the file.
    tensors: BTreeMap<String, Range<usize>>,
    /// Where the header ends.
    data_start: usize,
}

/// What messages call the bytes that the first checksum covers.
pub(crate) const HEADER: &str = "the header";

/// Faults of one file that are told one by one.
const TOLD: usize = 20;

/// The part of a header that no version changes.
#[derive(Deserialize)]
struct Preamble {
    #[serde(rename = "__metadata__", default)]
    metadata: Format,
}

/// Which format a file says it has.
#[derive(Default, Deserialize)]
struct Format {
    format: Option<String>,
    version: Option<String>,
}

/// Whether the file at `path` is a compiled model of any version, whole or not, so that a command can tell it from a
/// checkpoint's file.
pub fn is_artifact(path: &Path) -> bool {
    let Ok(file) = open(path) else { return false };
    // SAFETY: as in `Artifact::open`.
    let Ok(map) = (unsafe { Mmap::map(&file) }) else { return false };
    version(path, &map).is_ok()
}

/// Opens the regular file at `path`; a pipe could block, and a directory cannot be mapped.
pub(crate) fn open(path: &Path) -> Result<File, Diagnostic> {
    let fault = |e: std::io::Error| {
        let code = if e.kind() == std::io::ErrorKind::NotFound { Code::MissingFile } else { Code::Io };
        Diagnostic::new(code).at(path.display().to_string()).message(reason(&e))
    };
    let kind = std::fs::metadata(path).map_err(fault)?;
    match kind.is_file() {
        true => File::open(path).map_err(fault),
        false if kind.is_dir() => Err(not_an_artifact(path, "it is a directory")),
        false => Err(not_an_artifact(path, "it is no regular file")),
    }
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

/// The version that the file says it has, read before anything that depends on it.
fn version(path: &Path, bytes: &[u8]) -> Result<String, Diagnostic> {
    let Some((prefix, rest)) = bytes.split_first_chunk().filter(|(_, rest)| rest.starts_with(b"{")) else {
        let what = if bytes.is_empty() { "it is empty" } else { "it is another kind of file" };
        return Err(not_an_artifact(path, what));
    };
    let fault = |why: String| match rest.starts_with(BEGINNING.as_bytes()) {
        true => damaged(path, why),
        false => not_an_artifact(path, why),
    };
    let length = Some(u64::from_le_bytes(*prefix)).filter(|length| *length <= MAX_HEADER as u64);
    let header = length.and_then(|length| rest.get(..length as usize));
    let header = header.ok_or_else(|| fault("its header does not end where it should".to_owned()))?;
    let Preamble { metadata } =
        serde_json::from_slice(header).map_err(|e| fault(format!("its header cannot be read: {e}")))?;
    if metadata.format.is_none_or(|format| format != FORMAT) {
        return Err(not_an_artifact(path, "it is a safetensors file, but not one that llamac compiled"));
    }
    Ok(metadata.version.unwrap_or_else(|| "none".to_owned()))
}

fn wrong_version(path: &Path, found: &str) -> Diagnostic {
    let fault = Diagnostic::new(Code::ArtifactVersion)
        .at(path.display().to_string())
        .expected(format!("version {VERSION}"))
        .found(format!("version {found}"))
        .help("compile the checkpoint again with this llamac, or use the llamac that wrote it");
    match found.parse::<u32>() {
        Ok(later) if later > VERSION => fault.message("a later llamac than this one wrote it"),
        _ => fault,
    }
}

/// The tensors of a file of this version, and where their bytes begin.
fn header(path: &Path, bytes: &[u8]) -> Result<(usize, Metadata), Diagnostic> {
    match SafeTensors::read_metadata(bytes) {
        Ok((length, header)) => Ok((8 + length, header)),
        Err(SafeTensorError::MetadataIncompleteBuffer) => Err(wrong_length(path, bytes)),
        Err(e) => Err(damaged(path, format!("its header cannot be read: {e}"))),
    }
}

/// A file that is shorter or longer than its header, which can be read, says.
fn wrong_length(path: &Path, bytes: &[u8]) -> Diagnostic {
    let header = bytes.split_first_chunk().and_then(|(prefix, rest)| {
        let header = rest.get(..usize::try_from(u64::from_le_bytes(*prefix)).ok()?)?;
        let metadata: Metadata = serde_json::from_slice(header).ok()?;
        (8 + header.len()).checked_add(metadata.data_len())
    });
    let fault = damaged(
        path,
        match header {
            Some(whole) if whole > bytes.len() => "the file is cut",
            _ => "the file is longer than its header says",
        },
    );
    let fault = fault.found(format!("{} bytes", bytes.len()));
    match header {
        Some(whole) => fault.expected(format!("{whole} bytes")),
        None => fault,
    }
}

impl Artifact {
    /// Maps `file`, called `path` in messages, and checks container and version. Checksums are not compared.
    pub(crate) fn open(file: &File, path: &Path) -> Result<Self, Diagnostic> {
        // SAFETY: the map is read-only and the compiler replaces an artifact by renaming a new file over it, so the
        // mapped one keeps its bytes. Whoever truncates a mapped file by other means gets a bus error, as with any
        // mapped file; no reference outlives the map.
        let map = unsafe { Mmap::map(file) }
            .map_err(|e| Diagnostic::new(Code::Io).at(path.display().to_string()).message(reason(&e)))?;
        // Only a hint, for speed: pages that are not in memory yet come as huge ones where the system can.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let version = version(path, &map)?;
        if version != VERSION.to_string() {
            return Err(wrong_version(path, &version));
        }
        let (data_start, header) = header(path, &map)?;
        let tensors: BTreeMap<String, Range<usize>> = header
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, data_start + info.data_offsets.0..data_start + info.data_offsets.1))
            .collect();
        Ok(Self { path: path.to_owned(), map, tensors, data_start })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Its tensors, among them plan, files, checksums and padding.
    pub(crate) fn tensor_count(&self) -> usize {
        self.tensors.len()
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

    /// The names of what differs from its checksum: tensors, in the order of the file, and [`HEADER`]. Checksums are
    /// compared in parallel.
    ///
    /// # Errors
    /// When there is no table of checksums.
    pub(crate) fn differing(&self, threads: usize) -> Result<Vec<&str>, Diagnostic> {
        let mut spans: Vec<(&str, Range<usize>)> =
            self.tensors.iter().map(|(n, r)| (n.as_str(), r.clone())).collect();
        // Empty tensors share a start with their neighbour; the name decides, as it does for the writer.
        spans.sort_by(|a, b| (a.1.start, a.1.end, a.0).cmp(&(b.1.start, b.1.end, b.0)));
        let table = match spans.first() {
            Some((CHECKSUMS, range))
                if range.len() >= 8 * (spans.len() + 1) && range.len().is_multiple_of(8) =>
            {
                range.clone()
            }
            _ => return Err(self.damaged("its table of checksums is missing or has another size")),
        };
        let slots: Vec<u64> =
            self.map[table.clone()].as_chunks().0.iter().map(|&slot| u64::from_le_bytes(slot)).collect();
        spans[0] = (HEADER, 0..self.data_start);
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
        let own = xxh3_64(&self.map[table.start..table.end - 8]) != slots[slots.len() - 1];
        let others = spans.iter().zip(&wrong).filter(|(_, wrong)| wrong.load(Ordering::Relaxed));
        Ok(own.then_some(CHECKSUMS).into_iter().chain(others.map(|((name, _), _)| *name)).collect())
    }

    /// A fault for each of the names that [`Artifact::differing`] gave; many are told in one.
    pub(crate) fn faults(&self, differing: &[&str]) -> Diagnostics {
        let mut faults = Diagnostics::new();
        let (told, counted) = differing.split_at(differing.len().min(TOLD));
        let doubtful = differing.contains(&CHECKSUMS);
        for name in told {
            let fault = self.damaged(match doubtful && *name != CHECKSUMS {
                true => "its bytes do not match their checksum, which may be what is damaged",
                false => "its bytes do not match their checksum",
            });
            faults.push(fault.at(format!("{}: {name}", self.path.display())));
        }
        if !counted.is_empty() {
            faults.push(self.damaged(format!("the same of {} more: {}", counted.len(), counted.join(", "))));
        }
        faults
    }
}
