//! Outputs against outputs.

use llamac_plan::diagnostic::{Code, Diagnostic};
use llamac_plan::eval::{Output, Request};

/// An output that two computations agree on.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreed {
    /// Its name.
    pub name: String,
    /// The largest difference.
    pub absolute: f32,
    /// The same, as a part of the reference's largest value.
    pub relative: f32,
}

/// Compares the outputs that both computations give, in the order in which a model computes them: no difference may be
/// larger than `tolerance` of the reference's largest value. Padding of `request`, if there is one, is not compared.
/// `what` begins the place of a fault.
///
/// # Errors
/// `NumbersDiffer` for the first output that differs; `NothingToCompare` if no name is the same, or a shape is not.
pub fn agreement(
    what: &str,
    reference: &[Output],
    found: &[Output],
    request: Option<&Request>,
    tolerance: f32,
) -> Result<Vec<Agreed>, Diagnostic> {
    let pair = |expected: &Output| found.iter().position(|output| output.name == expected.name);
    let mut pairs: Vec<(&Output, &Output)> =
        reference.iter().filter_map(|expected| Some((expected, &found[pair(expected)?]))).collect();
    if pairs.is_empty() {
        let names = |outputs: &[Output]| {
            outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        return Err(Diagnostic::new(Code::NothingToCompare)
            .at(what)
            .expected(format!("one of {}", names(reference)))
            .found(names(found)));
    }
    pairs.sort_by_key(|(expected, _)| step(&expected.name));
    let mut agreed = Vec::new();
    for (expected, found) in pairs {
        let place = match module(&expected.name) {
            Some(module) => format!("{what}: {}, of {module}", expected.name),
            None => format!("{what}: {}", expected.name),
        };
        if expected.shape != found.shape {
            let fault = Diagnostic::new(Code::NothingToCompare).at(place);
            return Err(fault
                .expected(format!("shape {:?}", expected.shape))
                .found(format!("shape {:?}", found.shape)));
        }
        let worst = worst(expected, found, request);
        // What is not a number is within no tolerance.
        let within = worst.relative() <= tolerance;
        if !within {
            let Worst { index, expected: wanted, found, scale, .. } = &worst;
            let before = if agreed.is_empty() { "" } else { "; what is computed before agrees" };
            let fault = Diagnostic::new(Code::NumbersDiffer)
                .at(place)
                .expected(format!("at most {tolerance:e} of its largest value, {scale}{before}"))
                .found(format!("{:.1e} of it: {found} instead of {wanted} at {index:?}", worst.relative()));
            return Err(match wanted.is_finite() {
                true => fault,
                false => {
                    fault.help("the reference is not finite either: weights hold infinities or no numbers")
                }
            });
        }
        agreed.push(Agreed {
            name: expected.name.clone(),
            absolute: worst.difference,
            relative: worst.relative(),
        });
    }
    Ok(agreed)
}

/// The largest difference of two outputs.
struct Worst {
    difference: f32,
    /// The reference's largest value.
    scale: f32,
    index: Vec<usize>,
    expected: f32,
    found: f32,
}

impl Worst {
    fn relative(&self) -> f32 {
        if self.difference == 0.0 { 0.0 } else { self.difference / self.scale }
    }
}

fn worst(expected: &Output, found: &Output, request: Option<&Request>) -> Worst {
    let mut worst = Worst { difference: 0.0, scale: 0.0, index: Vec::new(), expected: 0.0, found: 0.0 };
    for (flat, (&wanted, &got)) in expected.data.iter().zip(&found.data).enumerate() {
        let index = unravel(flat, &expected.shape);
        if request.is_some_and(|request| !is_real(expected, &index, request)) {
            continue;
        }
        worst.scale = worst.scale.max(wanted.abs());
        let difference = (got - wanted).abs();
        // A NaN counts as the largest, and no other difference replaces it.
        if !worst.difference.is_nan() && (difference.is_nan() || difference > worst.difference) {
            worst = Worst { difference, index, expected: wanted, found: got, ..worst };
        }
    }
    worst
}

/// Whether an element belongs to a real token, or to none.
fn is_real(output: &Output, index: &[usize], request: &Request) -> bool {
    let column = match output.name.as_str() {
        name if name.starts_with("present.") => index.get(2),
        "start_logits" | "end_logits" => index.get(1),
        _ if index.len() == 3 => index.get(1),
        // One for each sequence.
        _ => None,
    };
    let Some(column) = column else { return true };
    // Fewer columns than there are tokens are the last ones; before more of them come those of a soft prompt.
    let columns = if output.name.starts_with("present.") { output.shape[2] } else { output.shape[1] };
    (column + request.seq).checked_sub(columns).is_none_or(|column| request.is_real(index[0], column))
}

fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let place = flat % size.max(1);
            flat /= size.max(1);
            place
        })
        .collect();
    index.reverse();
    index
}

/// When an output is computed: layers are in even steps, what is cached in odd ones, the head is last.
fn step(name: &str) -> (usize, bool) {
    match Part::of(name) {
        Some(Part::HiddenState(index)) => (2 * index, false),
        Some(Part::Cache { layer, value }) => (2 * layer + 1, value),
        None => (usize::MAX, false),
    }
}

