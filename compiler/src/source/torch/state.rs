//! From a pickle that was read to the tensors of its dictionary, each a range of the file with strides.

use std::collections::HashSet;
use std::ops::Range;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::damaged;
use super::pickle::{Fault, Object, Pickle, Storage, Tensor, Value};
use crate::source::capped::Capped;
use crate::source::safetensors::StoredTensor;

/// Tensors have few dimensions; a longer list is refused before it is stored.
const MAX_DIMENSIONS: usize = 8;

impl Fault {
    /// As a fault of `place`.
    pub(super) fn at(self, place: &str) -> Diagnostic {
        let fault =
            Diagnostic::new(self.code).at(place).message(format!("byte {}: {}", self.place, self.message));
        match self.code {
            Code::ForbiddenPickle => fault
                .expected("a dictionary of tensors, as torch.save(model.state_dict()) writes it")
                .help("nothing was run; other programs may run what the file says: get the checkpoint in safetensors"),
            _ => fault.help("the file is damaged: download it again"),
        }
    }
}

/// The tensors of `pickle`, whose storages `find` finds in the file by their keys.
pub(super) fn tensors(
    file: &str,
    pickle: &Pickle<'_>,
    find: &dyn Fn(&str) -> Option<Range<usize>>,
) -> Result<Vec<StoredTensor>, Diagnostics> {
    let Some(Object::Dict(members)) = pickle.object(pickle.value) else {
        return Err(damaged(file).expected("a dictionary of tensors").found("another object").into());
    };
    let mut faults = Capped::new(file);
    let (mut found, mut names, mut others) = (Vec::new(), HashSet::new(), Vec::new());
    for (key, value) in members {
        let Value::Text(name) = *key else { continue };
        let name = pickle.text(name);
        let Some(Object::Tensor(tensor)) = pickle.object(*value) else {
            others.push(name);
            continue;
        };
        let place = || format!("{file}: {}", shown(name));
        if !names.insert(name) {
            let fault = Diagnostic::new(Code::DuplicateTensor).at(place());
            faults.push(fault.message("the file has this name twice"));
            continue;
        }
        match stored(pickle, name, tensor, find) {
            Ok(tensor) => found.push(tensor),
            Err(fault) => faults.push(fault.at(place())),
        }
    }
    if found.is_empty() && faults.is_empty() {
        let others: Vec<String> = others.into_iter().take(3).map(shown).collect();
        return Err(damaged(file)
            .expected("a dictionary of tensors")
            .found(match others.is_empty() {
                true => "no tensors".to_owned(),
                false => format!("a dictionary without tensors, of {} and so on", others.join(", ")),
            })
            .help("a file of training holds the model as one of its members: save that by itself")
            .into());
    }
    faults.into_diagnostics().or(found)
}

/// A name, cut to a line.
fn shown(name: &str) -> String {
    name.chars().take(200).collect()
}

/// Checks a tensor against its storage, and the storage against the file.
fn stored(
    pickle: &Pickle<'_>,
    name: &str,
    tensor: &Tensor,
    find: &dyn Fn(&str) -> Option<Range<usize>>,
) -> Result<StoredTensor, Diagnostic> {
    let fault = || Diagnostic::new(Code::DamagedTorchFile);
    let numbers = |value, what: &str| {
        let all = pickle
            .numbers(value, MAX_DIMENSIONS)
            .and_then(|all| all.into_iter().map(|n| usize::try_from(n).ok()).collect::<Option<Vec<usize>>>());
        let expected = format!("{what} of at most {MAX_DIMENSIONS} dimensions, none below zero");
        all.ok_or_else(|| fault().expected(expected).found("something else"))
    };
    let shape = numbers(tensor.sizes, "sizes")?;
    let strides = numbers(tensor.strides, "strides")?;
    if shape.len() != strides.len() {
        let (sizes, strides) = (shape.len(), strides.len());
        return Err(fault().message(format!("the tensor has {sizes} sizes and {strides} strides")));
    }
    let Storage { dtype, key, elements, view } = tensor.storage;
    let key = pickle.text(key);
    let Some(range) = find(key) else {
        return Err(fault().message(format!("the file has no storage {}", shown(key))));
    };
    let size = dtype.bits / 8;
    if elements.checked_mul(size as u64) != Some(range.len() as u64) {
        return Err(fault()
            .message(format!("its storage {} has another size than the tensor says", shown(key)))
            .expected(format!("{elements} elements of {}", dtype.name))
            .found(format!("{} bytes", range.len())));
    }
    // The part of the storage that may be looked at, in elements.
    let (first, length) = view.unwrap_or((0, elements));
    let within = first.checked_add(length).is_some_and(|end| end <= elements);
    // As often as a stride is repeated, the tensor reaches further.
    let reach = shape.iter().zip(&strides).try_fold(0usize, |reach, (&n, &stride)| {
        n.saturating_sub(1).checked_mul(stride).and_then(|further| reach.checked_add(further))
    });
    let count = shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n));
    let used = if count == Some(0) { Some(0) } else { reach.and_then(|reach| reach.checked_add(1)) };
    let end = used.and_then(|used| tensor.offset.checked_add(used as u64));
    let (Some(used), true, true) = (used, within && count.is_some(), end.is_some_and(|end| end <= length))
    else {
        return Err(fault()
            .message(format!("the tensor reaches beyond its storage {} of {length} elements", shown(key)))
            .found(format!("shape {shape:?}, strides {strides:?}, from element {}", tensor.offset)));
    };
    // Within the range of the file, which is memory.
    let start = range.start + (first + tensor.offset) as usize * size;
    let strides = (!is_contiguous(&shape, &strides)).then_some(strides);
    Ok(StoredTensor { name: name.to_owned(), dtype, shape, range: start..start + used * size, strides })
}

/// Whether elements follow each other row after row.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.contains(&0)
        || shape.iter().zip(strides).rev().all(|(&n, &stride)| {
            let follows = n == 1 || stride == expected;
            expected *= n;
            follows
        })
}
