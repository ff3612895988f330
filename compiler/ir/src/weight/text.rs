//! Recipes as text: `concat(@q, @k)`, `slice(@w, start=0, rows=4)`, `inv_freq(theta=10000.0, …)`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{FrequencySet, Group, Packing, Permutation, Weight, WeightExpr, Zeros};
use crate::attrs::{Attrs, list_text, write_attrs};
use crate::suggest::{nearest, question};
use crate::text::{Cursor, SyntaxError, write_name};

/// The recipes that are written as functions.
const FUNCTIONS: [&str; 23] = [
    "quantize",
    "quantized_part",
    "pack_nibbles",
    "concat",
    "concat_columns",
    "slice",
    "replace_rows",
    "interleaved_to_half",
    "half_to_interleaved",
    "transpose",
    "add_low_rank",
    "sum",
    "scale",
    "set_row_norms",
    "convert",
    "inv_freq",
    "literal",
    "dequantize",
    "dequantize_groups",
    "unpack",
    "lookup",
    "gather_columns",
    "offset",
];

/// Recipes nest by a few levels; more is an attack on the parser's stack.
const MAX_DEPTH: usize = 32;

impl WeightExpr {
    fn function(&self) -> &'static str {
        match self {
            Self::Source { .. } => "",
            Self::Concat { .. } => "concat",
            Self::ConcatColumns { .. } => "concat_columns",
            Self::Slice { .. } => "slice",
            Self::ReplaceRows { .. } => "replace_rows",
            Self::Permute { order: Permutation::InterleavedToHalf { .. }, .. } => "interleaved_to_half",
            Self::Permute { order: Permutation::HalfToInterleaved { .. }, .. } => "half_to_interleaved",
            Self::Transpose { .. } => "transpose",
            Self::AddLowRank { .. } => "add_low_rank",
            Self::Sum { .. } => "sum",
            Self::Scale { .. } => "scale",
            Self::SetRowNorms { .. } => "set_row_norms",
            Self::InvFreq { .. } => "inv_freq",
            Self::Convert { .. } => "convert",
            Self::Quantize { .. } => "quantize",
            Self::QuantizedPart { .. } => "quantized_part",
            Self::PackNibbles { .. } => "pack_nibbles",
            Self::Dequantize { .. } => "dequantize",
            Self::DequantizeGroups { .. } => "dequantize_groups",
            Self::Unpack { .. } => "unpack",
            Self::Lookup { .. } => "lookup",
            Self::GatherColumns { .. } => "gather_columns",
            Self::Offset { .. } => "offset",
            Self::Literal { .. } => "literal",
        }
    }

    fn attrs(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Source { .. }
            | Self::Concat { .. }
            | Self::ConcatColumns { .. }
            | Self::Transpose { .. }
            | Self::Sum { .. }
            | Self::SetRowNorms { .. }
            | Self::Lookup { .. }
            | Self::GatherColumns { .. }
            | Self::PackNibbles { .. } => Vec::new(),
            Self::ReplaceRows { rows, by, .. } => vec![("rows", list_text(rows)), ("by", list_text(by))],
            Self::Slice { start, rows, .. } => vec![("start", start.to_string()), ("rows", rows.to_string())],
            Self::Permute {
                order:
                    Permutation::InterleavedToHalf { heads, head_dim }
                    | Permutation::HalfToInterleaved { heads, head_dim },
                ..
            } => vec![("heads", heads.to_string()), ("head_dim", head_dim.to_string())],
            Self::AddLowRank { scale, .. } => vec![("scale", scale.to_string())],
            Self::Scale { factor, .. } => vec![("factor", factor.to_string())],
            Self::InvFreq { theta, head_dim, scaling, set } => vec![
                ("theta", theta.to_string()),
                ("head_dim", head_dim.to_string()),
                ("scaling", scaling.to_string()),
                ("set", set.to_string()),
            ],
            Self::Convert { dtype, .. } => vec![("dtype", dtype.to_string())],
            Self::Quantize { scheme, .. } => vec![("scheme", scheme.to_string())],
            Self::QuantizedPart { part, .. } => vec![("part", part.to_string())],
            Self::Dequantize { format, .. } => vec![("format", format.to_string())],
            Self::DequantizeGroups { zeros, group: Group { rows, columns }, .. } => {
                let group = [("rows", rows.to_string()), ("columns", columns.to_string())];
                let zero = match zeros {
                    Zeros::Same(zero) => Some(("zero", zero.to_string())),
                    Zeros::Each(_) => None,
                };
                group.into_iter().chain(zero).collect()
            }
            Self::Unpack { packing: Packing { bits, order, count, plus }, .. } => vec![
                ("bits", bits.to_string()),
                ("order", order.to_string()),
                ("count", count.to_string()),
                ("plus", plus.to_string()),
            ],
            Self::Offset { term, .. } => vec![("term", term.to_string())],
            Self::Literal { dtype, shape, values } => {
                vec![("dtype", dtype.to_string()), ("shape", list_text(shape)), ("values", list_text(values))]
            }
        }
    }

    fn build(function: &str, mut parts: Vec<Weight>, a: &Attrs) -> Result<Self, String> {
        let expected = match function {
            "concat" | "concat_columns" | "sum" => parts.len(),
            "slice"
            | "interleaved_to_half"
            | "half_to_interleaved"
            | "transpose"
            | "scale"
            | "convert"
            | "quantize"
            | "quantized_part"
            | "dequantize"
            | "unpack"
            | "offset"
            | "pack_nibbles" => 1,
            "dequantize_groups" => parts.len().clamp(2, 3),
            "set_row_norms" | "lookup" | "gather_columns" | "replace_rows" => 2,
            "add_low_rank" => 3,
            "inv_freq" | "literal" => 0,
            _ => return Err(format!("`{function}` is not a recipe{}", question(function, FUNCTIONS))),
        };
        if parts.len() != expected {
            return Err(format!("{function} takes {expected} weights, found {}", parts.len()));
        }
        let mut next = || parts.remove(0);
        let expr = match function {
            "concat" => Self::Concat { parts },
            "concat_columns" => Self::ConcatColumns { parts },
            "slice" => Self::Slice { base: next(), start: a.get("start")?, rows: a.get("rows")? },
            "replace_rows" => {
                Self::ReplaceRows { base: next(), new: next(), rows: a.list("rows")?, by: a.list("by")? }
            }
            "interleaved_to_half" => {
                let order =
                    Permutation::InterleavedToHalf { heads: a.get("heads")?, head_dim: a.get("head_dim")? };
                Self::Permute { base: next(), order }
            }
            "half_to_interleaved" => {
                let order =
                    Permutation::HalfToInterleaved { heads: a.get("heads")?, head_dim: a.get("head_dim")? };
                Self::Permute { base: next(), order }
            }
            "transpose" => Self::Transpose { base: next() },
            "sum" => Self::Sum { parts },
            "scale" => Self::Scale { base: next(), factor: a.get("factor")? },
            "set_row_norms" => Self::SetRowNorms { base: next(), norms: next() },
            "convert" => Self::Convert { base: next(), dtype: a.get("dtype")? },
            "quantize" => Self::Quantize { base: next(), scheme: a.get("scheme")? },
            "quantized_part" => Self::QuantizedPart { of: next(), part: a.get("part")? },
            "pack_nibbles" => Self::PackNibbles { base: next() },
            "dequantize" => Self::Dequantize { base: next(), format: a.get("format")? },
            "dequantize_groups" => {
                let (codes, scales) = (next(), next());
                let zeros = match parts.pop() {
                    Some(zeros) => Zeros::Each(zeros),
                    None => Zeros::Same(a.get("zero")?),
                };
                let group = Group { rows: a.get("rows")?, columns: a.get("columns")? };
                Self::DequantizeGroups { codes, scales, zeros, group }
            }
            "unpack" => {
                let (bits, order) = (a.get("bits")?, a.get("order")?);
                let packing = Packing { bits, order, count: a.get("count")?, plus: a.get("plus")? };
                Self::Unpack { base: next(), packing }
            }
            "lookup" => Self::Lookup { codes: next(), table: next() },
            "gather_columns" => Self::GatherColumns { base: next(), index: next() },
            "offset" => Self::Offset { base: next(), term: a.get("term")? },
            "literal" => Self::Literal {
                dtype: a.get("dtype")?,
                shape: a.list("shape")?.into(),
                values: a.list("values")?,
            },
            "add_low_rank" => Self::AddLowRank { base: next(), a: next(), b: next(), scale: a.get("scale")? },
            _ => Self::InvFreq {
                theta: a.get("theta")?,
                head_dim: a.get("head_dim")?,
                scaling: a.get("scaling")?,
                set: a.get("set")?,
            },
        };
        match a.keys().find(|key| expr.attrs().iter().all(|(known, _)| known != key)) {
            Some(key) => Err(format!("{function} has no attribute `{key}`")),
            None => Ok(expr),
        }
    }
}

