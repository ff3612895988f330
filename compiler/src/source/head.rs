//! The head of a model: which tensors it has beyond the trunk, and which one a checkpoint holds.

use llamac_plan::diagnostic::{Code, Diagnostic};

/// What is computed from the trunk's last hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// Nothing: the hidden states after the final norm (`LlamaModel`).
    Base,
    /// Logits of the next token (`LlamaForCausalLM`).
    CausalLm,
    /// Class scores of one pooled position (`LlamaForSequenceClassification`).
    SequenceClassification,
}

/// A head that checkpoints have: its class in transformers and its name on the command line. Heads that are not built
/// yet are recognised, so that they are refused in words and never taken for another one.
struct Known {
    class: &'static str,
    name: &'static str,
    head: Option<Head>,
}

const KNOWN: [Known; 5] = [
    Known { class: "LlamaModel", name: "base", head: Some(Head::Base) },
    Known { class: "LlamaForCausalLM", name: "causal-lm", head: Some(Head::CausalLm) },
    Known {
        class: "LlamaForSequenceClassification",
        name: "sequence-classification",
        head: Some(Head::SequenceClassification),
    },
    Known { class: "LlamaForTokenClassification", name: "token-classification", head: None },
    Known { class: "LlamaForQuestionAnswering", name: "question-answering", head: None },
];

/// The tensors that tell heads apart, as far as they are in the files.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadTensors {
    /// `lm_head.weight`.
    pub lm_head: bool,
    /// `score.weight`.
    pub score: bool,
    /// `score.bias`, which only token classification has.
    pub score_bias: bool,
    /// `qa_outputs.weight`.
    pub qa_outputs: bool,
    /// `model.embed_tokens.weight`.
    pub embedding: bool,
    /// Whether the configuration ties the output embedding to the input embedding.
    pub tied: bool,
}

impl Head {
    /// Every head that can be compiled.
    pub const ALL: [Self; 3] = [Self::Base, Self::CausalLm, Self::SequenceClassification];

    fn known(self) -> &'static Known {
        KNOWN.iter().find(|known| known.head == Some(self)).expect("the table has a row for every head")
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        self.known().name
    }

    /// The class in transformers.
    pub fn class(self) -> &'static str {
        self.known().class
    }

    /// The head of `name`; nothing for a name that no head has.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|head| head.name() == name)
    }

    /// The head that a checkpoint holds: its tensors say so first, its `architectures` second.
    ///
    /// # Errors
    /// `UnsupportedModel` for a head that llamac does not build.
    pub(super) fn detect(
        config: &str,
        tensors: HeadTensors,
        architectures: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Self, Diagnostic> {
        // The first LLaMA models were saved by classes that spelled LLaMA.
        let declared = architectures
            .iter()
            .find_map(|class| KNOWN.iter().find(|known| known.class.eq_ignore_ascii_case(class)));
        let unsupported = |class: &str| {
            Diagnostic::new(Code::UnsupportedModel)
                .at(format!("{config}: architectures"))
                .message(format!("the head of {class} is not supported yet"))
                .help("--head base compiles the model without its head")
        };
        if let Some(known) = declared
            && known.head.is_none()
        {
            return Err(unsupported(known.class));
        }
        if tensors.qa_outputs {
            return Err(unsupported("LlamaForQuestionAnswering"));
        }
        if tensors.score_bias {
            return Err(unsupported("LlamaForTokenClassification"));
        }
        let declared = declared.and_then(|known| known.head);
        Ok(match (tensors.lm_head, tensors.score) {
            (true, true) => match declared {
                Some(head) => head,
                None => {
                    warnings.push("the checkpoint has lm_head and score; the head is causal-lm".to_owned());
                    Self::CausalLm
                }
            },
            // With tied embeddings, a file may hold the one matrix under the head's name only.
            (true, false) if declared == Some(Self::Base) && tensors.tied && !tensors.embedding => Self::Base,
            (true, false) => Self::CausalLm,
            (false, true) => Self::SequenceClassification,
            (false, false) => match declared {
                Some(head) => head,
                None if tensors.tied => Self::CausalLm,
                None => Self::Base,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: HeadTensors = HeadTensors {
        lm_head: false,
        score: false,
        score_bias: false,
        qa_outputs: false,
        embedding: true,
        tied: false,
    };

    fn detect(tensors: HeadTensors, class: &str) -> Result<Head, Diagnostic> {
        Head::detect("config.json", tensors, &[class.to_owned()], &mut Vec::new())
    }

    #[test]
    fn tensors_decide_before_the_class_does() {
        let lm_head = HeadTensors { lm_head: true, ..NONE };
        let score = HeadTensors { score: true, ..NONE };
        assert_eq!(detect(lm_head, "LlamaModel"), Ok(Head::CausalLm));
        assert_eq!(detect(score, "LlamaForCausalLM"), Ok(Head::SequenceClassification));
        assert_eq!(detect(NONE, "LlamaModel"), Ok(Head::Base));
        assert_eq!(detect(NONE, "LLaMAForCausalLM"), Ok(Head::CausalLm));
        assert_eq!(detect(NONE, "Other"), Ok(Head::Base));
        assert_eq!(detect(HeadTensors { tied: true, ..NONE }, "Other"), Ok(Head::CausalLm));
        let both = HeadTensors { lm_head: true, ..score };
        assert_eq!(detect(both, "LlamaForSequenceClassification"), Ok(Head::SequenceClassification));
        assert_eq!(detect(both, "Other"), Ok(Head::CausalLm));
    }

    #[test]
    fn heads_that_are_not_built_are_refused() {
        let qa = HeadTensors { qa_outputs: true, ..NONE };
        let token = HeadTensors { score: true, score_bias: true, ..NONE };
        for (tensors, class) in [
            (qa, "Other"),
            (token, "Other"),
            (NONE, "LlamaForTokenClassification"),
            (NONE, "LlamaForQuestionAnswering"),
        ] {
            let fault = detect(tensors, class).unwrap_err();
            assert_eq!(fault.code, Code::UnsupportedModel, "{fault}");
        }
    }

    #[test]
    fn names_come_back() {
        for head in Head::ALL {
            assert_eq!(Head::from_name(head.name()), Some(head));
        }
        assert_eq!(Head::from_name("auto"), None);
    }
}
