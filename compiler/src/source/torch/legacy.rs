//! The container before torch 1.6: pickles one after the other, then the storages, each behind its length.

use std::collections::HashMap;
use std::ops::Range;

use llamac_plan::diagnostic::{Diagnostic, Diagnostics};

use super::pickle::{Object, Pickle, Storage, Value};
use super::{damaged, state};
use crate::source::safetensors::StoredTensor;

/// The first two pickles: a magic number of ten bytes, and the version 1001 of the container.
pub(super) const MAGIC: &[u8] =
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Vec<StoredTensor>, Diagnostics> {
    let mut at = MAGIC.len();
    let mut next = |what: &str| {
        let read = Pickle::read(&bytes[at..]).map_err(|fault| {
            let place = at + fault.place;
            super::pickle::Fault { place, ..fault }.at(&format!("{file}: {what}"))
        })?;
        at += read.end;
        Ok::<_, Diagnostic>(read)
    };
    let system = next("the description of the machine")?;
    let little_endian = match system.object(system.value) {
        Some(Object::Dict(members)) => members.iter().any(|(key, value)| {
            matches!((key, value), (Value::Text(key), Value::Bool(true)) if system.text(*key) == "little_endian")
        }),
        _ => false,
    };
    if !little_endian {
        return Err(damaged(file).expected("the numbers of a little-endian machine").into());
    }
    let pickle = next("the dictionary")?;
    let keys = next("the list of storages")?;
    let Some(Object::List(keys_in_order)) = keys.object(keys.value) else {
        return Err(damaged(file).message("the file has no list of its storages").into());
    };
    let sizes = element_sizes(&pickle);
    let mut storages: HashMap<&str, Range<usize>> = HashMap::new();
    for key in keys_in_order {
        let Value::Text(key) = *key else {
            return Err(damaged(file).message("the key of a storage is no text").into());
        };
        let key = keys.text(key);
        let place = || format!("{file}: storage {}", key.chars().take(200).collect::<String>());
        let Some(size) = sizes.get(key) else {
            return Err(damaged(place())
                .message("no tensor uses this storage, so its size is unknown")
                .into());
        };
        let start = at.checked_add(8).filter(|&start| start <= bytes.len());
        let elements = start.and_then(|start| bytes[at..start].first_chunk()).map(|b| u64::from_le_bytes(*b));
        let end = elements
            .and_then(|elements| usize::try_from(elements).ok())
            .and_then(|elements| elements.checked_mul(*size))
            .zip(start)
            .and_then(|(length, start)| start.checked_add(length))
            .filter(|&end| end <= bytes.len());
        let (Some(start), Some(end)) = (start, end) else {
            return Err(damaged(place())
                .message("the file ends before the storage does")
                .help("the file is cut: download it again")
                .into());
        };
        if storages.insert(key, start..end).is_some() {
            return Err(damaged(place()).message("the file has this storage twice").into());
        }
        at = end;
    }
    state::tensors(file, &pickle, &|key| storages.get(key).cloned())
}

/// Bytes of an element of each storage.
fn element_sizes<'a>(pickle: &Pickle<'a>) -> HashMap<&'a str, usize> {
    let size = |Storage { dtype, key, .. }: &Storage| (pickle.text(*key), dtype.bits / 8);
    pickle.storages().map(size).collect()
}
