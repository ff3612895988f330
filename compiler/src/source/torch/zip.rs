//! The container of torch 1.6 and later: a zip file of one pickle and of storages, none of them compressed.

use std::collections::HashMap;
use std::ops::Range;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use rawzip::{CompressionMethod, ZipFileHeaderRecord, ZipLocator, ZipSliceArchive};

use super::pickle::Pickle;
use super::{damaged, state};
use crate::source::safetensors::StoredTensor;

/// What the file begins with.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// The end of a zip file is looked for in as many bytes: it is followed by a comment of at most 64 KiB.
const TAIL: u64 = 1 << 17;

/// Far more storages than any model has.
const MAX_ENTRIES: u64 = 200_000;

/// The longest name of an entry that is shown.
const SHOWN: usize = 200;

/// Where the entries are in the file, by their names without the folder that all of them are in.
struct Entries<'a>(HashMap<&'a [u8], Range<usize>>);

impl Entries<'_> {
    fn get(&self, name: &str) -> Option<Range<usize>> {
        self.0.get(name.as_bytes()).cloned()
    }
}

pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Vec<StoredTensor>, Diagnostics> {
    let locator = ZipLocator::new().max_search_space(TAIL);
    let archive = locator.locate_in_slice(bytes).map_err(|(_, error)| {
        damaged(file)
            .message(format!("the directory at the end of the zip file cannot be read: {error}"))
            .help("the file is cut: download it again")
    })?;
    let entries = entries(file, &archive)?;
    if let Some(order) = entries.get("byteorder").filter(|order| bytes[order.clone()] != *b"little") {
        let found = String::from_utf8_lossy(&bytes[order]).chars().take(SHOWN).collect::<String>();
        return Err(damaged(format!("{file}: byteorder")).expected("little").found(found).into());
    }
    let Some(pickle) = entries.get("data.pkl") else {
        return Err(damaged(file)
            .expected("an entry data.pkl")
            .found("a zip file without it")
            .help("this is no file of torch.save(); torch.jit files cannot be read")
            .into());
    };
    let pickle = Pickle::read(&bytes[pickle]).map_err(|fault| fault.at(&format!("{file}: data.pkl")))?;
    state::tensors(file, &pickle, &|key| entries.get(&format!("data/{key}")))
}

/// The entries of an archive: each there once, stored as it is, and none inside of another.
fn entries<'a>(file: &str, archive: &'a ZipSliceArchive<&[u8]>) -> Result<Entries<'a>, Diagnostic> {
    let expected = archive.entries_hint();
    let unreadable = |error: rawzip::Error| {
        damaged(file).message(format!("the directory of the zip file cannot be read: {error}"))
    };
    if expected > MAX_ENTRIES {
        return Err(damaged(file)
            .message("the zip file has too many entries")
            .expected(format!("at most {MAX_ENTRIES}"))
            .found(expected.to_string()));
    }
    let (mut found, mut ranges, mut root) = (HashMap::new(), Vec::new(), None);
    let mut directory = archive.entries();
    while let Some(entry) = directory.next_entry().map_err(unreadable)? {
        let whole_name = entry_name(&entry);
        let place = || format!("{file}: {}", shown(whole_name));
        let range = range(&entry, archive).map_err(|fault| fault.at(place()))?;
        let name = match whole_name.iter().position(|&byte| byte == b'/') {
            Some(slash) if *root.get_or_insert(&whole_name[..slash]) == &whole_name[..slash] => {
                &whole_name[slash + 1..]
            }
            _ => return Err(damaged(place()).message("the entries are not in one folder")),
        };
        if found.insert(name, range.clone()).is_some() {
            return Err(damaged(place()).message("the zip file has this entry twice"));
        }
        ranges.push((range, whole_name));
    }
    if found.len() as u64 != expected {
        return Err(damaged(file)
            .message("the directory of the zip file contradicts itself")
            .expected(format!("{expected} entries"))
            .found(found.len().to_string()));
    }
    ranges.sort_by_key(|(range, _)| (range.start, range.end));
    let mut end = (0, &b""[..]);
    for (range, name) in &ranges {
        if range.start < end.0 && !range.is_empty() {
            let message = format!("the entry lies over {}", shown(end.1));
            return Err(damaged(format!("{file}: {}", shown(name))).message(message));
        }
        end = end.max((range.end, name));
    }
    if end.0 as u64 > archive.directory_offset() {
        let message = "the entry lies over the directory of the zip file";
        return Err(damaged(format!("{file}: {}", shown(end.1))).message(message));
    }
    Ok(Entries(found))
}

/// Where an entry's data is: behind its local header, whose extra field pads it to a multiple of 64 bytes.
fn range(
    entry: &ZipFileHeaderRecord<'_>,
    archive: &ZipSliceArchive<&[u8]>,
) -> Result<Range<usize>, Diagnostic> {
    let fault = || Diagnostic::new(Code::DamagedTorchFile);
    let again = "save it with torch.save(), which does neither";
    if entry.flags().is_encrypted() || entry.flags().has_strong_encryption() {
        return Err(fault().message("the entry is encrypted").help(again));
    }
    if entry.compression_method() != CompressionMethod::STORE {
        return Err(fault().message("the entry is compressed").help(again));
    }
    let (stored, plain) = (entry.compressed_size_hint(), entry.uncompressed_size_hint());
    if stored != plain {
        let sizes = format!("{stored} and {plain} bytes");
        return Err(fault().message("the entry is not compressed, but has two sizes").found(sizes));
    }
    let local = archive
        .get_entry(entry.wayfinder())
        .map_err(|error| fault().message(format!("the entry is not where the directory says: {error}")))?;
    if local.local_header().file_path().as_ref() != entry.file_path().as_ref() {
        return Err(fault().message("the entry has another name in its own header"));
    }
    let (start, end) = local.compressed_data_range();
    // Both are within the bytes in memory.
    Ok(start as usize..end as usize)
}

fn entry_name<'a>(entry: &ZipFileHeaderRecord<'a>) -> &'a [u8] {
    entry.file_path().as_bytes()
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(SHOWN)]).into_owned()
}
