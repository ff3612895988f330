//! The names of an export: what loaders look for, and what people read in a viewer.
//!
//! Nodes are called by the modules that they come from, as paths; what follows a projection is found beside it. The
//! graph's inputs, outputs and dimensions have the names that optimum gave them, which every loader expects.

use std::collections::HashSet;

use llamac_ir::{Dim, Loc, Symbol};

use super::model::Size;

/// Names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<String>);

impl Names {
    /// `name` if it is free, or `name_1`, `name_2`, …
    pub(super) fn unique(&mut self, name: &str) -> String {
        let numbered = (0usize..).map(|i| if i == 0 { name.to_owned() } else { format!("{name}_{i}") });
        let free = numbered.into_iter().find(|name| !self.0.contains(name)).unwrap_or_default();
        self.0.insert(free.clone());
        free
    }
}

/// The path of `loc`, as in `model/layers.3/self_attn/qkv_proj`; empty if nothing is known.
///
/// Of modules that stand beside each other, what differs is put together; what all layers share is called without
/// them. Otherwise an operation is called by the last of two modules, which is where its result is, or by what all
/// have in common.
pub(super) fn path(loc: &Loc) -> String {
    let modules: Vec<Vec<String>> = loc.modules().map(components).collect();
    let Some((first, rest)) = modules.split_first() else { return String::new() };
    let mut differing: Vec<usize> = Vec::new();
    let parallel = rest.iter().all(|module| module.len() == first.len());
    if parallel {
        differing = (0..first.len()).filter(|&i| rest.iter().any(|module| module[i] != first[i])).collect();
    }
    match differing[..] {
        [] if parallel => first.join("/"),
        [at] if modules.iter().all(|module| is_layer(&module[at])) => without(first, at).join("/"),
        [at] if modules.iter().all(|module| !is_layer(&module[at])) => {
            let mut merged = first.clone();
            merged[at] = join(&modules.iter().map(|module| module[at].as_str()).collect::<Vec<_>>());
            merged.join("/")
        }
        _ if modules.len() == 2 => modules[1].join("/"),
        _ => {
            let shared = (0..first.len()).take_while(|&i| rest.iter().all(|m| m.get(i) == Some(&first[i])));
            first[..shared.count()].join("/")
        }
    }
}

/// The name of a graph's parameter as an input.
pub(super) fn input(name: &str) -> String {
    match name {
        "positions" => "position_ids".to_owned(),
        "mask" => "attention_mask".to_owned(),
        _ => match name.strip_prefix("past.") {
            Some(rest) => format!("past_key_values.{rest}"),
            None => name.to_owned(),
        },
    }
}

/// The size `dim` of an input or an output.
pub(super) fn size(dim: &Dim) -> Size {
    if let Some(fixed) = dim.as_constant() {
        return Size::Fixed(fixed);
    }
    let symbol = |word: &str| match Symbol::from_name(word) {
        Some(Symbol::Batch) => "batch_size",
        Some(Symbol::Seq) => "sequence_length",
        Some(Symbol::Past) => "past_sequence_length",
        Some(Symbol::Keep) => "num_logits",
        None => "",
    };
    let text = dim.to_string();
    let mut named = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let word = &rest[start..];
        let end = word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len());
        named.push_str(&rest[..start]);
        named.push_str(symbol(&word[..end]));
        rest = &word[end..];
    }
    named.push_str(rest);
    Size::Named(named)
}

/// `model.layers.3.mlp` as `model`, `layers.3`, `mlp`.
fn components(module: &str) -> Vec<String> {
    let mut components: Vec<String> = Vec::new();
    for part in module.split('.') {
        match components.last_mut() {
            Some(last) if is_number(part) => {
                last.push('.');
                last.push_str(part);
            }
            _ => components.push(part.to_owned()),
        }
    }
    components
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_layer(component: &str) -> bool {
    component.split_once('.').is_some_and(|(_, number)| is_number(number))
}

fn without(components: &[String], at: usize) -> Vec<String> {
    [&components[..at], &components[at + 1..]].concat()
}

/// `q_proj`, `k_proj`, `v_proj` as `qkv_proj`; `gate_proj`, `up_proj` as `gate_up_proj`.
fn join(names: &[&str]) -> String {
    let suffix = names[0].rfind('_').map(|at| &names[0][at..]);
    let suffix = suffix.filter(|suffix| names.iter().all(|name| name.ends_with(suffix))).unwrap_or("");
    let stems: Vec<&str> = names.iter().map(|name| &name[..name.len() - suffix.len()]).collect();
    let between = if stems.iter().all(|stem| stem.len() == 1) { "" } else { "_" };
    stems.join(between) + suffix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(modules: &[&str]) -> String {
        path(&Loc::merge(modules.iter().map(|module| Loc::new(module)).collect::<Vec<_>>().iter()))
    }

    #[test]
    fn paths_tell_where_nodes_come_from() {
        assert_eq!(named(&[]), "");
        assert_eq!(named(&["lm_head"]), "lm_head");
        assert_eq!(named(&["model.layers.13.self_attn.q_proj"]), "model/layers.13/self_attn/q_proj");
        let qkv = ["q", "k", "v"].map(|name| format!("model.layers.3.self_attn.{name}_proj"));
        assert_eq!(named(&[&qkv[0], &qkv[1], &qkv[2]]), "model/layers.3/self_attn/qkv_proj");
        assert_eq!(named(&["l.0.mlp.gate_proj", "l.0.mlp.up_proj"]), "l.0/mlp/gate_up_proj");
        assert_eq!(named(&["model.layers.0.self_attn", "model.layers.1.self_attn"]), "model/self_attn");
        assert_eq!(
            named(&["model.layers.0", "model.layers.1.input_layernorm"]),
            "model/layers.1/input_layernorm"
        );
        assert_eq!(named(&["model.layers.1", "model.norm"]), "model/norm");
        assert_eq!(named(&["model.rotary_emb", "model.layers.0.self_attn", "model.norm"]), "model");
        assert_eq!(named(&["a", "b.c", "d.e.f"]), "");
    }

    #[test]
    fn names_are_taken_once() {
        let mut names = Names::default();
        assert_eq!(["a", "a", "a_1", "a"].map(|name| names.unique(name)), ["a", "a_1", "a_1_1", "a_2"]);
    }

    #[test]
    fn sizes_and_inputs_are_called_as_loaders_expect() {
        let dim = |text: &str| size(&text.parse::<Dim>().unwrap());
        let name = |text: &str| Size::Named(text.to_owned());
        assert_eq!(dim("past + seq"), name("past_sequence_length + sequence_length"));
        assert_eq!(dim("batch"), name("batch_size"));
        assert_eq!(dim("2*seq"), name("2*sequence_length"));
        assert_eq!(dim("keep"), name("num_logits"));
        assert_eq!(dim("17"), Size::Fixed(17));
        let inputs = ["input_ids", "mask", "positions", "past.12.key", "num_logits_to_keep"].map(input);
        let expected =
            ["input_ids", "attention_mask", "position_ids", "past_key_values.12.key", "num_logits_to_keep"];
        assert_eq!(inputs, expected);
    }
}
