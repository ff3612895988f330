//! Weights as people read them: shorter than the recipe's text, and not to be read back.

use llamac_ir::{DType, Loc, Real, Weight, WeightExpr};

/// What `weight` is: literals as their numbers, parts of a concatenation with what they share written once, as in
/// `concat(@self_attn.{q,k,v}_proj.weight)`.
pub(super) fn recipe(weight: &Weight) -> String {
    match weight.expr() {
        WeightExpr::Literal { dtype, values, .. } => {
            let numbers: Vec<String> = values.iter().map(|value| number(*dtype, *value)).collect();
            if weight.shape().is_empty() { numbers.concat() } else { format!("[{}]", numbers.join(", ")) }
        }
        WeightExpr::Concat { parts } => {
            let texts: Vec<String> = parts.iter().map(recipe).collect();
            // Locations are names of which shared parts are written once, too.
            let names: Vec<Loc> = texts.iter().map(|text| Loc::new(text)).collect();
            let shared = Loc::merge(&names);
            let text = shared.to_string();
            if shared.modules().count() < texts.len() || text.starts_with('{') {
                return format!("concat({})", texts.join(", "));
            }
            format!("concat({text})")
        }
        _ => weight.to_string(),
    }
}

fn number(dtype: DType, value: Real) -> String {
    if dtype.is_float() { value.to_string() } else { value.get().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_written_once() {
        let source = |name: &str| Weight::source(name, DType::BF16, &[4, 4]).unwrap();
        let concat = |names: &[&str]| recipe(&Weight::concat(names.iter().map(|name| source(name))).unwrap());
        let qkv = ["a.0.q_proj.weight", "a.0.k_proj.weight", "a.0.v_proj.weight"];
        assert_eq!(concat(&qkv), "concat(@a.0.{q,k,v}_proj.weight)");
        assert_eq!(concat(&["gate", "up"]), "concat(@gate, @up)");
        assert_eq!(concat(&["a.up", "a.up"]), "concat(@a.up, @a.up)");
        let converted = qkv.map(|name| source(name).convert(DType::F32).unwrap());
        let converted = recipe(&Weight::concat(converted).unwrap());
        assert_eq!(converted, "concat(convert(@a.0.{q,k,v}_proj.weight, dtype=f32))");
    }

    #[test]
    fn literals_are_their_numbers() {
        let literal =
            |dtype, shape: &[usize], values: &[f64]| recipe(&Weight::literal(dtype, shape, values).unwrap());
        assert_eq!(literal(DType::F32, &[], &[2.0]), "2.0");
        assert_eq!(literal(DType::I64, &[2], &[0.0, -1.0]), "[0, -1]");
    }
}
