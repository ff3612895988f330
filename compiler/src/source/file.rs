//! Files of a checkpoint: read whole where they are small, mapped where they hold weights.
//!
//! This is the only place of the compiler with unsafe code: the mapping.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use llamac_plan::diagnostic::{Code, Diagnostic, reason};
use memmap2::{Advice, Mmap};

/// Opens a regular file. Pipes and devices, which could block or never end, are refused.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not a regular file"));
    }
    Ok((File::open(path)?, metadata.len()))
}

/// A fault of opening or reading the file at `path`.
pub(super) fn failed(path: &Path, error: &io::Error) -> Diagnostic {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::MissingFile,
        io::ErrorKind::OutOfMemory => Code::OutOfMemory,
        _ => Code::Io,
    };
    Diagnostic::new(code).at(path.display().to_string()).message(reason(error))
}

/// The content of a file of at most `limit` bytes; nothing where there is no such file.
///
/// # Errors
/// `Io` where it cannot be read, `BadJson` (all files that are read whole are JSON) where it is larger, or something
/// else under its name.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Diagnostic> {
    let (file, length) = match open(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, &error)),
    };
    let too_large = || {
        Diagnostic::new(Code::BadJson)
            .at(path.display().to_string())
            .message("the file is too large for what it should hold")
            .expected(format!("at most {limit} bytes"))
    };
    if length > limit {
        return Err(too_large().found(format!("{length} bytes")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // The file may have grown since its length was asked for.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| failed(path, &error))?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    match stand_in(&bytes) {
        Some(help) => Err(Diagnostic::new(Code::BadJson).at(path.display().to_string()).help(help)),
        None => Ok(Some(bytes)),
    }
}

/// What people have in place of a file that could not be downloaded, or by a wrong name, and what helps.
pub(crate) fn stand_in(bytes: &[u8]) -> Option<&'static str> {
    const POINTER: &str =
        "this is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository";
    const PAGE: &str = "this is a web page: download the file itself";
    const KNOWN: [(&[u8], &str); 6] = [
        (b"version https://git-lfs", POINTER),
        (b"<!DOCTYPE", PAGE),
        (b"<!doctype", PAGE),
        (b"<html", PAGE),
        (b"PK\x03\x04", "this is a PyTorch or zip file: should its name be pytorch_model.bin?"),
        (b"GGUF", "this is a GGUF file: give it as the model, by its own path"),
    ];
    KNOWN.into_iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, help)| help)
}

/// Entries of a directory that are looked at.
const MAX_ENTRIES: usize = 1000;

/// Names of the entries of a directory, sorted; none where it cannot be read.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().take(MAX_ENTRIES);
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A file of weights in memory, read by the operating system as its bytes are touched.
#[derive(Debug)]
pub struct MappedFile {
    name: String,
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`; `name` is what messages call it.
    ///
    /// # Errors
    /// `MissingFile`, `Io` or `OutOfMemory`, with the path.
    pub fn open(path: PathBuf, name: String) -> Result<Self, Diagnostic> {
        let (file, _) = open(&path).map_err(|error| failed(&path, &error))?;
        // SAFETY: the mapping is read-only and private to this process, and its bytes are only ever read as plain
        // numbers, of which every bit pattern is valid. Another process that writes to the file changes numbers; one
        // that truncates it makes a later access fail with a signal, which no program that maps files can exclude.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| failed(&path, &error))?;
        Ok(Self { name, path, map })
    }

    /// What messages call it: its name within the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its content.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the system how the content is read; what it cannot be told only takes longer.
    fn advise(&self, advice: Advice) {
        self.map.advise(advice).unwrap_or_default();
    }
}

/// What `read` makes of `files`, of which it touches small pieces far from each other: what lies around them is not read
/// along with them.
pub(super) fn in_pieces<T>(files: &[MappedFile], read: impl FnOnce() -> T) -> T {
    files.iter().for_each(|file| file.advise(Advice::Random));
    let made = read();
    files.iter().for_each(|file| file.advise(Advice::Normal));
    made
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
