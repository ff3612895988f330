//! Targets: what a graph can be lowered to.
//!
//! A target is a set of legal operations, the rules that lead there, and an emitter. [`legalize`] alone makes a
//! [`Legalized`], so that nothing else can be emitted.

mod legalize;
pub mod native;
pub mod onnx;

use llamac_ir::rewrite::{OpSet, RuleSet};

pub use legalize::{Legalized, legalize};

/// Something to compile for.
pub trait Target: OpSet {
    /// What it is, in a line.
    fn summary(&self) -> &'static str;

    /// The rules that turn operations which it cannot take into some that it can; those are in
    /// [`RuleSet::where_illegal`]. What they leave is decomposed.
    fn legalizations(&self) -> RuleSet {
        RuleSet::new()
    }
}

/// All targets.
pub const ALL: &[&dyn Target] =
    &[&native::Native, &onnx::Onnx::PORTABLE, &onnx::Onnx::STANDARD, &onnx::Onnx::ORT];

#[cfg(doctest)]
#[doc = include_str!("../../../docs/adding-a-target.md")]
struct AddingATarget;
