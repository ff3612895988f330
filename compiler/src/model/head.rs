//! What follows the trunk.

use llamac_ir::ops::{KeepLast, PoolLast};
use llamac_plan::SPAN_LOGITS;

use super::trunk::Trunk;
use super::{Fault, Model};
use crate::source::Head;

impl Model<'_> {
    /// Adds the head and names the results.
    pub(super) fn head(&mut self, head: Head, trunk: Trunk) -> Result<(), Fault> {
        let last = trunk.last_hidden_state;
        match head {
            Head::Base => self.builder.result("last_hidden_state", last)?,
            Head::CausalLm => {
                let kept = self.push(KeepLast, &[last], "lm_head")?;
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
}
