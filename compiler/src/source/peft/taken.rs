//! What is taken from the files of adapters, and what has no place in the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use llamac_ir::Weight;
use llamac_ir::suggest::nearest;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::super::checkpoint::{Checkpoint, TensorInfo};
use super::super::file::MappedFile;
use super::super::names;
use super::super::safetensors::StoredTensor;
use super::super::table::{self, Group};

/// The tensors of adapters that recipes are made of.
pub(super) struct Taken {
    /// The position of the first adapter's file.
    first: usize,
    pub tensors: BTreeMap<String, TensorInfo>,
    pub misfits: Misfits,
}

impl Taken {
    /// None yet, of adapters whose first file has position `first`.
    pub fn new(first: usize) -> Self {
        Self { first, tensors: BTreeMap::new(), misfits: Misfits::default() }
    }

    /// The tensor `stored` of adapter number `i` in `file`, which recipes call `name`; it is a part of `canonical`. Nothing where it
    /// does not fit.
    pub fn take(
        &mut self,
        (i, file): (usize, &MappedFile),
        stored: &StoredTensor,
        canonical: &str,
        name: String,
        expected: &Expected<'_>,
    ) -> Option<Weight> {
        let file = file.name();
        let place = || format!("{file}: {}", stored.name);
        let fits = stored.shape.len() == expected.shape.len()
            && stored
                .shape
                .iter()
                .zip(expected.shape)
                .all(|(found, size)| size.is_none_or(|size| size == *found))
            && stored.shape.iter().all(|size| *size > 0);
        if !fits {
            let size = |size: &Option<usize>| size.map_or("any".to_owned(), |size| size.to_string());
            let sizes: Vec<String> = expected.shape.iter().map(size).collect();
            let wanted = format!("[{}]  ({})", sizes.join(", "), expected.why);
            let found = format!("{:?}", stored.shape);
            self.misfits.add(Code::AdapterMismatch, canonical, place(), Some((wanted, found)), None);
        }
        let Some(dtype) = table::dtype(stored.dtype.name) else {
            let wanted = ("F32, F16 or BF16".to_owned(), stored.dtype.name.to_owned());
            self.misfits.add(Code::WrongDtype, canonical, place(), Some(wanted), None);
            return None;
        };
        let weight = Weight::source(&name, dtype, &stored.shape).ok().filter(|_| fits)?;
        let StoredTensor { name: stored_name, shape, range, strides, .. } = stored.clone();
        let position = self.first + i;
        let file = Arc::from(file);
        self.tensors.insert(name, TensorInfo { file, stored_name, dtype, shape, position, range, strides });
        Some(weight)
    }
}

/// The shape that a tensor has to have, and where its sizes come from.
pub(super) struct Expected<'a> {
    /// Sizes; any where there is none.
    pub shape: &'a [Option<usize>],
    pub why: &'a str,
}

/// What an adapter has that the model has no place for, the same in several layers once.
#[derive(Default)]
pub(super) struct Misfits(BTreeMap<(String, Misfit), Group>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Misfit {
    code: Code,
    sizes: Option<(String, String)>,
    message: Option<String>,
}

impl Misfits {
    /// A tensor at `place`, which is a part of `canonical`, does not fit: what was expected and found, or a sentence.
    pub fn add(
        &mut self,
        code: Code,
        canonical: &str,
        place: String,
        sizes: Option<(String, String)>,
        message: Option<&str>,
    ) {
        let (layer, rest) = match names::layer(canonical) {
            Some((layer, rest)) => (Some(layer), rest),
            None => (None, canonical),
        };
        // Of one tensor's parts, each is told.
        let end = place.rsplit_once("lora_").map_or("", |(_, end)| end);
        let key = format!("{rest} {end}");
        let misfit = Misfit { code, sizes, message: message.map(str::to_owned) };
        self.0.entry((key, misfit)).or_default().push(layer, place);
    }

    pub fn into_diagnostics(self) -> Diagnostics {
        let fault = |((_, misfit), group): ((String, Misfit), Group)| {
            let Misfit { code, sizes, message } = misfit;
            let fault = group.fault(code)?;
            let fault = match (message, fault.message.clone()) {
                (Some(message), Some(same)) => fault.message(format!("{message} ({same})")),
                (Some(message), None) => fault.message(message),
                (None, _) => fault,
            };
            Some(match sizes {
                Some((expected, found)) => fault.expected(expected).found(found),
                None => fault,
            })
        };
        self.0.into_iter().filter_map(fault).collect()
    }
}

/// A sentence on a module that the model does not have.
pub(super) fn no_module(base: &Checkpoint, canonical: &str) -> String {
    let layers = base.config.num_hidden_layers;
    if names::layer(canonical).is_some_and(|(layer, _)| layer >= layers) {
        return format!("the model has {layers} layers");
    }
    if canonical.ends_with(".bias") {
        return "the model has no biases there".to_owned();
    }
    let modules: BTreeSet<&str> = base.weights.keys().map(String::as_str).collect();
    match nearest(canonical, modules.iter().copied()) {
        Some(near) if near != canonical => format!("the model has no {canonical}, but {near}"),
        _ => format!("the model has no {canonical} that an adapter could change"),
    }
}

/// Two adapters that replace one tensor; `other` is the file of the one that came first.
pub(super) fn contested(place: String, other: &str) -> Diagnostic {
    Diagnostic::new(Code::AdapterMismatch)
        .at(place)
        .message(format!("{other} replaces the same: what is replaced cannot be added up"))
        .help("leave one of the two adapters out")
}
