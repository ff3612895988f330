//! Writes the artifact's container: a header computed up front, tensors streamed to their places by any number of
//! threads, checksums filled in last. The format is described in [`llamac_plan::artifact`].
//!
//! What the tensors hold is not known here. Nothing is buffered beyond what a tensor's writer hands over at a time.
//!
//! Before anything is written to a region of [`HUGE_PAGE`] bytes, it is written whole, as zeros: file systems that can
//! then keep it as one huge page, which maps of the file read faster than many small ones.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use llamac_plan::artifact::{CHECKSUMS, FORMAT, PAD, VERSION};
use llamac_plan::layout::ALIGNMENT;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes of a huge page, where pages have 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// A tensor's place in the data section.
struct Entry {
    name: String,
    start: usize,
    len: usize,
}

/// The places of all tensors and what has been written of them.
pub(crate) struct Container<'a> {
    file: &'a File,
    header: Vec<u8>,
    entries: Vec<Entry>,
    /// Checksums, by entry; the first is the header's.
    sums: Vec<OnceLock<u64>>,
    /// For each region of a huge page, whether something was written to it.
    regions: Vec<Mutex<bool>>,
    /// What a region begins as.
    zeros: Vec<u8>,
}

/// Writes one tensor from its start to its end.
pub(crate) struct TensorWriter<'a> {
    container: &'a Container<'a>,
    position: usize,
    left: usize,
    hash: Xxh3,
    sum: &'a OnceLock<u64>,
}

impl<'a> Container<'a> {
    /// Lays out a container for tensors of these names and sizes in bytes, in this order, in an empty `file`.
    ///
    /// Returns `None` if the sizes do not fit into an address space.
    pub(crate) fn new(file: &'a File, tensors: &[(String, usize)]) -> Option<Self> {
        let entries = lay_out(tensors)?;
        let sums = entries.iter().map(|_| OnceLock::new()).collect();
        let header = header(&entries);
        let regions = len(&header, &entries).div_ceil(HUGE_PAGE);
        let regions = (0..regions).map(|_| Mutex::new(false)).collect();
        Some(Self { file, header, entries, sums, regions, zeros: vec![0; HUGE_PAGE] })
    }

    /// Size of the finished file in bytes.
    pub(crate) fn len(&self) -> usize {
        len(&self.header, &self.entries)
    }

    /// Size of its header in bytes, length prefix included.
    pub(crate) fn header_len(&self) -> usize {
        self.header.len()
    }

    /// Writes what needs no tensor's writer: the header and the padding.
    pub(crate) fn begin(&self) -> io::Result<()> {
        self.write(&self.header, 0)?;
        let _ = self.sums[0].set(xxh3_64(&self.header));
        for entry in self.entries.iter().filter(|entry| entry.name.starts_with(PAD)) {
            let mut writer = self.tensor(&entry.name);
            writer.write(&[0; ALIGNMENT][..entry.len])?;
            writer.finish();
        }
        Ok(())
    }

    /// The writer of a tensor that was laid out.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub(crate) fn tensor(&self, name: &str) -> TensorWriter<'_> {
        let i = self.entries.iter().position(|entry| entry.name == name).expect("the tensor was laid out");
        let entry = &self.entries[i];
        TensorWriter {
            container: self,
            position: self.header.len() + entry.start,
            left: entry.len,
            hash: Xxh3::new(),
            sum: &self.sums[i],
        }
    }

    /// Fills in the checksums once every tensor's writer has finished.
    ///
    /// # Panics
    /// If one has not.
    pub(crate) fn finish(self) -> io::Result<()> {
        let mut table: Vec<u8> = Vec::with_capacity(self.entries[0].len);
        for sum in &self.sums {
            table.extend(sum.get().expect("every tensor was written").to_le_bytes());
        }
        table.resize(self.entries[0].len - 8, 0);
        table.extend(xxh3_64(&table).to_le_bytes());
        self.write(&table, self.header.len())
    }

    /// Writes `bytes` at `position`, once the regions that they touch are there.
    fn write(&self, bytes: &[u8], position: usize) -> io::Result<()> {
        let end = position + bytes.len();
        for region in position / HUGE_PAGE..end.div_ceil(HUGE_PAGE) {
            let mut written = self.regions[region].lock().unwrap_or_else(PoisonError::into_inner);
            if !*written {
                let start = region * HUGE_PAGE;
                self.file.write_all_at(&self.zeros[..HUGE_PAGE.min(self.len() - start)], start as u64)?;
                *written = true;
            }
        }
        self.file.write_all_at(bytes, position as u64)
    }
}

impl TensorWriter<'_> {
    /// Appends `bytes`.
    ///
    /// # Panics
    /// If the tensor has no room for them.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes.len()).expect("a tensor's writer stays within its size");
        self.hash.update(bytes);
        self.container.write(bytes, self.position)?;
        self.position += bytes.len();
        Ok(())
    }

    /// Notes the checksum of the whole tensor.
    ///
    /// # Panics
    /// If it is not whole.
    pub(crate) fn finish(self) {
        assert_eq!(self.left, 0, "a tensor's writer fills its tensor");
        let _ = self.sum.set(self.hash.digest());
    }
}