impl fmt::Display for WeightExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Source { tensor, .. } = self {
            f.write_str("@")?;
            return write_name(f, tensor);
        }
        let parts = self.parts();
        write!(f, "{}(", self.function())?;
        for (i, part) in parts.iter().enumerate() {
            write!(f, "{}{part}", if i == 0 { "" } else { ", " })?;
        }
        let attrs = self.attrs();
        f.write_str(if parts.is_empty() || attrs.is_empty() { "" } else { ", " })?;
        write_attrs(f, &attrs)?;
        f.write_str(")")
    }
}

impl fmt::Display for FrequencySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "short",
            Self::Long => "long",
        })
    }
}

impl FromStr for FrequencySet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "short" => Ok(Self::Short),
            "long" => Ok(Self::Long),
            _ => Err("expected short or long"),
        }
    }
}

impl Weight {
    /// Reads a recipe over the `declared` tensors.
    pub(crate) fn parse(
        cursor: &mut Cursor<'_>,
        declared: &BTreeMap<String, Self>,
    ) -> Result<Self, SyntaxError> {
        Self::parse_nested(cursor, declared, 0)
    }

    fn parse_nested(
        cursor: &mut Cursor<'_>,
        declared: &BTreeMap<String, Self>,
        depth: usize,
    ) -> Result<Self, SyntaxError> {
        let start = cursor.mark();
        if cursor.eat("@") {
            let name = cursor.name("the name of a weight")?;
            return declared.get(&name).cloned().ok_or_else(|| start.error(undeclared(&name, declared)));
        }
        if depth == MAX_DEPTH {
            return Err(start.error("this recipe is nested too deeply"));
        }
        let function = cursor.identifier("a weight: @name or a recipe")?;
        cursor.expect("(")?;
        let (mut parts, mut attrs) = (Vec::new(), Attrs::default());
        cursor.list(")", |cursor| {
            let mut ahead = cursor.clone();
            let is_attribute = ahead.identifier("").is_ok() && ahead.at("=");
            if !is_attribute {
                parts.push(Self::parse_nested(cursor, declared, depth + 1)?);
                return Ok(());
            }
            let start = cursor.mark();
            let key = cursor.identifier("an attribute's name")?;
            cursor.expect("=")?;
            attrs.insert(key, cursor.attribute_value()?).map_err(|message| start.error(message))
        })?;
        let expr = WeightExpr::build(function, parts, &attrs).map_err(|message| start.error(message))?;
        Self::new(expr).map_err(|error| start.error(error.to_string()))
    }
}

