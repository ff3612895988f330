//! What follows the trunk.

use llamac_ir::ops::{KeepLast, PoolLast};
use llamac_ir::{DType, TensorType, ValueId};
use llamac_plan::SPAN_LOGITS;

use super::trunk::Trunk;
use super::{Fault, Logits, Model};
use crate::source::Head;

impl Model<'_> {
    /// Adds the head and names the results.
    pub(super) fn head(&mut self, head: Head, trunk: Trunk) -> Result<(), Fault> {
        let last = trunk.last_hidden_state;
        match head {
            Head::Base => self.builder.result("last_hidden_state", last)?,
            Head::CausalLm => {
                let kept = self.keep(last)?;
                let logits = self.linear(kept, "lm_head", false)?;
                self.builder.result("logits", logits)?;
            }
            Head::SequenceClassification => {
                let scores = self.linear(last, "score", false)?;
                let operands: Vec<_> = std::iter::once(scores).chain(trunk.ids).collect();
                let pad = self.config.pad_token_id.map(i64::from);
                let logits = self.push(PoolLast { pad }, &operands, "score")?;
                self.builder.result("logits", logits)?;
            }
            Head::TokenClassification => {
                let logits = self.linear(last, "score", self.config.token_classification_bias)?;
                self.builder.result("logits", logits)?;
            }
            Head::QuestionAnswering => {
                let spans = self.linear(last, "qa_outputs", true)?;
                self.builder.result(SPAN_LOGITS, spans)?;
            }
        }
        if self.options.hidden_states {
            for (index, value) in trunk.hidden_states.into_iter().enumerate() {
                self.builder.result(&format!("hidden_states.{index}"), value)?;
            }
        }
        if self.options.presents {
            for (layer, [key, value]) in trunk.presents.into_iter().enumerate() {
                self.builder.result(&format!("present.{layer}.key"), key)?;
                self.builder.result(&format!("present.{layer}.value"), value)?;
            }
        }
        Ok(())
    }

    /// The positions that get logits.
    fn keep(&mut self, hidden: ValueId) -> Result<ValueId, Fault> {
        match self.options.logits {
            Logits::All => Ok(hidden),
            Logits::Last => self.push(KeepLast { size: 1usize.into() }, &[hidden], "lm_head"),
            Logits::Keep => self.push(KeepLast::default(), &[hidden], "lm_head"),
            Logits::Counted => {
                let count = self.builder.param("num_logits_to_keep", TensorType::new(DType::I64, []))?;
                self.push(KeepLast::default(), &[hidden, count], "lm_head")
            }
        }
    }
}