/// The module that computes an output, where the name tells.
fn module(name: &str) -> Option<String> {
    match Part::of(name)? {
        Part::HiddenState(0) => Some("model.embed_tokens".to_owned()),
        // The last one is normed; which one that is, the name does not say.
        Part::HiddenState(index) => Some(format!("model.layers.{}", index - 1)),
        Part::Cache { layer, value } => {
            let projection = if value { "v_proj" } else { "k_proj" };
            Some(format!("model.layers.{layer}.self_attn.{projection}"))
        }
    }
}

/// An output that is not the head's.
enum Part {
    HiddenState(usize),
    Cache { layer: usize, value: bool },
}

impl Part {
    fn of(name: &str) -> Option<Self> {
        if let Some(index) = name.strip_prefix("hidden_states.") {
            return Some(Self::HiddenState(index.parse().ok()?));
        }
        let (layer, which) = name.strip_prefix("present.")?.split_once('.')?;
        Some(Self::Cache { layer: layer.parse().ok()?, value: which == "value" })
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_plan::eval::Tokens;

    use super::*;

    fn output(name: &str, shape: &[usize], data: &[f32]) -> Output {
        Output { name: name.to_owned(), shape: shape.to_vec(), data: data.to_vec() }
    }

    fn outputs() -> Vec<Output> {
        vec![
            output("logits", &[1, 2, 2], &[1.0, 2.0, 3.0, -4.0]),
            output("hidden_states.10", &[1, 2, 1], &[1.0, 2.0]),
            output("hidden_states.2", &[1, 2, 1], &[1.0, 2.0]),
            output("present.2.value", &[1, 1, 2, 1], &[1.0, 2.0]),
            output("present.2.key", &[1, 1, 2, 1], &[1.0, 2.0]),
        ]
    }

    #[test]
    fn outputs_are_compared_in_the_order_of_computing() {
        let agreed = agreement("b", &outputs(), &outputs(), None, 0.0).expect("the same");
        let names: Vec<&str> = agreed.iter().map(|agreed| agreed.name.as_str()).collect();
        assert_eq!(
            names,
            ["hidden_states.2", "present.2.key", "present.2.value", "hidden_states.10", "logits"]
        );
        assert!(agreed.iter().all(|agreed| agreed.absolute == 0.0 && agreed.relative == 0.0));
    }

    #[test]
    fn the_first_difference_is_told_and_the_largest_of_it() {
        let mut found = outputs();
        found[0].data[3] = 4.0;
        found[3].data = vec![1.25, 1.5];
        let fault = agreement("b", &outputs(), &found, None, 0.2).expect_err("they differ");
        assert_snapshot!(fault);
        agreement("b", &outputs()[1..], &found, None, 0.25).expect("a quarter is allowed");
    }

    #[test]
    fn what_is_no_number_differs() {
        for place in 0..2 {
            let mut found = outputs();
            found[2].data[place] = f32::NAN;
            let fault = agreement("b", &outputs(), &found, None, f32::MAX).expect_err("no number");
            assert!(fault.to_string().contains("NaN instead of"), "{fault}");
        }
    }

    #[test]
    fn padding_is_not_compared() {
        let request = Request {
            batch: 1,
            seq: 2,
            tokens: Tokens::Ids(vec![0, 1]),
            mask: Some(vec![false, true]),
            positions: None,
            keep: None,
            hidden_states: true,
            cached: 0,
        };
        let mut found = outputs();
        for (output, place) in found.iter_mut().zip([1, 0, 0, 0, 0]) {
            output.data[place] = f32::NAN;
        }
        agreement("b", &outputs(), &found, Some(&request), 0.0).expect("the first column is padding");
        found[0].data[2] = 0.0;
        agreement("b", &outputs(), &found, Some(&request), 0.0).expect_err("the second is none");
        // The last column alone.
        let [expected, found] = [1.0, 1.5].map(|value| vec![output("logits", &[1, 1, 1], &[value])]);
        agreement("b", &expected, &found, Some(&request), 0.0).expect_err("it is the second");
        // Behind the column of a soft prompt.
        let expected = [output("logits", &[1, 3, 1], &[1.0, 2.0, 3.0])];
        let mut found = expected.clone();
        found[0].data[1] = f32::NAN;
        agreement("b", &expected, &found, Some(&request), 0.0).expect("the second is padding");
        found[0].data[0] = 0.0;
        agreement("b", &expected, &found, Some(&request), 0.0).expect_err("a prompt's is none");
    }

    #[test]
    fn outputs_of_other_models_are_not_compared() {
        let other = vec![output("last_hidden_state", &[1, 2, 2], &[0.0; 4])];
        assert_snapshot!(agreement("b", &outputs(), &other, None, 1.0).expect_err("no name is the same"));
        let other = vec![output("logits", &[1, 2], &[0.0; 2])];
        assert_snapshot!(agreement("b", &outputs(), &other, None, 1.0).expect_err("another shape"));
    }
}
