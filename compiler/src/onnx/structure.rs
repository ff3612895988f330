//! A model's structure as text: what the file says, in its order, without the data of large tensors. Made for
//! comparing, so it holds nothing that depends on who wrote the file, and when.

use std::fmt::Write;

use super::model::Model;
use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use super::summary::{Value, domain, ops};
use super::tensor::Data;

/// Tensors and lists of more elements are told by their size.
const SHOWN: usize = 16;

/// The structure of `model`: versions; inputs, outputs and initializers, one a line; nodes, one a line, as
/// `outputs = domain.Operator(inputs) {attributes} # name`; how often each operator is used. The domain of standard
/// operators is left out, and so is the name of a node whose first output is called `NAME_output_0`.
pub fn structure(model: &Model) -> String {
    let opsets: Vec<String> = model
        .proto
        .opset_import
        .iter()
        .map(|opset| format!("{} {}", domain(&opset.domain), opset.version))
        .collect();
    let mut text = Text::default();
    text.line(&format!("ir {}, {}", model.proto.ir_version, opsets.join(", ")));
    text.graph(model.graph());
    for function in &model.proto.functions {
        text.line("");
        text.line(&format!("function {}.{}", domain(&function.domain), function.name));
        text.indented(|text| function.node.iter().for_each(|node| text.node(node)));
    }
    text.line("");
    for op in ops(model.graph().node.iter()) {
        text.line(&format!("{:>5} {}", op.count, operator(op.domain, op.op)));
    }
    text.line(&format!("{:>5} nodes", model.graph().node.len()));
    text.text
}

#[derive(Default)]
struct Text {
    text: String,
    indent: usize,
}

impl Text {
    /// Adds a line. What a file calls something may hold anything: only characters that print go into the text.
    fn line(&mut self, line: &str) {
        if !line.is_empty() {
            self.text.push_str(&"  ".repeat(self.indent));
        }
        for c in line.chars() {
            match c.is_control() {
                true => self.text.extend(c.escape_default()),
                false => self.text.push(c),
            }
        }
        self.text.push('\n');
    }

    fn indented(&mut self, write: impl FnOnce(&mut Self)) {
        self.indent += 1;
        write(self);
        self.indent -= 1;
    }

    fn graph(&mut self, graph: &GraphProto) {
        let value = |value: &ValueInfoProto| format!("{}: {}", value.name, Value::of(value).signature());
        self.section("inputs", graph.input.iter().map(value));
        self.section("outputs", graph.output.iter().map(value));
        self.section("initializers", graph.initializer.iter().map(|t| format!("{}: {}", t.name, tensor(t))));
        if !graph.sparse_initializer.is_empty() {
            self.line(&format!("sparse initializers: {}", graph.sparse_initializer.len()));
        }
        self.line("nodes");
        self.indented(|text| graph.node.iter().for_each(|node| text.node(node)));
    }

    fn section(&mut self, title: &str, lines: impl ExactSizeIterator<Item = String>) {
        if lines.len() > 0 {
            self.line(title);
            self.indented(|text| lines.for_each(|line| text.line(&line)));
        }
    }

    fn node(&mut self, node: &NodeProto) {
        let mut line = format!(
            "{} = {}({})",
            node.output.join(", "),
            operator(domain(&node.domain), &node.op_type),
            node.input.join(", ")
        );
        if !node.attribute.is_empty() {
            let attributes: Vec<String> = node.attribute.iter().map(attribute).collect();
            let _ = write!(line, " {{{}}}", attributes.join(", "));
        }
        let implied = node.output.first().and_then(|output| output.strip_suffix("_output_0"));
        if !node.name.is_empty() && implied != Some(&node.name) {
            let _ = write!(line, " # {}", node.name);
        }
        self.line(&line);
        for attribute in &node.attribute {
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                self.indented(|text| {
                    text.line(&attribute.name);
                    text.indented(|text| text.graph(graph));
                });
            }
        }
    }
}

/// An operator with its domain, if it is not the standard's.
fn operator(domain: &str, name: &str) -> String {
    if domain == super::summary::STANDARD { name.to_owned() } else { format!("{domain}.{name}") }
}

/// Type, dimensions, and the values if they are few, or where they are.
fn tensor(tensor: &TensorProto) -> String {
    let signature = tensor.signature();
    if let Some(values) = tensor.values(SHOWN as u64) {
        return match (tensor.dims.is_empty(), values.as_slice()) {
            (true, [value]) => format!("{signature} = {value}"),
            _ => format!("{signature} = {}", list(values.iter())),
        };
    }
    match tensor.data() {
        Ok(Data::External(place)) => {
            format!("{signature} in {} at {}, {} bytes", place.location, place.offset, tensor.size())
        }
        _ => format!("{signature} inline, {} bytes", tensor.size()),
    }
}

/// `name=value`.
fn attribute(attribute: &AttributeProto) -> String {
    let text = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
    let value = match attribute.r#type {
        _ if !attribute.ref_attr_name.is_empty() => format!("@{}", attribute.ref_attr_name),
        1 => format!("{:?}", attribute.f),
        2 => attribute.i.to_string(),
        3 => text(&attribute.s),
        4 => attribute.t.as_ref().map_or_else(|| "?".to_owned(), tensor),
        5 => "graph".to_owned(),
        6 => list(attribute.floats.iter().map(|f| format!("{f:?}"))),
        7 => list(attribute.ints.iter()),
        8 => list(attribute.strings.iter().map(|s| text(s))),
        9 => list(attribute.tensors.iter().map(tensor)),
        10 => format!("{} graphs", attribute.graphs.len()),
        11 => "sparse tensor".to_owned(),
        12 => "sparse tensors".to_owned(),
        13 => "type".to_owned(),
        14 => "types".to_owned(),
        _ => "?".to_owned(),
    };
    format!("{}={value}", attribute.name)
}

/// `[1, 2, 3]`, or how it begins and how many there are.
fn list<T: ToString>(items: impl ExactSizeIterator<Item = T>) -> String {
    let count = items.len();
    let mut shown: Vec<String> = items.take(SHOWN).map(|item| item.to_string()).collect();
    if count > SHOWN {
        shown.push(format!("… {count} in all"));
    }
    format!("[{}]", shown.join(", "))
}
