//! The classes of a classification head: `id2label`, `num_labels` and `problem_type`.

use std::collections::BTreeMap;

use llamac_plan::diagnostic::Code;
use serde_json::{Map, Value};

use super::json::{Fields, Given, show};
use super::suggest::did_you_mean;

/// No classifier has more classes; a number of classes alone, without their names, makes that many names.
const MAX_LABELS: u64 = 100_000;

/// What a configuration says of its classes.
pub(super) struct Labels {
    /// A name a class, in the order of the head's rows.
    pub names: Vec<String>,
    /// How the scores are meant.
    pub problem_type: Option<String>,
}

/// Reads the labels; two unnamed classes where the file says nothing, as transformers has it.
pub(super) fn read(fields: &mut Fields<'_>, warnings: &mut Vec<String>) -> Option<Labels> {
    let count = fields.maybe_integer("num_labels", 1..=MAX_LABELS).map(Given::value);
    let names = match fields.maybe_object("id2label")?.value() {
        Some(map) => names(fields, map),
        None => count.map(|count| (0..count.unwrap_or(2)).map(|i| format!("LABEL_{i}")).collect()),
    };
    if let (Some(names), Some(Some(count))) = (&names, count)
        && names.len() as u64 != count
    {
        let place = fields.place("num_labels");
        warnings.push(format!("{place} is {count}, but id2label names {} labels and is used", names.len()));
    }
    let problem_type = problem_type(fields);
    let (names, problem_type) = (names?, problem_type?);
    if problem_type.as_deref() == Some("single_label_classification") && names.len() == 1 {
        fields.fault(Code::InconsistentConfig, "problem_type", |d| {
            d.expected("more than one label")
                .found("1 label")
                .help("one score without classes is a \"regression\"")
        });
        return None;
    }
    Some(Labels { names, problem_type })
}

/// The names of `id2label`, whose keys are the rows as decimal strings in any order.
fn names(fields: &mut Fields<'_>, map: &Map<String, Value>) -> Option<Vec<String>> {
    let mut by_row = BTreeMap::new();
    for (key, value) in map {
        let Some((row, name)) = key.parse::<u64>().ok().zip(value.as_str()) else {
            fields.fault(Code::BadConfigValue, &format!("id2label.{key}"), |d| {
                d.expected("a number as the key and a string as its value").found(show(value))
            });
            return None;
        };
        by_row.insert(row, name.to_owned());
    }
    let last = by_row.keys().last().copied();
    if map.is_empty() || by_row.len() != map.len() || last != Some(map.len() as u64 - 1) {
        fields.fault(Code::BadConfigValue, "id2label", |d| {
            d.expected("the keys 0, 1, 2 … up to the last label, each once").found(match last {
                Some(last) => format!("{} labels, of which the last is {last}", map.len()),
                None => "no label".to_owned(),
            })
        });
        return None;
    }
    Some(by_row.into_values().collect())
}

fn problem_type(fields: &mut Fields<'_>) -> Option<Option<String>> {
    const KNOWN: [&str; 3] = ["regression", "single_label_classification", "multi_label_classification"];
    let Some(name) = fields.maybe_string("problem_type")?.value() else { return Some(None) };
    if KNOWN.contains(&name) {
        return Some(Some(name.to_owned()));
    }
    fields.fault(Code::BadConfigValue, "problem_type", |d| {
        let d = d.expected(format!("one of {}, or null", KNOWN.join(", "))).found(name);
        did_you_mean(d, name, KNOWN)
    });
    None
}
