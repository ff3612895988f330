//! Rewriting: rules that look at a node and return a patch, and the driver that applies them to a fixpoint.
//!
//! A rule knows which operations are legal ([`OpSet`]), never who the target is. It changes nothing itself: a
//! [`Patch`] is checked as a whole before it is applied, and a graph is verified after each sweep over it.

mod driver;
mod legality;
mod patch;
mod rule;
mod steps;

#[cfg(feature = "testing")]
pub use driver::apply_verifying;
pub use driver::{Firing, Miss, Report, RewriteError, apply};
pub use legality::{AnyOp, Decompose, IllegalOp, Legality, OpSet, Signature, illegal_ops, legality_of};
pub use patch::{Patch, PatchError, PatchValue};
pub use rule::{DynRule, NoMatch, OpRef, Rule, RuleSet};
pub use steps::Steps;
