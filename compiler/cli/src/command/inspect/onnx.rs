//! `llamac inspect` of an ONNX model.

use std::path::Path;

use llamac_compiler::onnx::{self, Model, OpCount, Summary, Value};
use serde::Serialize;

use super::Args;
use crate::console::{Console, Stdout};
use crate::failure::Failure;
use crate::human::{bytes, count, table};

/// What `--json` prints.
#[derive(Serialize)]
struct Facts<'a> {
    /// `onnx`.
    kind: &'static str,
    #[serde(flatten)]
    summary: Summary<'a>,
}

/// Prints what the ONNX model in the file `path` holds.
pub(super) fn run(path: &Path, args: &Args, console: &Console) -> Result<(), Failure> {
    let model = Model::open(path)?;
    for warning in model.warnings() {
        console.warn(warning);
    }
    let mut out = Stdout::lock();
    if args.graph {
        write!(out, "{}", onnx::structure(&model))?;
    } else if args.json {
        let facts = Facts { kind: "onnx", summary: Summary::of(&model) };
        let json = serde_json::to_string(&facts).expect("numbers and strings are JSON");
        writeln!(out, "{json}")?;
    } else {
        write!(out, "{}", text(&Summary::of(&model)))?;
    }
    out.flush()
}

fn text(summary: &Summary<'_>) -> String {
    let opsets: Vec<String> =
        summary.opsets.iter().map(|opset| format!("{} {}", opset.domain, opset.version)).collect();
    let mut rows = vec![
        row("format", format!("ONNX, IR version {}", summary.ir_version)),
        row("operators", opsets.join(", ")),
    ];
    if !summary.producer.is_empty() {
        rows.push(row("producer", &summary.producer));
    }
    rows.extend(summary.metadata.iter().map(|(key, value)| row(format!("metadata {key}"), value)));
    for (label, values) in [("input", &summary.inputs), ("output", &summary.outputs)] {
        let folded = Value::folded(values).into_iter();
        rows.extend(folded.map(|(name, signature)| row(format!("{label} {name}"), signature)));
    }
    rows.push(row("nodes", nodes(summary)));
    for domain in summary.opsets.iter().map(|opset| opset.domain) {
        let of_domain = summary.ops.iter().filter(|op| op.domain == domain);
        let uses: Vec<String> = of_domain.map(|OpCount { op, count, .. }| format!("{op} {count}")).collect();
        if !uses.is_empty() {
            rows.push(row(format!("nodes of {domain}"), uses.join(", ")));
        }
    }
    for module in &summary.modules {
        let name = if module.module.is_empty() { "(none)" } else { &module.module };
        let nodes = match module.repeats {
            1 => plural(module.nodes, "node"),
            repeats => format!("{repeats} × {}", plural(module.nodes, "node")),
        };
        rows.push(row(format!("module {name}"), nodes));
    }
    for function in &summary.functions {
        let name = format!("function {}.{}", function.domain, function.name);
        rows.push(row(name, plural(function.nodes, "node")));
    }
    for group in &summary.weights {
        let tensors = plural(group.tensors, "initializer");
        let elements = match group.elements {
            1 => "1 element".to_owned(),
            n => format!("{} elements", count(n)),
        };
        let size = bytes(group.bytes);
        rows.push(row(format!("{} weights", group.dtype), format!("{size} in {tensors}, {elements}")));
    }
    if summary.sparse_initializers > 0 {
        rows.push(row("sparse weights", plural(summary.sparse_initializers, "initializer")));
    }
    for stored in &summary.stored {
        let (size, tensors) = (bytes(stored.bytes), plural(stored.tensors, "initializer"));
        rows.push(match (stored.file, stored.file_bytes) {
            (Some(file), Some(all)) => {
                row(format!("stored in {file}"), format!("{size} of {} in {tensors}", bytes(all)))
            }
            _ => row("stored in the model", format!("{size} in {tensors}")),
        });
    }
    for tensor in &summary.largest {
        let signature = format!("{}{:?}", tensor.dtype, tensor.shape);
        rows.push(row(format!("largest {}", tensor.name), format!("{}, {signature}", bytes(tensor.bytes))));
    }
    if summary.training {
        rows.push(row("training", "more than inference is in the model"));
    }
    table(&rows)
}

/// A row of two cells. What a file calls something may hold anything: only characters that print are shown.
fn row(label: impl AsRef<str>, value: impl AsRef<str>) -> [String; 2] {
    let printable = |text: &str| {
        text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
            match c.is_control() {
                true => shown.extend(c.escape_default()),
                false => shown.push(c),
            }
            shown
        })
    };
    [printable(label.as_ref()), printable(value.as_ref())]
}

fn nodes(summary: &Summary<'_>) -> String {
    match summary.nested_nodes {
        0 => summary.nodes.to_string(),
        nested => format!("{}, and {nested} in graphs inside of them", summary.nodes),
    }
}

fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}
