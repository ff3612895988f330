use ndarray::ArrayD;

use crate::attrs::Attrs;
use crate::op::{EvalContext, OpDef, require_weight, take_args, width};
use crate::{Tensor, TensorType, Types, Weight};

/// `linear x @w (@bias)?`: `x · wᵀ + bias` along the last dimension; `w` is `[out, in]`, `bias` `[out]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Weight>,
}

impl OpDef for Linear {
    const MNEMONIC: &'static str = "linear";

    fn weights(&self) -> Vec<&Weight> {
        std::iter::once(&self.weight).chain(&self.bias).collect()
    }

    fn build(weights: Vec<Weight>, _: &Attrs) -> Result<Self, String> {
        let found = weights.len();
        let mut weights = weights.into_iter();
        match (weights.next(), weights.next(), weights.next()) {
            (Some(weight), bias, None) => Ok(Self { weight, bias }),
            _ => Err(format!("takes a weight and perhaps a bias, found {found} weights")),
        }
    }

    fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
        let [x] = take_args(args)?;
        let inputs = width(x, "x")?;
        let &[out, _] = self.weight.shape() else {
            return Err(format!("the weight must be [out, in], found {}", self.weight.ty()));
        };
        let rows = i64::try_from(out).unwrap_or(i64::MAX);
        require_weight("the weight", &self.weight, &[rows, inputs])?;
        if let Some(bias) = &self.bias {
            require_weight("the bias", bias, &[rows])?;
        }
        Ok([x.with_width(out)].into_iter().collect())
    }

    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
        let x = args[0].as_f32()?;
        let weight = context.weight(&self.weight)?;
        let bias = self.bias.as_ref().map(|bias| context.weight(bias)).transpose()?;
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.weight.shape()[0];
        }
        let mut y = ArrayD::zeros(shape);
        for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
            for (o, (y, row)) in y.iter_mut().zip(weight.rows()).enumerate() {
                let start = bias.as_ref().map_or(0.0, |bias| f64::from(bias[[o]]));
                let products = x.iter().zip(row).map(|(&x, &w)| f64::from(x) * f64::from(w));
                *y = products.fold(start, |sum, product| sum + product) as f32;
            }
        }
        Ok(vec![y.into()])
    }
}
