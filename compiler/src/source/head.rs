//! Which head a checkpoint holds: the tensors that it has beyond the trunk say so.

use llamac_plan::HeadKind as Head;

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

/// The head that a checkpoint holds: its tensors say so first, its `architectures` second.
pub(super) fn detect(tensors: HeadTensors, architectures: &[String], warnings: &mut Vec<String>) -> Head {
    // The first LLaMA models were saved by classes that spelled LLaMA.
    let of_class =
        |class: &String| Head::ALL.into_iter().find(|head| head.class().eq_ignore_ascii_case(class));
    let declared = architectures.iter().find_map(of_class);
    let score = match declared {
        Some(Head::TokenClassification) => Head::TokenClassification,
        _ if tensors.score_bias => Head::TokenClassification,
        _ => Head::SequenceClassification,
    };
    let held: Vec<(&str, Head)> = [
        (tensors.lm_head, "lm_head", Head::CausalLm),
        (tensors.score, "score", score),
        (tensors.qa_outputs, "qa_outputs", Head::QuestionAnswering),
    ]
    .into_iter()
    .filter_map(|(is_there, name, head)| is_there.then_some((name, head)))
    .collect();
    match (&held[..], declared) {
        // With tied embeddings, a file may hold the one matrix under the head's name only.
        ([(_, Head::CausalLm)], Some(Head::Base)) if tensors.tied && !tensors.embedding => Head::Base,
        (&[(_, head)], _) | (_, Some(head)) => head,
        (&[(_, head), ..], None) => {
            let names: Vec<&str> = held.iter().map(|(name, _)| *name).collect();
            let names = names.join(" and ");
            warnings.push(format!("the checkpoint has {names}; the head is {}", head.name()));
            head
        }
        ([], None) if tensors.tied => Head::CausalLm,
        ([], None) => Head::Base,
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

    fn detect(tensors: HeadTensors, class: &str) -> Head {
        super::detect(tensors, &[class.to_owned()], &mut Vec::new())
    }

    #[test]
    fn tensors_decide_before_the_class_does() {
        let lm_head = HeadTensors { lm_head: true, ..NONE };
        let score = HeadTensors { score: true, ..NONE };
        let score_with_bias = HeadTensors { score_bias: true, ..score };
        let qa_outputs = HeadTensors { qa_outputs: true, ..NONE };
        assert_eq!(detect(lm_head, "LlamaModel"), Head::CausalLm);
        assert_eq!(detect(score, "LlamaForCausalLM"), Head::SequenceClassification);
        assert_eq!(detect(score, "LlamaForTokenClassification"), Head::TokenClassification);
        assert_eq!(detect(score_with_bias, "Other"), Head::TokenClassification);
        assert_eq!(detect(qa_outputs, "LlamaForCausalLM"), Head::QuestionAnswering);
        assert_eq!(detect(NONE, "LlamaModel"), Head::Base);
        assert_eq!(detect(NONE, "LLaMAForCausalLM"), Head::CausalLm);
        assert_eq!(detect(NONE, "LlamaForQuestionAnswering"), Head::QuestionAnswering);
        assert_eq!(detect(NONE, "Other"), Head::Base);
        assert_eq!(detect(HeadTensors { tied: true, ..NONE }, "Other"), Head::CausalLm);
    }

    #[test]
    fn the_class_decides_between_several_heads() {
        let all = HeadTensors { lm_head: true, score: true, qa_outputs: true, ..NONE };
        for head in Head::ALL {
            assert_eq!(detect(all, head.class()), head);
        }
        let mut warnings = Vec::new();
        assert_eq!(super::detect(all, &["Other".to_owned()], &mut warnings), Head::CausalLm);
        assert_eq!(warnings, ["the checkpoint has lm_head and score and qa_outputs; the head is causal-lm"]);
    }
}