fn undeclared(name: &str, declared: &BTreeMap<String, Weight>) -> String {
    let near = nearest(name, declared.keys().map(String::as_str));
    let near = near.map(|near| format!("; did you mean @{near}?")).unwrap_or_default();
    format!("@{name} is not declared{near}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::{BlockFormat, PackOrder, QuantizedPart, Scheme};
    use crate::{DType, Real, RopeScaling};

    fn source(name: &str, shape: &[usize]) -> Weight {
        Weight::source(name, DType::BF16, shape).unwrap()
    }

    fn declared() -> BTreeMap<String, Weight> {
        let blocks = Weight::source("blocks", DType::U8, &[2, 36]).unwrap();
        let weights = [
            source("q", &[8, 4]),
            source("k", &[4, 4]),
            source("a", &[2, 4]),
            source("b", &[8, 2]),
            source("m", &[8]),
            source("scales", &[2, 2]),
            Weight::source("zeros", DType::U8, &[2, 2]).unwrap(),
            Weight::source("table", DType::F32, &[16]).unwrap(),
            Weight::source("index", DType::I32, &[5]).unwrap(),
            blocks,
        ];
        weights.into_iter().map(|w| (w.to_string()[1..].to_owned(), w)).collect()
    }

    #[test]
    fn recipes_read_back() {
        let d = declared();
        let (q, k) = (&d["q"], &d["k"]);
        let packing = Packing { bits: 4, order: PackOrder::Low, count: 70, plus: 1 };
        let unpacked = d["blocks"].unpack(packing).unwrap();
        let groups =
            |zeros| unpacked.dequantize_groups(&d["scales"], zeros, Group { rows: 1, columns: 35 }).unwrap();
        let recipes = [
            Weight::concat([q.clone(), k.clone(), k.slice(1, 2).unwrap()]).unwrap(),
            Weight::concat_columns([q.clone(), d["b"].clone()]).unwrap(),
            q.replace_rows(&d["a"], &[5, 0]).unwrap(),
            q.permute(Permutation::InterleavedToHalf { heads: 2, head_dim: 4 }).unwrap().transpose().unwrap(),
            q.permute(Permutation::HalfToInterleaved { heads: 4, head_dim: 2 }).unwrap(),
            q.add_low_rank(&d["a"], &d["b"], Real::new(0.5)).unwrap(),
            Weight::sum([d["m"].clone(), d["m"].scale(Real::new(0.25)).unwrap()]).unwrap(),
            q.set_row_norms(&d["m"]).unwrap(),
            Weight::new(WeightExpr::InvFreq {
                theta: Real::new(1e4),
                head_dim: 4,
                scaling: RopeScaling::Linear { factor: Real::new(2.0) },
                set: FrequencySet::Short,
            })
            .unwrap(),
            q.convert(DType::F32).unwrap(),
            q.quantize(Scheme::Q4).unwrap(),
            q.quantize(Scheme::Q8).unwrap().quantized_part(QuantizedPart::Codes).unwrap(),
            q.quantize(Scheme::Q4A)
                .unwrap()
                .quantized_part(QuantizedPart::Zeros)
                .unwrap()
                .pack_nibbles()
                .unwrap(),
            d["blocks"].dequantize(BlockFormat::Q4_0).unwrap().quantize(Scheme::Q4).unwrap(),
            groups(Zeros::Same(8)),
            groups(Zeros::Each(d["zeros"].clone())),
            unpacked.lookup(&d["table"]).unwrap().offset(Real::new(-0.5)).unwrap(),
            unpacked.gather_columns(&d["index"]).unwrap(),
            Weight::literal(DType::I64, &[2, 1], &[-1.0, 3.0]).unwrap(),
            Weight::literal(DType::F32, &[], &[1e-5]).unwrap(),
        ];
        for recipe in recipes {
            let text = recipe.to_string();
            assert!(FUNCTIONS.contains(&recipe.expr().function()));
            let read = Weight::parse(&mut Cursor::new(&text), &d).unwrap();
            assert_eq!((read.to_string(), read.ty()), (text, recipe.ty()));
            assert_eq!(read, recipe);
        }
    }

    #[test]
    fn wrong_recipes_are_refused_in_words() {
        let d = declared();
        let error = |text: &str| Weight::parse(&mut Cursor::new(text), &d).unwrap_err().to_string();
        insta::assert_snapshot!(error("concat(@q, @a, transpose(@a))"), @"
        line 1, column 1: weight `concat(@q, @a, transpose(@a))`: rows of bf16[8, 4] and bf16[4, 2] differ in type or size
          concat(@q, @a, transpose(@a))
          ^
        ");
        insta::assert_snapshot!(error("concat_columns(@q, @k)"), @"
        line 1, column 1: weight `concat_columns(@q, @k)`: columns of bf16[8, 4] and bf16[4, 4] differ in type or size
          concat_columns(@q, @k)
          ^
        ");
        insta::assert_snapshot!(error("slice(@q, start=7, rows=2)"), @"
        line 1, column 1: weight `slice(@q, start=7, rows=2)`: 2 rows from 7 on are more than the 8 there are
          slice(@q, start=7, rows=2)
          ^
        ");
        insta::assert_snapshot!(error("interleaved_to_half(@k, heads=4, head_dim=1)"), @"
        line 1, column 1: weight `interleaved_to_half(@k, heads=4, head_dim=1)`: 4 rows are not 4 heads of 1, an even number
          interleaved_to_half(@k, heads=4, head_dim=1)
          ^
        ");
        insta::assert_snapshot!(error("add_low_rank(@q, @b, @a, scale=1.0)"), @"
        line 1, column 1: weight `add_low_rank(@q, @b, @a, scale=1.0)`: bf16[2, 4] · bf16[8, 2] is not a change of bf16[8, 4]
          add_low_rank(@q, @b, @a, scale=1.0)
          ^
        ");
        insta::assert_snapshot!(error("set_row_norms(@k, @m)"), @"
        line 1, column 1: weight `set_row_norms(@k, @m)`: bf16[8] are no lengths of the rows of bf16[4, 4]
          set_row_norms(@k, @m)
          ^
        ");
        insta::assert_snapshot!(error("dequantize(@blocks, format=q8_0)"), @"
        line 1, column 1: weight `dequantize(@blocks, format=q8_0)`: u8[2, 36] are no rows of q8_0 blocks
          dequantize(@blocks, format=q8_0)
          ^
        ");
        insta::assert_snapshot!(error("dequantize_groups(@blocks, @scales, rows=1, columns=16, zero=8)"), @"
        line 1, column 1: weight `dequantize_groups(@blocks, @scales, rows=1, columns=16, zero=8)`: u8[2, 36] have no groups of 1 × 16 with bf16[2, 2] for scales
          dequantize_groups(@blocks, @scales, rows=1, columns=16, zero=8)
          ^
        ");
        insta::assert_snapshot!(error("unpack(@blocks, bits=3, order=low, count=97, plus=0)"), @"
        line 1, column 1: weight `unpack(@blocks, bits=3, order=low, count=97, plus=0)`: bytes of shape [2, 36] are no 97 integers of 3 bits, low
          unpack(@blocks, bits=3, order=low, count=97, plus=0)
          ^
        ");
        insta::assert_snapshot!(error("sum(@q, @k)"), @"
        line 1, column 1: weight `sum(@q, @k)`: bf16[8, 4] and bf16[4, 4] are no numbers of one type
          sum(@q, @k)
          ^
        ");
        insta::assert_snapshot!(error("transpose(@v)"), @"
        line 1, column 11: @v is not declared
          transpose(@v)
                    ^
        ");
        insta::assert_snapshot!(error("transpose(@q, rows=1)"), @"
        line 1, column 1: transpose has no attribute `rows`
          transpose(@q, rows=1)
          ^
        ");
        insta::assert_snapshot!(error(&"transpose(".repeat(100)), @"
        line 1, column 321: this recipe is nested too deeply
          transpose(transpose(transpose(transpose(transpose(transpose(transpose(transpose(transpose(transpose(
                                                            ^
        ");
    }

    #[test]
    fn a_size_that_overflows_is_refused() {
        let error = Weight::source("w", DType::F32, &[usize::MAX, 2]).unwrap_err();
        assert!(error.message.contains("does not fit in memory"), "{error}");
    }
}
