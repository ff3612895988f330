//! Graphs for Graphviz: every operation with its modules, weights and attributes, types on the edges, a cluster for each
//! layer.

use std::fmt::Write;

use llamac_ir::Graph;

use super::picture::{Item, Kind, Picture};

/// `graph` in the language of Graphviz's `dot`.
pub fn dot(graph: &Graph) -> String {
    let picture = Picture::new(graph);
    let mut text = String::from(
        "digraph model {\n  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=Helvetica];\n  \
         edge [fontname=Helvetica, fontsize=9];\n",
    );
    for (index, item) in picture.items.iter().enumerate().filter(|(_, item)| item.group.is_none()) {
        node(&mut text, "  ", index, item);
    }
    for (number, group) in picture.groups.iter().enumerate() {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "  subgraph cluster_{number} {{\n    label={};", quoted(&group.title()));
        for (index, item) in picture.items.iter().enumerate().filter(|(_, item)| item.group == Some(number)) {
            node(&mut text, "    ", index, item);
        }
        text.push_str("  }\n");
    }
    for (index, item) in picture.items.iter().enumerate() {
        for &(from, result) in &item.inputs {
            let ty = picture.items[from].types.get(result).map(String::as_str).unwrap_or_default();
            let _ = writeln!(text, "  n{from} -> n{index} [label={}];", quoted(ty));
        }
    }
    text.push_str("}\n");
    text
}

fn node(text: &mut String, indent: &str, index: usize, item: &Item) {
    let shape = match item.kind {
        Kind::Op => "",
        Kind::Param | Kind::Result => ", shape=ellipse",
    };
    let weights = item.weights.iter().map(String::as_str);
    let lines = [item.title.as_str(), item.loc.as_str()].into_iter().filter(|line| !line.is_empty());
    let attrs = Some(item.attrs.as_str()).filter(|attrs| !attrs.is_empty());
    let label: Vec<&str> = lines.chain(weights).chain(attrs).collect();
    let _ = writeln!(text, "{indent}n{index} [label={}{shape}];", quoted(&label.join("\n")));
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
