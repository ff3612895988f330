//! The ONNX targets: graphs that other people's runtimes load.
//!
//! Three profiles of one target, each a table of what it can take: primitives alone, the operators of the standard, or
//! those that ONNX Runtime adds. What an operation becomes is decided here and by rules; after that, an operation of the
//! graph is a node of the file, and a [`llamac_ir::ops::Constant`] an initializer.

mod config;
pub mod data;
pub mod directory;
mod genai;
pub mod layout;
mod legality;
pub mod model;
pub mod proto;
mod rules;
pub mod storage;

use llamac_ir::Op;
use llamac_ir::rewrite::{Legality, OpSet, RuleSet, Signature};

use super::Target;

/// Which operators a file may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Opset 17 without anything that is defined by others: every runtime has these.
    Portable,
    /// Opset 23: attention, norms and rotary embeddings of the standard.
    Standard,
    /// Opset 21 and what ONNX Runtime adds under `com.microsoft`.
    Ort,
}

/// An ONNX target.
#[derive(Clone, Copy, Debug)]
pub struct Onnx {
    /// The operators.
    pub profile: Profile,
    /// Whether weights stay where they are, in the checkpoint's files: then none can be transposed or concatenated.
    pub weights_in_place: bool,
}

impl Onnx {
    /// Primitives only.
    pub const PORTABLE: Self = Self { profile: Profile::Portable, weights_in_place: false };
    /// The standard's operators.
    pub const STANDARD: Self = Self { profile: Profile::Standard, weights_in_place: false };
    /// ONNX Runtime's operators.
    pub const ORT: Self = Self { profile: Profile::Ort, weights_in_place: false };
}

impl OpSet for Onnx {
    fn name(&self) -> &str {
        match self.profile {
            Profile::Portable => "onnx",
            Profile::Standard => "onnx-std",
            Profile::Ort => "onnx-ort",
        }
    }

    fn legality(&self, op: &Op, signature: Signature<'_>) -> Legality {
        match legality::reason(*self, op, signature) {
            None => Legality::Legal,
            Some(reason) => Legality::Illegal(reason),
        }
    }
}

impl Target for Onnx {
    fn summary(&self) -> &'static str {
        match self.profile {
            Profile::Portable => "ONNX of primitives (opset 17), for every runtime",
            Profile::Standard => "ONNX with the standard's attention, norms and rotations (opset 23)",
            Profile::Ort => "ONNX with ONNX Runtime's own operators (opset 21, com.microsoft)",
        }
    }

    fn legalizations(&self) -> RuleSet {
        RuleSet::new()
            .with(rules::MaskToBias)
            .with(rules::FuseGroupQueryAttention)
            .with(rules::FuseAppendAttention)
            .with(rules::LookUpRotary)
            .with(rules::LinearToGemm)
            .where_illegal()
            .with(rules::ShareTable)
    }
}
