//! Data of tensors in files beside the model: where it is, and whether it is all there. The data itself is not read.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path};

use llamac_plan::diagnostic::{Code, Diagnostic, reason};

use super::proto::TensorProto;
use crate::source::Capped;

/// The place of a tensor's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct External<'a> {
    /// The file, from the model's directory.
    pub location: &'a str,
    /// Where the data begins.
    pub offset: u64,
    /// Its bytes, if the model says so.
    pub length: Option<u64>,
}

impl<'a> External<'a> {
    /// The place that `tensor` names; other entries, as a checksum, are not looked at.
    ///
    /// # Errors
    /// What cannot be understood, as found.
    pub(super) fn of(tensor: &'a TensorProto) -> Result<Self, String> {
        let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key);
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(entry) => {
                let number = entry.value.parse().map_err(|_| format!("{key} = {:?}", entry.value));
                number.map(Some)
            }
        };
        let location = entry("location").map_or("", |entry| &entry.value);
        if location.is_empty() {
            return Err("no location".to_owned());
        }
        Ok(Self { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }
}

/// A file beside the model that holds data of its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExternalFile {
    /// Its bytes.
    pub size: u64,
    /// Whether it is a link that leads out of the model's directory.
    pub leads_out: bool,
    /// The bytes that tensors need it to have.
    needed: u64,
}

/// The files of tensors' data, each looked at once.
pub(super) struct Files<'a> {
    model: &'a Path,
    directory: &'a Path,
    /// By location; nothing for a file that is not there.
    found: BTreeMap<String, Option<ExternalFile>>,
}

impl<'a> Files<'a> {
    /// None so far beside the model in the file `model`.
    pub(super) fn new(model: &'a Path) -> Self {
        Self { model, directory: model.parent().unwrap_or(Path::new("")), found: BTreeMap::new() }
    }

    /// The files by location; `faults` get those that are too short for what tensors need.
    pub(super) fn check(self, faults: &mut Capped<'_>) -> BTreeMap<String, ExternalFile> {
        let there = self.found.into_iter().filter_map(|(location, file)| Some((location, file?)));
        there
            .inspect(|(location, file)| {
                if file.needed > file.size {
                    let fault = Diagnostic::new(Code::BadExternalData)
                        .at(self.directory.join(location).display().to_string())
                        .expected(format!("at least {} bytes", file.needed))
                        .found(format!("{} bytes", file.size));
                    faults.push(fault.help(
                        "the file is cut, or belongs to another model: get it again, together with the model",
                    ));
                }
            })
            .collect()
    }

    /// Looks at the place of the data of `tensor`, which `name` tells from others.
    pub(super) fn visit(&mut self, name: &str, tensor: &TensorProto, faults: &mut Capped<'_>) {
        let fault = Diagnostic::new(Code::BadExternalData).at(format!("{}: {name}", faults.file()));
        let place = match External::of(tensor) {
            Ok(place) => place,
            Err(found) => {
                let expected = "location, and offset and length as numbers";
                return faults.push(fault.expected(expected).found(found));
            }
        };
        if !is_inside(place.location) {
            let found = place.location.chars().take(100).collect::<String>();
            let expected = "the name of a file in the model's directory";
            return faults.push(fault.expected(expected).found(format!("{found:?}")));
        }
        let size = match (place.length, tensor.packed_size()) {
            (Some(length), Some(size)) if length != size => {
                let expected = format!("{size} bytes for {}", tensor.signature());
                return faults.push(fault.expected(expected).found(format!("length = {length}")));
            }
            (length, size) => length.or(size).unwrap_or(0),
        };
        let Some(end) = place.offset.checked_add(size) else {
            return faults
                .push(fault.expected("a place in a file").found(format!("offset = {}", place.offset)));
        };
        if !self.found.contains_key(place.location) {
            let file = self.look(place.location).map_err(|fault| faults.push(fault)).ok();
            self.found.insert(place.location.to_owned(), file);
        }
        if let Some(Some(file)) = self.found.get_mut(place.location) {
            file.needed = file.needed.max(end);
        }
    }

    /// Looks at the file at `location`.
    fn look(&self, location: &str) -> Result<ExternalFile, Diagnostic> {
        let path = self.directory.join(location);
        let failed = |code, found: String| Diagnostic::new(code).at(path.display().to_string()).found(found);
        let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => failed(Code::MissingFile, "no such file".to_owned())
                .expected("data of the model's tensors")
                .help("the model and its data belong in one directory, under the names that they were written with"),
            _ => failed(Code::Io, reason(&error)),
        })?;
        if !metadata.is_file() {
            return Err(failed(Code::Io, "this is not a regular file".to_owned()));
        }
        Ok(ExternalFile { size: metadata.len(), leads_out: self.leads_out(&path), needed: 0 })
    }

    /// Whether the real file at `path` is neither in the model's directory nor in that of the model's real file.
    fn leads_out(&self, path: &Path) -> bool {
        let here = if self.directory.as_os_str().is_empty() { Path::new(".") } else { self.directory };
        let real_model = fs::canonicalize(self.model).ok();
        let real_directory = real_model.as_deref().and_then(Path::parent);
        let directories = [fs::canonicalize(here).ok(), real_directory.map(Path::to_owned)];
        fs::canonicalize(path).is_ok_and(|path| !directories.iter().flatten().any(|d| path.starts_with(d)))
    }
}

/// Whether a location stays inside the model's directory, links aside.
fn is_inside(location: &str) -> bool {
    let normal = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    !location.contains(['\\', '\0']) && Path::new(location).components().all(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_stay_inside() {
        for location in ["data", "./data", "a/b", "a.b..c", "..data"] {
            assert!(is_inside(location), "{location}");
        }
        for location in ["..", "../data", "a/../../b", "/data", "a/../b", "a\\b", "C:\\data", "a\0b"] {
            assert!(!is_inside(location), "{location}");
        }
    }
}
