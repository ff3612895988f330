//! The files of a model: one, or several that are named `NAME-00001-of-00003.gguf` and so on.

use std::path::Path;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::container::{self, Header};
use super::value::Value;
use crate::source::file::MappedFile;

/// Digits of a number in the name of a file.
const DIGITS: usize = 5;

/// Opens the file at `path`, and those that belong to it, the first one first.
///
/// # Errors
/// Files that are missing, or cannot be read; a part whose name does not say where the others are.
pub(super) fn files(path: &Path) -> Result<Vec<MappedFile>, Diagnostics> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let given = MappedFile::open(path.to_owned(), name.clone())?;
    let header = container::header(&name, given.bytes())?;
    if let (Some(found), None) = (header.metadata.get(COUNT), number(&header, COUNT)) {
        let fault = Diagnostic::new(Code::ShardsDisagree).at(format!("{name}: {COUNT}"));
        return Err(fault.expected("a number of files").found(super::shown(found)).into());
    }
    let count = number(&header, COUNT).unwrap_or(1);
    if count <= 1 {
        return Ok(vec![given]);
    }
    let Some(parts) = Parts::of(&name).filter(|parts| parts.count == count) else {
        let fault = Diagnostic::new(Code::ShardsDisagree).at(name);
        let fault = fault.message(format!("the file is one of {count}, but not named like the others"));
        return Err(fault.expected(format!("a name that ends in -00001-of-{count:05}.gguf")).into());
    };
    let mut faults = Diagnostics::new();
    let mut files = Vec::new();
    for n in 1..=count {
        let name = parts.name(n);
        let place = path.with_file_name(&name);
        let opened = MappedFile::open(place.clone(), name).map_err(|fault| match fault.code {
            Code::MissingFile => Diagnostic::new(Code::MissingFile)
                .at(place.display().to_string())
                .found("no such file")
                .help(format!("the model is in {count} files: fetch them all")),
            _ => fault,
        });
        files.extend(faults.absorb(opened.map_err(Diagnostics::from)));
        // Nobody reads more, and a count may be a lie.
        if faults.iter().count() == 20 {
            break;
        }
    }
    faults.or(files)
}

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

fn number(header: &Header<'_>, key: &str) -> Option<u64> {
    match header.metadata.get(key) {
        Some(Value::Unsigned(n)) => Some(*n),
        Some(Value::Signed(n)) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// Checks that `headers` are those of one model, in order.
///
/// # Errors
/// `ShardsDisagree`.
pub(super) fn check(files: &[MappedFile], headers: &[Header<'_>]) -> Result<(), Diagnostics> {
    let count = headers.len() as u64;
    if count == 1 {
        return Ok(());
    }
    let mut faults = Diagnostics::new();
    for (n, (file, header)) in files.iter().zip(headers).enumerate() {
        let found = (number(header, NUMBER), number(header, COUNT));
        if found != (Some(n as u64), Some(count)) {
            let shown = |n: Option<u64>| n.map_or("nothing".to_owned(), |n| n.to_string());
            faults.push(
                Diagnostic::new(Code::ShardsDisagree)
                    .at(file.name())
                    .expected(format!("{NUMBER} {n} and {COUNT} {count}"))
                    .found(format!("{} and {}", shown(found.0), shown(found.1)))
                    .help("do these files belong together? fetch all of them from one place"),
            );
        }
    }
    let tensors: usize = headers.iter().map(|header| header.tensors.len()).sum();
    for (file, header) in files.iter().zip(headers) {
        if let Some(said) = number(header, TENSORS).filter(|said| *said != tensors as u64) {
            let fault = Diagnostic::new(Code::ShardsDisagree).at(format!("{}: {TENSORS}", file.name()));
            faults.push(fault.expected(format!("{said} tensors")).found(format!("{tensors} in all files")));
        }
    }
    faults.or(())
}

/// The parts that a name of a file speaks of.
struct Parts<'a> {
    stem: &'a str,
    count: u64,
}

impl<'a> Parts<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        (digits(number) && digits(count)).then_some(Self { stem, count: count.parse().ok()? })
    }

    fn name(&self, n: u64) -> String {
        format!("{}-{n:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let parts = Parts::of("a-b-00002-of-00003.gguf").unwrap();
        assert_eq!((parts.count, parts.name(1)), (3, "a-b-00001-of-00003.gguf".to_owned()));
        for name in
            ["a.gguf", "a-1-of-3.gguf", "a-00001-of-00003.bin", "-of-00003.gguf", "a-0000x-of-00003.gguf"]
        {
            assert!(Parts::of(name).is_none(), "{name}");
        }
    }
}
