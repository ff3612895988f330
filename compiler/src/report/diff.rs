//! What changed between two graphs, for a person: lines that went and came, and layers that changed alike told once.

use llamac_ir::Graph;
use similar::{ChangeTag, TextDiff};

use super::listing;

/// Lines of context around a change.
const CONTEXT: usize = 1;

/// The difference of two graphs as text: `-` lines went, `+` lines came, and changes that differ only in the number of
/// the layer are shown for the first.
pub fn diff(before: &Graph, after: &Graph) -> String {
    let [before, after] = [before, after].map(listing::lines);
    let slices = |lines: &[String]| lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n") + "\n";
    let (before, after) = (slices(&before), slices(&after));
    let diff = TextDiff::from_lines(&before, &after);
    let mut hunks: Vec<Hunk> = Vec::new();
    for group in diff.grouped_ops(CONTEXT) {
        let mut text = String::new();
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            text.push_str(match change.tag() {
                ChangeTag::Delete => "- ",
                ChangeTag::Insert => "+ ",
                ChangeTag::Equal => "  ",
            });
            text.push_str(change.value());
        }
        let (shape, layer) = normalize(&text);
        match hunks.last_mut() {
            Some(last) if last.shape == shape => last.same.push(layer.unwrap_or_default()),
            _ => hunks.push(Hunk { text, shape, same: Vec::new() }),
        }
    }
    if hunks.is_empty() {
        return "nothing changed\n".to_owned();
    }
    let texts: Vec<String> = hunks.iter().map(Hunk::text).collect();
    texts.join("...\n")
}

/// Neighbouring lines that changed, and the layers after it that changed in the same way.
struct Hunk {
    text: String,
    shape: String,
    same: Vec<usize>,
}

impl Hunk {
    fn text(&self) -> String {
        match self.same.as_slice() {
            [] => self.text.clone(),
            [layer] => format!("{}(and the same in layer {layer})\n", self.text),
            [first, .., last] => format!("{}(and the same in layers {first} to {last})\n", self.text),
        }
    }
}

/// The text with every number between dots relative to the first one, and that first one.
fn normalize(text: &str) -> (String, Option<usize>) {
    let mut first = None;
    let mut shape = String::with_capacity(text.len());
    for (i, part) in text.split('.').enumerate() {
        if i > 0 {
            shape.push('.');
        }
        match part.parse::<usize>() {
            Ok(number) => {
                let first = *first.get_or_insert(number);
                shape.push_str(&format!("<{}>", number as i128 - first as i128));
            }
            Err(_) => shape.push_str(part),
        }
    }
    (shape, first)
}
