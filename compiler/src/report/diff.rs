//! What changed between two graphs, for a person: lines that went and came, and layers that changed alike told once.

use std::collections::BTreeMap;

use llamac_ir::Graph;
use similar::{ChangeTag, TextDiff};

use super::listing;
use super::numbers::{self, Number};

/// Lines of context around a change.
const CONTEXT: usize = 1;

/// The difference of two graphs as text: how many operations of a kind there were and are, then the lines that went (`-`)
/// and came (`+`). Changes that differ only in the number of the layer are shown for the first, whose name is written as
/// `~`.
pub fn diff(before: &Graph, after: &Graph) -> String {
    let text = |graph| listing::lines(graph).into_iter().map(|line| line + "\n").collect::<String>();
    let (old, new) = (text(before), text(after));
    let diff = TextDiff::from_lines(&old, &new);
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
        let found = numbers::of(&text);
        let shape = numbers::relative(&text, &found);
        match (hunks.last_mut(), found.first()) {
            (Some(last), Some(number)) if last.shape == shape => last.last = Some(number.value),
            (_, number) => hunks.push(Hunk { first: number.cloned(), text, shape, last: None }),
        }
    }
    if hunks.is_empty() {
        return "nothing changed\n".to_owned();
    }
    let counts = counts(before, after).map(|counts| counts + "\n");
    let texts: Vec<String> = counts.into_iter().chain(hunks.iter().map(Hunk::text)).collect();
    texts.join("\n")
}

/// `linear 29 → 21, split 0 → 4`: the operations whose number changed.
fn counts(before: &Graph, after: &Graph) -> Option<String> {
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (at, graph) in [before, after].into_iter().enumerate() {
        for op in graph.order().into_iter().filter_map(|node| graph.op(node)) {
            counts.entry(op.mnemonic()).or_default()[at] += 1;
        }
    }
    let changed = counts.iter().filter(|(_, [old, new])| old != new);
    let changed: Vec<String> = changed.map(|(name, [old, new])| format!("{name} {old} → {new}")).collect();
    (!changed.is_empty()).then(|| changed.join(", "))
}

/// Neighbouring lines that changed, and the last of the layers after it that changed in the same way.
struct Hunk {
    text: String,
    shape: String,
    first: Option<Number>,
    last: Option<usize>,
}

impl Hunk {
    fn text(&self) -> String {
        let Some(Number { value, prefix, .. }) = &self.first else { return self.text.clone() };
        let (name, mut text) = (format!("{prefix}{value}"), self.text.clone());
        if self.last.is_none() && text.matches(&name).count() == 1 {
            return text;
        }
        for end in [".", ":"] {
            text = text.replace(&format!("{name}{end}"), &format!("~{end}"));
        }
        match self.last {
            None => format!("~ = {name}\n{text}"),
            Some(last) if last == value + 1 => format!("~ = {name}, and the same for {last}\n{text}"),
            Some(last) => format!("~ = {name}, and the same for {} to {last}\n{text}", value + 1),
        }
    }
}
