//! The constants of a plan: each recipe once, with the layout that its steps read.

use std::collections::{HashMap, HashSet};

use llamac_ir::{DType, Loc, Weight, WeightExpr};
use llamac_plan::layout::{MatrixLayout, WeightDtype};
use llamac_plan::{WeightEntry, WeightId, WeightLayout};

/// Constants in the order of their first use.
pub(super) struct WeightTable {
    /// The dtype of matrices; that of the checkpoint if not given.
    dtype: Option<WeightDtype>,
    /// What the plan says of each.
    pub(super) entries: Vec<WeightEntry>,
    /// How each is made.
    pub(super) recipes: Vec<Weight>,
    ids: HashMap<(Weight, bool), WeightId>,
    names: HashSet<String>,
}

impl WeightTable {
    /// An empty table, for matrices of `dtype`, or of the checkpoint's.
    pub(super) fn new(dtype: Option<WeightDtype>) -> Self {
        Self { dtype, entries: Vec::new(), recipes: Vec::new(), ids: HashMap::new(), names: HashSet::new() }
    }

    /// The matrix `[out, in]` in panels.
    pub(super) fn matrix(&mut self, weight: &Weight, loc: &Loc) -> Result<WeightId, String> {
        let &[rows, cols] = weight.shape() else { return Err(format!("{weight} is not a matrix")) };
        let dtype = match (self.dtype, weight.dtype()) {
            (Some(dtype), _) => dtype,
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

    fn intern(&mut self, weight: &Weight, layout: WeightLayout, loc: &Loc, kind: &str) -> WeightId {
        let key = (weight.clone(), matches!(layout, WeightLayout::Matrix(_)));
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = WeightId(self.entries.len());
        let base = match weight.expr() {
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
