//! Where a node comes from: names of the Hugging Face modules that it computes.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

/// The modules that a node came from; several after a fusion, none in hand-written text.
///
/// Displayed with what the names share written once: `model.layers.3.self_attn.{q,k,v}_proj`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Loc(SmallVec<[Arc<str>; 1]>);

impl Loc {
    /// The location of one module.
    pub fn new(module: &str) -> Self {
        Self(std::iter::once(Arc::from(module)).collect())
    }

    /// No location.
    pub fn none() -> Self {
        Self::default()
    }

    /// All modules of `locs`, each once, in order of appearance.
    pub fn merge<'a>(locs: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut modules: SmallVec<[Arc<str>; 1]> = SmallVec::new();
        for module in locs.into_iter().flat_map(|loc| &loc.0) {
            if !modules.contains(module) {
                modules.push(Arc::clone(module));
            }
        }
        Self(modules)
    }

    /// The names of the modules.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|m| &**m)
    }

    /// Whether nothing is known.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

/// The length of the common prefix of `names` that ends just after a separator.
fn common_prefix(names: &[&str]) -> usize {
    let first = names[0];
    let shared = names[1..].iter().fold(first.len(), |shared, name| {
        first.bytes().zip(name.bytes()).take(shared).take_while(|(a, b)| a == b).count()
    });
    first.as_bytes()[..shared].iter().rposition(|b| matches!(b, b'.' | b'_')).map_or(0, |at| at + 1)
}

/// The length of the common suffix of `names` that begins at a separator.
fn common_suffix(names: &[&str]) -> usize {
    let first = names[0];
    let shared = names[1..].iter().fold(first.len(), |shared, name| {
        first.bytes().rev().zip(name.bytes().rev()).take(shared).take_while(|(a, b)| a == b).count()
    });
    let tail = &first.as_bytes()[first.len() - shared..];
    tail.iter().position(|b| matches!(b, b'.' | b'_')).map_or(0, |at| shared - at)
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.modules().collect();
        match names.as_slice() {
            [] => f.write_str("?"),
            [one] => f.write_str(one),
            [first, ..] => {
                let prefix = common_prefix(&names);
                let rests: Vec<&str> = names.iter().map(|name| &name[prefix..]).collect();
                let suffix = common_suffix(&rests);
                let middles: Vec<&str> = rests.iter().map(|rest| &rest[..rest.len() - suffix]).collect();
                write!(f, "{}{{{}}}{}", &first[..prefix], middles.join(","), &first[first.len() - suffix..])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_parts_are_written_once() {
        let loc = |names: &[&str]| Loc::merge(names.iter().map(|n| Loc::new(n)).collect::<Vec<_>>().iter());
        let qkv = loc(&["a.3.self_attn.q_proj", "a.3.self_attn.k_proj", "a.3.self_attn.v_proj"]);
        assert_eq!(qkv.to_string(), "a.3.self_attn.{q,k,v}_proj");
        assert_eq!(loc(&["l.0.mlp.gate_proj", "l.0.mlp.up_proj"]).to_string(), "l.0.mlp.{gate,up}_proj");
        assert_eq!(loc(&["l.0.attn", "l.1.attn", "l.0.attn"]).to_string(), "l.{0,1}.attn");
        assert_eq!(loc(&["norm", "lm_head"]).to_string(), "{norm,lm_head}");
        assert_eq!(loc(&["a.b", "a.b.c"]).to_string(), "a.{b,b.c}");
        assert_eq!(loc(&["é.x", "è.x"]).to_string(), "{é,è}.x");
        assert_eq!(Loc::none().to_string(), "?");
    }
}
