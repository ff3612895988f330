//! Tensors of adapters that replace those of the base: embeddings of another vocabulary, heads, norms, biases.

use std::collections::{BTreeMap, BTreeSet};

use llamac_ir::Weight;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use serde_json::{Map, Value};

use super::super::Head;
use super::super::checkpoint::{Checkpoint, Tie};
use super::super::names::{EMBEDDING, HEADS, LM_HEAD, QA_OUTPUTS, QA_OUTPUTS_BIAS, SCORE, SCORE_BIAS};
use super::super::safetensors::StoredTensor;
use super::adapter::Replacing;
use super::configuration::{configure, untie};
use super::taken::{Expected, Taken, contested, no_module};

/// Puts what `adapters` replace into the place of what `base` has, and changes its configuration to what that makes of it.
pub(super) fn apply(
    base: &mut Checkpoint,
    adapters: &[Replacing<'_>],
    taken: &mut Taken,
) -> Result<(), Diagnostics> {
    let mut faults = Diagnostics::new();
    let mut by: BTreeMap<&str, (usize, &StoredTensor)> = BTreeMap::new();
    for (i, adapter) in adapters.iter().enumerate() {
        for (name, stored) in adapter.replaced {
            if let Some((other, _)) = by.insert(name, (i, stored)) {
                let place = format!("{}: {}", adapter.file.name(), stored.name);
                faults.push(contested(place, adapters[other].file.name()));
            }
        }
    }
    let mut new = BTreeMap::new();
    for (name, (i, stored)) in by {
        if HEADS.contains(&name) && !of_head(base.head).contains(&name) {
            continue;
        }
        let (shape, why) = expected(base, name);
        let Some(shape) = shape else {
            let place = format!("{}: {}", adapters[i].file.name(), stored.name);
            taken.misfits.add(Code::AdapterMismatch, name, place, None, Some(&no_module(base, name)));
            continue;
        };
        let (module, end) = name.rsplit_once('.').unwrap_or((name, ""));
        let recipe = format!("{module}.modules_to_save.{i}.{end}");
        let expected = Expected { shape: &shape, why: &why };
        if let Some(weight) = taken.take((i, adapters[i].file), stored, name, recipe, &expected) {
            new.insert(name, (i, stored, weight));
        }
    }
    let is_tied = adapters.iter().any(|adapter| adapter.tied);
    tie(base, adapters, &new, is_tied)?;
    faults.absorb(vocabulary(base, adapters, &new));
    base.weights.extend(new.iter().map(|(name, (.., weight))| ((*name).to_owned(), weight.clone())));
    if base.tie == Tie::Tied {
        base.weights.remove(LM_HEAD);
    }
    faults.absorb(head(base));
    faults.or(())
}

/// What is replaced, by canonical name: by which adapter, with which tensor, as which recipe.
type New<'a> = BTreeMap<&'a str, (usize, &'a StoredTensor, Weight)>;

/// The tensors of a head.
pub(super) fn of_head(head: Head) -> &'static [&'static str] {
    match head {
        Head::Base => &[],
        Head::CausalLm => &[LM_HEAD],
        Head::SequenceClassification => &[SCORE],
        Head::TokenClassification => &[SCORE, SCORE_BIAS],
        Head::QuestionAnswering => &[QA_OUTPUTS, QA_OUTPUTS_BIAS],
    }
}

/// The shape that a replacement has to have, and why; nothing where the model has no such tensor.
fn expected(base: &Checkpoint, name: &str) -> (Option<Vec<Option<usize>>>, String) {
    let hidden = base.config.hidden_size;
    let width = format!("hidden_size {hidden}");
    match name {
        EMBEDDING | LM_HEAD => (Some(vec![None, Some(hidden)]), format!("a row for each token, {width}")),
        SCORE => (Some(vec![None, Some(hidden)]), format!("a row for each label, {width}")),
        SCORE_BIAS => (Some(vec![None]), "a number for each label".to_owned()),
        QA_OUTPUTS => {
            (Some(vec![Some(2), Some(hidden)]), format!("the start and the end of an answer, {width}"))
        }
        QA_OUTPUTS_BIAS => (Some(vec![Some(2)]), "the start and the end of an answer".to_owned()),
        _ => {
            let shape =
                base.weights.get(name).map(|weight| weight.shape().iter().map(|&n| Some(n)).collect());
            (shape, "the shape of what is replaced".to_owned())
        }
    }
}

/// What becomes of a tie: embeddings that are replaced alike stay one, and so do those of another vocabulary of which only
/// one is given. An adapter that replaces one of them alone leaves the other as it was, as PEFT does.
fn tie(
    base: &mut Checkpoint,
    adapters: &[Replacing<'_>],
    new: &New<'_>,
    is_tied: bool,
) -> Result<(), Diagnostic> {
    if base.tie != Tie::Tied {
        return Ok(());
    }
    let bytes = |(i, stored, _): &(usize, &StoredTensor, Weight)| {
        (stored.dtype, adapters[*i].file.bytes().get(stored.range.clone()), stored.strides.clone())
    };
    let rows = |(.., weight): &(usize, &StoredTensor, Weight)| weight.shape()[0];
    let untied = match (new.get(EMBEDDING), new.get(LM_HEAD)) {
        (None, None) => false,
        (Some(a), Some(b)) => bytes(a) != bytes(b),
        (Some(one), None) => rows(one) == base.config.vocab_size && !is_tied,
        (None, Some(_)) => true,
    };
    if untied {
        let old = base.weights.get(EMBEDDING).cloned();
        base.weights.extend(old.map(|old| (LM_HEAD.to_owned(), old)));
        untie(base)?;
    }
    Ok(())
}

/// The size of the vocabulary, which the embeddings agree on.
fn vocabulary(base: &mut Checkpoint, adapters: &[Replacing<'_>], new: &New<'_>) -> Result<(), Diagnostics> {
    let embeddings = [EMBEDDING, LM_HEAD].into_iter().filter(|name| match *name {
        LM_HEAD => base.head == Head::CausalLm && base.tie != Tie::Tied,
        _ => true,
    });
    let rows = |name: &str| match new.get(name) {
        Some((.., weight)) => weight.shape()[0],
        None => base.config.vocab_size,
    };
    let embeddings: Vec<&str> = embeddings.collect();
    let sizes: BTreeSet<usize> = embeddings.iter().map(|name| rows(name)).collect();
    if let (Some(&least), Some(&most)) = (sizes.first(), sizes.last())
        && least != most
    {
        let (i, stored, _) =
            embeddings.iter().find_map(|name| new.get(name)).expect("sizes differ by a new one");
        return Err(Diagnostic::new(Code::AdapterMismatch)
            .at(format!("{}: {}", adapters[*i].file.name(), stored.name))
            .message("the input embedding and the output embedding have different numbers of rows")
            .expected("one vocabulary")
            .found(format!("{least} and {most} tokens"))
            .into());
    }
    let size = sizes.first().copied().unwrap_or(base.config.vocab_size);
    if size != base.config.vocab_size {
        base.config.vocab_size = size;
        configure(base, |members| members.set("vocab_size", &size))?;
    }
    Ok(())
}

/// What the head needs: its tensors, names for as many labels as it has rows, and its class in the configuration.
fn head(base: &mut Checkpoint) -> Result<(), Diagnostics> {
    let mut faults = Diagnostics::new();
    let has_bias = base.head != Head::TokenClassification || base.config.token_classification_bias;
    for name in of_head(base.head) {
        let needed = match *name {
            LM_HEAD => base.tie != Tie::Tied,
            SCORE_BIAS => has_bias,
            _ => true,
        };
        if needed && !base.weights.contains_key(*name) {
            let head = base.head.name();
            faults.push(
                Diagnostic::new(Code::MissingHead)
                    .at(*name)
                    .message(format!("the head {head} needs this tensor, and no adapter brings it"))
                    .help("--head base takes the model without a head"),
            );
        }
    }
    let labels = base.weights.get(SCORE).map(|weight| weight.shape()[0]);
    if let (Some(labels), Some(bias)) = (labels, base.weights.get(SCORE_BIAS))
        && has_bias
        && bias.shape() != [labels]
    {
        let fault = Diagnostic::new(Code::AdapterMismatch).at(SCORE_BIAS);
        faults.push(
            fault.expected(format!("[{labels}]  (the rows of {SCORE})")).found(format!("{:?}", bias.shape())),
        );
    }
    if let Some(labels) = labels.filter(|labels| *labels != base.config.labels.len()) {
        let names: Vec<String> = (0..labels).map(|i| format!("LABEL_{i}")).collect();
        let by_row: Map<String, Value> =
            names.iter().enumerate().map(|(i, name)| (i.to_string(), Value::from(name.as_str()))).collect();
        let by_name: Map<String, Value> =
            names.iter().enumerate().map(|(i, name)| (name.clone(), Value::from(i))).collect();
        configure(base, |members| {
            members.set("id2label", &by_row);
            members.set("label2id", &by_name);
        })?;
        base.config.labels = names;
    }
    let class = base.head.class();
    if !base.config.architectures.iter().any(|name| name == class) && base.head != Head::Base {
        configure(base, |members| members.set("architectures", &[class]))?;
        base.config.architectures = vec![class.to_owned()];
    }
    faults.or(())
}
