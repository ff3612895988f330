use ndarray::{ArrayD, Axis};

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, take_args, take_weights};
use crate::{DType, Dim, Tensor, TensorType, Types, Weight};

/// `embed ids @table`: the rows of `table [vocabulary, width]` that `ids` name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Embed {
    /// `[vocabulary, width]`.
    pub table: Weight,
}

impl OpDef for Embed {
    const MNEMONIC: &'static str = "embed";

    fn weights(&self) -> Vec<&Weight> {
        vec![&self.table]
    }

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let [table] = take_weights(weights)?;
        Ok(Self { table })
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [ids] = take_args(args)?;
        if ids.dtype != DType::I64 {
            return Err(format!("ids must be i64, found {ids}"));
        }
        match (self.table.shape(), self.table.dtype().is_float()) {
            (&[_, width], true) => {
                let shape = ids.shape.iter().cloned().chain([Dim::from(width)]);
                Ok([TensorType::new(DType::F32, shape)].into_iter().collect())
            }
            _ => Err(format!("the table must hold floats [vocabulary, width], found {}", self.table.ty())),
        }
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let ids = args[0].as_i64()?;
        let table = context.weight(&self.table)?;
        let (rows, width) = (self.table.shape()[0], self.table.shape()[1]);
        let mut values: Vec<f32> = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            let row = usize::try_from(id).ok().filter(|&row| row < rows);
            let row = row.ok_or_else(|| format!("token {id} is outside a vocabulary of {rows}"))?;
            values.extend(table.index_axis(Axis(0), row));
        }
        let shape = [ids.shape(), &[width]].concat();
        Ok(vec![ArrayD::from_shape_vec(shape, values).map_err(|e| e.to_string())?.into()])
    }
}
