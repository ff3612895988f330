//! Checkpoints to graphs, passes, and targets.

pub mod driver;
pub mod hugging_face;
pub mod model;
pub mod onnx;
pub mod output;
pub mod passes;
pub mod reference;
pub mod report;
pub mod source;
pub mod target;
pub mod verify;
pub mod weights;

pub use llamac_ir as ir;
pub use llamac_plan::diagnostic;
