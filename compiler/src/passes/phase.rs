//! The phases of a compilation, and which operations may appear after each.

use llamac_ir::{Graph, Op};

/// A stretch of the list of passes with one purpose, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// One form for what can be written in several.
    Canonicalize,
    /// How weights are stored.
    Assign,
    /// Fewer and larger operations, as far as the target can take them.
    Fuse,
    /// What the target can take, and nothing else.
    Legalize,
}

impl Phase {
    /// The name in lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Canonicalize => "canonicalize",
            Self::Assign => "assign",
            Self::Fuse => "fuse",
            Self::Legalize => "legalize",
        }
    }

    /// The grammar: whether `op` may appear once passes of this phase have begun. What may appear after legalization,
    /// the target says.
    pub fn allows(self, op: &Op) -> bool {
        let from = match op {
            Op::Act(_)
            | Op::Add(_)
            | Op::Attention(_)
            | Op::Embed(_)
            | Op::KeepLast(_)
            | Op::KvAppend(_)
            | Op::Length(_)
            | Op::Linear(_)
            | Op::Mul(_)
            | Op::PoolLast(_)
            | Op::Positions(_)
            | Op::RmsNorm(_)
            | Op::Rope(_)
            | Op::SplitHeads(_) => Self::Canonicalize,
            Op::AddRmsNorm(_) | Op::Gated(_) | Op::Rotary(_) | Op::RotaryAngles(_) | Op::Split(_) => {
                Self::Fuse
            }
            _ => Self::Legalize,
        };
        self >= from
    }

    /// Everything in `graph` that the grammar does not allow, a sentence each.
    pub fn violations(self, graph: &Graph) -> Vec<String> {
        let ops = graph.order().into_iter().filter_map(|node| Some((node, graph.op(node)?)));
        ops.filter(|(_, op)| !self.allows(op))
            .map(|(node, op)| {
                let (op, at) = (op.mnemonic(), graph.loc(node));
                format!("{op} at {at} may not appear in the phase {}", self.name())
            })
            .collect()
    }
}
