//! The constants of a plan: each recipe once, with the layout that its steps read.

use std::collections::{HashMap, HashSet};

use llamac_ir::{DType, Loc, Scheme, Weight, WeightExpr};
use llamac_plan::layout::{MatrixLayout, WeightDtype};
use llamac_plan::{WeightEntry, WeightId, WeightLayout};

/// Constants in the order of their first use.
#[derive(Default)]
pub(super) struct WeightTable {
    /// What the plan says of each.
    pub(super) entries: Vec<WeightEntry>,
    /// How each is made.
    pub(super) recipes: Vec<Weight>,
    ids: HashMap<(Weight, bool), WeightId>,
    names: HashSet<String>,
}

impl WeightTable {
    /// The matrix `[out, in]` in panels.
    pub(super) fn matrix(&mut self, weight: &Weight, loc: &Loc) -> Result<WeightId, String> {
        let &[rows, cols] = weight.shape() else { return Err(format!("{weight} is not a matrix")) };
        let dtype = match (weight.scheme(), weight.dtype()) {
            (Some(Scheme::Q8), _) => WeightDtype::Q8,
            (Some(Scheme::Q4), _) => WeightDtype::Q4,
            (Some(Scheme::Q4A), _) => WeightDtype::Q4A,
            (None, DType::F32) => WeightDtype::F32,
            (None, DType::F16) => WeightDtype::F16,
            (None, DType::BF16) => WeightDtype::Bf16,
            (None, other) => return Err(format!("{weight} is {other}, not a float")),
        };
        Ok(self.intern(weight, WeightLayout::Matrix(MatrixLayout { dtype, rows, cols }), loc, "weight"))
    }

    /// The vector as f32.
    pub(super) fn vector(&mut self, weight: &Weight, loc: &Loc) -> Result<WeightId, String> {
        let &[len] = weight.shape() else { return Err(format!("{weight} is not a vector")) };
        Ok(self.intern(weight, WeightLayout::Vector { len }, loc, "bias"))
    }

    /// All elements, row after row, as f32; `loc` names what the recipe does not.
    pub(super) fn elements(&mut self, weight: &Weight, loc: &Loc) -> WeightId {
        self.intern(weight, WeightLayout::Vector { len: weight.elements() }, loc, "rows")
    }

    fn intern(&mut self, weight: &Weight, layout: WeightLayout, loc: &Loc, kind: &str) -> WeightId {
        let key = (weight.clone(), matches!(layout, WeightLayout::Matrix(_)));
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = WeightId(self.entries.len());
        let numbers = match weight.expr() {
            WeightExpr::Convert { base, .. } | WeightExpr::Quantize { base, .. } => base,
            _ => weight,
        };
        let base = match numbers.expr() {
            WeightExpr::Source { tensor, .. } => tensor.clone(),
            WeightExpr::InvFreq { .. } => "rotary.inv_freq".to_owned(),
            _ => format!("{loc}.{kind}"),
        };
        // Two recipes may come from one place: the longrope embedding has two sets of frequencies.
        let mut name = base.clone();
        let mut count = 1;
        while !self.names.insert(name.clone()) {
            count += 1;
            name = format!("{base}.{count}");
        }
        self.entries.push(WeightEntry { tensor: name, layout, recipe: weight.to_string() });
        self.recipes.push(weight.clone());
        self.ids.insert(key, id);
        id
    }
}
