//! Which files an export has, for whom.

use std::fmt;

/// For whose eyes the directory is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Everything in one folder: what ONNX Runtime, optimum and, for causal language models, onnxruntime-genai load.
    #[default]
    Flat,
    /// What onnxruntime-genai reads and nothing else.
    Genai,
    /// The model in a folder `onnx`, as transformers.js looks for it.
    TransformersJs,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Self; 3] = [Self::Flat, Self::Genai, Self::TransformersJs];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Genai => "genai",
            Self::TransformersJs => "transformers.js",
        }
    }

    /// Where the model is.
    pub fn model(self) -> &'static str {
        match self {
            Self::Flat | Self::Genai => "model.onnx",
            Self::TransformersJs => "onnx/model.onnx",
        }
    }

    /// The name of the file of weights, which is in the folder of the model.
    pub fn data(self) -> &'static str {
        match self {
            Self::Flat | Self::Genai => "model.onnx.data",
            Self::TransformersJs => "model.onnx_data",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
