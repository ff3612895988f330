//! Which files an export has, for whom.

use llamac_ir::ops::Linear;
use llamac_ir::{DType, Graph, Weight};

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

/// What the files of a model are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// The path of the model in the directory.
    pub(super) model: &'static str,
    /// The path of the file of weights, in the folder of the model.
    pub(super) data: &'static str,
    /// The `dtype` by which transformers.js chooses this model among others; nothing for everybody else.
    pub(super) dtype: Option<&'static str>,
}

/// The names for everybody but transformers.js.
pub(super) const PLAIN: Names = Names { model: "model.onnx", data: "model.onnx.data", dtype: None };

/// The names for transformers.js, the narrowest weights first.
pub(super) const TRANSFORMERS_JS: [Names; 4] = [
    Names { model: "onnx/model_q4.onnx", data: "onnx/model_q4.onnx_data", dtype: Some("q4") },
    Names { model: "onnx/model_quantized.onnx", data: "onnx/model_quantized.onnx_data", dtype: Some("q8") },
    Names { model: "onnx/model_fp16.onnx", data: "onnx/model_fp16.onnx_data", dtype: Some("fp16") },
    Names { model: "onnx/model.onnx", data: "onnx/model.onnx_data", dtype: Some("fp32") },
];

/// Where directories have their models, those with the widest weights first.
pub(crate) fn models() -> impl Iterator<Item = &'static str> {
    std::iter::once(PLAIN).chain(TRANSFORMERS_JS.into_iter().rev()).map(|names| names.model)
}

impl Layout {
    /// What the files of the model of `graph` are called. transformers.js has names for how most matrices are stored.
    pub(super) fn names(self, graph: &Graph) -> Names {
        match self {
            Self::Flat | Self::Genai => PLAIN,
            Self::TransformersJs => {
                let linears = graph.order().into_iter().filter_map(|node| graph.op_ref::<Linear>(node));
                let dtypes: Vec<&str> = linears.map(|linear| dtype(&linear.weight)).collect();
                let count =
                    |names: &Names| dtypes.iter().filter(|dtype| names.dtype == Some(**dtype)).count();
                let [.., widest] = TRANSFORMERS_JS;
                TRANSFORMERS_JS.into_iter().max_by_key(count).unwrap_or(widest)
            }
        }
    }
}

/// What transformers.js calls the way in which `matrix` is stored. It has no name for bf16, which runs as f32.
fn dtype(matrix: &Weight) -> &'static str {
    match (matrix.scheme(), matrix.dtype()) {
        (Some(scheme), _) if scheme.bits() == 4 => "q4",
        (Some(_), _) => "q8",
        (None, DType::F16) => "fp16",
        (None, _) => "fp32",
    }
}
