//! What an exported model takes.

use tract_onnx::prelude::{DatumType, TractResult, TypedFact, TypedRunnableModel};
use tract_onnx::tract_hir::internal::DimLike;

/// An input of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// What an input is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Token ids, `[batch, seq]`.
    Ids,
    /// Embeddings, `[batch, seq, width]`.
    Embeddings { width: usize },
    /// Which tokens are real, `[batch, past + seq]`.
    Mask,
    /// `[batch, seq]`.
    Positions,
    /// How many positions get logits; 0 is all.
    Keep,
    /// Keys or values so far, `[batch, heads, past, size]`; the output of that index has those that the next step gets.
    Past { heads: usize, size: usize, output: usize },
    /// Something else.
    Unknown,
}

impl Input {
    /// The inputs of `plan` in its order.
    pub(crate) fn all(plan: &TypedRunnableModel, outputs: &[String]) -> TractResult<Vec<Self>> {
        let model = plan.model();
        let outlets = model.input_outlets()?.iter().enumerate();
        let input = |(index, outlet): (usize, &tract_onnx::prelude::OutletId)| {
            let name = model.node(outlet.node).name.clone();
            let kind = Kind::of(&name, model.input_fact(index)?, outputs).unwrap_or(Kind::Unknown);
            Ok(Self { name, kind })
        };
        outlets.map(input).collect()
    }
}

impl Kind {
    /// What the input `name` is for, if a forward has it.
    fn of(name: &str, fact: &TypedFact, outputs: &[String]) -> Option<Self> {
        let size = |axis: usize| fact.shape.get(axis)?.to_usize().ok();
        let (kind, dtype, rank) = match name {
            "input_ids" => (Self::Ids, DatumType::I64, 2),
            "inputs_embeds" => (Self::Embeddings { width: size(2)? }, DatumType::F32, 3),
            "attention_mask" => (Self::Mask, DatumType::I64, 2),
            "position_ids" => (Self::Positions, DatumType::I64, 2),
            "num_logits_to_keep" => (Self::Keep, DatumType::I64, 0),
            _ => {
                let present = name.strip_prefix("past_key_values.").map(|rest| format!("present.{rest}"))?;
                let output = outputs.iter().position(|name| *name == present)?;
                (Self::Past { heads: size(1)?, size: size(3)?, output }, DatumType::F32, 4)
            }
        };
        (fact.datum_type == dtype && fact.rank() == rank).then_some(kind)
    }
}
