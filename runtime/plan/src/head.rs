//! The heads that a model may have.

use std::path::Path;

use crate::Head;
use crate::diagnostic::{Code, Diagnostic};

/// What is computed from the trunk's last hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadKind {
    /// Nothing: the hidden states after the final norm (`LlamaModel`).
    Base,
    /// Logits of the next token (`LlamaForCausalLM`).
    CausalLm,
    /// Class scores of one pooled position (`LlamaForSequenceClassification`).
    SequenceClassification,
    /// Class scores of every token (`LlamaForTokenClassification`).
    TokenClassification,
    /// Scores of every token as the start and as the end of an answer (`LlamaForQuestionAnswering`).
    QuestionAnswering,
}

impl HeadKind {
    /// Every head.
    pub const ALL: [Self; 5] = [
        Self::Base,
        Self::CausalLm,
        Self::SequenceClassification,
        Self::TokenClassification,
        Self::QuestionAnswering,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::CausalLm => "causal-lm",
            Self::SequenceClassification => "sequence-classification",
            Self::TokenClassification => "token-classification",
            Self::QuestionAnswering => "question-answering",
        }
    }

    /// The class in transformers.
    pub fn class(self) -> &'static str {
        match self {
            Self::Base => "LlamaModel",
            Self::CausalLm => "LlamaForCausalLM",
            Self::SequenceClassification => "LlamaForSequenceClassification",
            Self::TokenClassification => "LlamaForTokenClassification",
            Self::QuestionAnswering => "LlamaForQuestionAnswering",
        }
    }

    /// What a model with this head is.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Base => "a model without a head",
            Self::CausalLm => "a causal language model",
            Self::SequenceClassification => "a classifier of texts",
            Self::TokenClassification => "a classifier of tokens",
            Self::QuestionAnswering => "a model that finds answers in texts",
        }
    }

    /// The head of `name`; nothing for a name that no head has.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|head| head.name() == name)
    }
}

impl Head {
    /// Refuses a head of another kind than `wanted`, which the model at `path` has.
    ///
    /// # Errors
    /// Exactly that.
    pub fn expect(&self, wanted: HeadKind, path: &Path) -> Result<(), Diagnostic> {
        if self.kind() == wanted {
            return Ok(());
        }
        Err(Diagnostic::new(Code::WrongHead)
            .at(path.display().to_string())
            .expected(format!("{} (head `{}`)", wanted.summary(), wanted.name()))
            .found(format!("head `{}`", self.name()))
            .help("`llamac eval` computes what this head gives"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for head in HeadKind::ALL {
            assert_eq!(HeadKind::from_name(head.name()), Some(head));
        }
        assert_eq!(HeadKind::from_name("auto"), None);
    }
}