/// The places of tensors of these names and sizes, if they fit into an address space.
fn lay_out(tensors: &[(String, usize)]) -> Option<Vec<Entry>> {
    let mut entries = vec![Entry { name: CHECKSUMS.to_owned(), start: 0, len: 0 }];
    let mut end = 0usize;
    for (name, len) in tensors {
        let aligned = end.checked_next_multiple_of(ALIGNMENT)?;
        if aligned > end {
            entries.push(Entry { name: format!("{PAD}{}", entries.len()), start: end, len: aligned - end });
        }
        entries.push(Entry { name: name.clone(), start: aligned, len: *len });
        end = aligned.checked_add(*len)?;
    }
    // A slot for each entry and one for the table itself, rounded up, so that what follows stays aligned.
    let table = (8 * (entries.len() + 1)).next_multiple_of(ALIGNMENT);
    end.checked_add(table)?;
    entries[0].len = table;
    entries[1..].iter_mut().for_each(|entry| entry.start += table);
    Some(entries)
}

/// Size in bytes of a container for tensors of these names and sizes, if they fit into an address space.
pub(crate) fn size(tensors: &[(String, usize)]) -> Option<u64> {
    let entries = lay_out(tensors)?;
    Some(len(&header(&entries), &entries) as u64)
}

fn len(header: &[u8], entries: &[Entry]) -> usize {
    header.len() + entries.last().map_or(0, |entry| entry.start + entry.len)
}

/// The length prefix and the header, padded with spaces so that the data section starts on the alignment.
fn header(entries: &[Entry]) -> Vec<u8> {
    let mut json = format!(r#"{{"__metadata__":{{"format":"{FORMAT}","version":"{VERSION}"}}"#);
    for entry in entries {
        let name = serde_json::Value::from(entry.name.as_str());
        let (start, end) = (entry.start, entry.start + entry.len);
        json.push_str(&format!(
            r#",{name}:{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#,
            entry.len
        ));
    }
    json.push('}');
    let padded = (8 + json.len()).next_multiple_of(ALIGNMENT) - 8;
    json.extend(std::iter::repeat_n(' ', padded - json.len()));
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `sizes` as tensors and reads the file back with the reference reader.
    fn round_trip(sizes: &[usize]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tensors: Vec<(String, usize)> =
            sizes.iter().enumerate().map(|(i, n)| (format!("t{i}"), *n)).collect();
        let container = Container::new(file.as_file(), &tensors).unwrap();
        container.begin().unwrap();
        for (i, (name, len)) in tensors.iter().enumerate() {
            let mut writer = container.tensor(name);
            for part in vec![i as u8 + 1; *len].chunks((len / 3).max(7)) {
                writer.write(part).unwrap();
            }
            writer.finish();
        }
        let len = container.len();
        container.finish().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(bytes.len(), len);
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (i, (name, len)) in tensors.iter().enumerate() {
            let data = read.tensor(name).unwrap().data().to_vec();
            assert_eq!(data, vec![i as u8 + 1; *len]);
            let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
            assert_eq!(metadata.info(name).unwrap().data_offsets.0 % ALIGNMENT, 0);
        }
        let table = read.tensor(CHECKSUMS).unwrap();
        assert!(table.data().len() >= 8 * (read.len() + 1), "{sizes:?}");
    }

    #[test]
    fn tensors_end_anywhere_in_huge_pages() {
        round_trip(&[HUGE_PAGE - 100, 300, 3 * HUGE_PAGE + 5, HUGE_PAGE]);
    }

    /// Neighbours that threads write at the same time do not erase each other.
    #[test]
    fn threads_share_regions() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tensors: Vec<(String, usize)> = (0..64).map(|i| (i.to_string(), 50_000)).collect();
        let container = Container::new(file.as_file(), &tensors).unwrap();
        container.begin().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (container, tensors) = (&container, &tensors);
                scope.spawn(move || {
                    for (i, (name, len)) in tensors.iter().enumerate().skip(thread).step_by(4) {
                        let mut writer = container.tensor(name);
                        writer.write(&vec![i as u8 + 1; *len]).unwrap();
                        writer.finish();
                    }
                });
            }
        });
        container.finish().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (i, (name, len)) in tensors.iter().enumerate() {
            assert!(read.tensor(name).unwrap().data() == vec![i as u8 + 1; *len], "{name}");
        }
    }

    #[test]
    fn containers_of_every_small_count_are_valid() {
        for count in 0..40 {
            round_trip(&vec![64; count]);
            round_trip(&(0..count).map(|i| i * 13 + 1).collect::<Vec<_>>());
        }
    }
}
