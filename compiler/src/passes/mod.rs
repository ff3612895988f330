//! Passes: what happens to a graph between the model and the target, as one list.
//!
//! A pass is a small set of rules with one purpose, in a file of its own that shows what it makes of what. It knows
//! which operations are legal and never who the target is. [`PassManager`] runs the list, and it alone times, verifies,
//! counts, prints and dumps.
//!
//! Deliberately not here: what is legal (`target`), how rules are applied (`llamac_ir::rewrite`), and memory, which
//! is no property of a graph (`target/native`).

mod assign_schemes;
mod canonicalize;
mod dump;
mod expand_gqa;
mod fold_reshape;
mod fold_rope;
mod fuse_add_rms_norm;
mod fuse_gate_up;
mod fuse_qkv;
mod join;
mod manager;
mod merge_lora;
mod options;
mod phase;
mod report;
mod simplify_weight;
#[cfg(test)]
pub(crate) mod testing;
mod weight_policy;

use std::fmt;

use llamac_ir::Graph;
use llamac_ir::rewrite::{self, OpSet, RewriteError};

pub use assign_schemes::{AssignSchemes, assign_schemes};
pub use canonicalize::FoldWeights;
pub use expand_gqa::ExpandGqa;
pub use fold_reshape::FoldReshape;
pub use fold_rope::{FoldLayout, FoldRope};
pub use fuse_add_rms_norm::FuseAddRmsNorm;
pub use fuse_gate_up::FuseGateUp;
pub use fuse_qkv::FuseQkv;
pub use manager::{Outcome, PassManager, Stage};
pub use merge_lora::{MergeLora, merge_lora};
pub use options::{INPUT, Options};
pub use phase::Phase;
pub use report::{PassReport, Report};
pub use weight_policy::{PolicyEntry, WeightFormat, WeightPolicy};

/// One entry of the list.
pub struct Pass {
    /// The name on the command line.
    pub name: &'static str,
    /// The phase that it belongs to.
    pub phase: Phase,
    /// What it does, in a line.
    pub summary: &'static str,
    work: Work,
}

#[derive(Clone, Copy)]
enum Work {
    /// Rewrites the graph with what a set of operations allows.
    Rewrite(fn(&mut Graph, &dyn OpSet) -> Result<rewrite::Report, RewriteError>),
    /// Puts adapters into weights: [`merge_lora`].
    Merge,
    /// Stores weights as the options say: [`assign_schemes`].
    Assign,
    /// Converts the graph to a target: [`crate::target::legalize`].
    Legalize,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("name", &self.name).field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// All passes, in the order in which they run.
pub const ALL: &[Pass] = &[
    Pass {
        name: "canonicalize",
        phase: Phase::Canonicalize,
        summary: "remove dead nodes, compute equal things once, simplify weight recipes",
        work: Work::Rewrite(canonicalize::run),
    },
    Pass {
        name: "merge-lora",
        phase: Phase::Assign,
        summary: "what --lora adapters add, in the weights of their modules",
        work: Work::Merge,
    },
    Pass {
        name: "assign-schemes",
        phase: Phase::Assign,
        summary: "how each weight is stored, as --weights says",
        work: Work::Assign,
    },
    Pass {
        name: "fold-rope",
        phase: Phase::Fuse,
        summary: "one set of rotary angles for all layers, from constant frequencies",
        work: Work::Rewrite(fold_rope::run),
    },
    Pass {
        name: "fuse-qkv",
        phase: Phase::Fuse,
        summary: "queries, keys and values from one projection",
        work: Work::Rewrite(fuse_qkv::run),
    },
    Pass {
        name: "fuse-gate-up",
        phase: Phase::Fuse,
        summary: "gate and up from one projection, activation and product in one operation",
        work: Work::Rewrite(fuse_gate_up::run),
    },
    Pass {
        name: "fuse-add-rms-norm",
        phase: Phase::Fuse,
        summary: "a residual sum and the norm of it in one operation",
        work: Work::Rewrite(fuse_add_rms_norm::run),
    },
    Pass {
        name: "legalize",
        phase: Phase::Legalize,
        summary: "only operations that the target can take",
        work: Work::Legalize,
    },
];

#[cfg(doctest)]
#[doc = include_str!("../../../docs/adding-a-pass.md")]
struct AddingAPass;
