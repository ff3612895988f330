//! The ONNX targets: graphs that other people's runtimes load.
//!
//! Three profiles of one target, each a table of what it can take: primitives alone, the operators of the standard, or
//! those that ONNX Runtime adds. What an operation becomes is decided here and by rules; after that, an operation of the
//! graph is a node of the file, and a [`llamac_ir::ops::Constant`] an initializer.

mod beside;
mod config;
mod data;
mod directory;
mod emit;
mod genai;
mod layout;
mod legality;
mod model;
mod names;
mod nodes;
mod proto;
mod quantized;
mod rules;
mod storage;

use llamac_ir::Op;
use llamac_ir::rewrite::{Legality, OpSet, RuleSet, Signature};
use llamac_plan::PassRecord;
use llamac_plan::diagnostic::Diagnostics;

use self::directory::Content;
use self::emit::{Emitted, MICROSOFT};
use self::model::Model;
use self::storage::Storage;
use super::{Legalized, Target};
use crate::driver::Progress;
use crate::source::Checkpoint;

pub use directory::Destination;
pub use layout::Layout;
pub(crate) use layout::models;
pub use storage::ExternalData;

/// Who makes these models.
const PRODUCER: &str = "llamac";

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

impl Profile {
    /// The sets of operators.
    fn opsets(self) -> Vec<(&'static str, i64)> {
        match self {
            Self::Portable => vec![("", 17)],
            Self::Standard => vec![("", 23)],
            Self::Ort => vec![("", 21), (MICROSOFT, 1)],
        }
    }

    /// The version of the format, which is the first that has the sets of operators.
    fn ir_version(self) -> i64 {
        match self {
            Self::Portable => 8,
            Self::Standard => 11,
            Self::Ort => 10,
        }
    }
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
    }
}

/// How an export is made beside the graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnnxOptions {
    /// Which files there are.
    pub layout: Layout,
    /// Where weights are.
    pub external: ExternalData,
    /// The longest context, where it is shorter than the model's.
    pub max_context: Option<u64>,
}

impl OnnxOptions {
    /// The target for `profile`.
    pub fn target(&self, profile: Profile) -> Onnx {
        Onnx { profile, weights_in_place: self.external.is_stored() }
    }
}

/// What [`emit`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Size of the files in bytes.
    pub bytes: u64,
    /// Nodes of the model.
    pub nodes: usize,
    /// What is not as one may expect it of the export: sentences.
    pub warnings: Vec<String>,
}

/// Writes the legal graph of `checkpoint` to `destination`, which is not yet published.
///
/// # Errors
/// When it cannot be written, or a weight not read; when weights cannot be where they should.
pub fn emit(
    checkpoint: &Checkpoint,
    profile: Profile,
    legalized: &Legalized,
    passes: &[PassRecord],
    options: OnnxOptions,
    destination: &mut Destination,
    progress: &dyn Progress,
) -> Result<Export, Diagnostics> {
    let target = options.target(profile);
    assert_eq!(legalized.target(), target.name(), "a graph is emitted for the target that it is legal for");
    let OnnxOptions { layout, external, max_context } = options;
    let names = layout.names(legalized.graph());
    let storage = Storage::new(checkpoint, external, names.data);
    let Emitted { graph, storage } = emit::emit(legalized.graph(), target.profile, storage)?;
    let nodes = graph.nodes.len();
    let model = Model {
        ir_version: target.profile.ir_version(),
        opsets: target.profile.opsets(),
        producer: (PRODUCER, env!("CARGO_PKG_VERSION")),
        metadata: metadata(checkpoint, target, passes),
        graph,
    };
    let context = checkpoint.config.max_position_embeddings.min(max_context.unwrap_or(u64::MAX));
    let data = storage.finish()?;
    let content = Content { checkpoint, layout, names, external, context, data, model };
    let mut warnings = Vec::new();
    let bytes = destination.write(content, &mut warnings, progress)?;
    Ok(Export { bytes, nodes, warnings })
}

/// Where a model comes from. No more of a path than its last name, so that the bytes are the same wherever the folder is.
fn metadata(checkpoint: &Checkpoint, target: Onnx, passes: &[PassRecord]) -> Vec<(&'static str, String)> {
    let name = std::fs::canonicalize(&checkpoint.path).ok();
    let name = name.as_deref().and_then(|path| path.file_name()).unwrap_or_default();
    let fired = |pass: &PassRecord| {
        let fired = pass.firings.iter().filter(|(_, times)| *times > 0);
        fired.map(|(rule, times)| format!("{rule} {times}")).collect::<Vec<_>>()
    };
    vec![
        ("llamac.target", target.name().to_owned()),
        ("llamac.head", checkpoint.head.name().to_owned()),
        ("llamac.checkpoint", name.to_string_lossy().into_owned()),
        ("llamac.passes", passes.iter().flat_map(fired).collect::<Vec<_>>().join(", ")),
    ]
}
