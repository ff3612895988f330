//! One forward after another, each on the caches of the last.

use std::ops::Range;

use llamac_plan::diagnostic::Diagnostic;
use llamac_plan::eval::{Output, Request, Tokens};
use tract_onnx::prelude::{Datum, IntoTensor, TValue, TVec, Tensor, TractResult};

use crate::inputs::Kind;
use crate::{Model, PRESENT, guarded};

/// The forwards of a request.
pub(crate) struct Run<'a> {
    model: &'a Model,
    request: &'a Request,
    /// The caches of the last forward by the output that they were; nothing before the first.
    caches: Vec<Option<TValue>>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(model: &'a Model, request: &'a Request) -> Self {
        Self { model, request, caches: vec![None; model.outputs.len()] }
    }

    /// Runs the columns of `phase` on the caches so far; the outputs that are no caches.
    pub(crate) fn forward(&mut self, phase: Range<usize>) -> Result<Vec<Output>, Diagnostic> {
        let model = self.model;
        let feeds = guarded(&model.path, "take the inputs", || self.feeds(&phase))?;
        let results = model.run(feeds)?;
        let mut outputs = Vec::new();
        for (index, (name, value)) in model.outputs.iter().zip(results).enumerate() {
            match name.starts_with(PRESENT) {
                true => self.caches[index] = Some(value),
                false => outputs.push(output(model, name, value)?),
            }
        }
        Ok(outputs)
    }

    /// The caches of the last forward.
    pub(crate) fn caches(self) -> Result<Vec<Output>, Diagnostic> {
        let caches = self.model.outputs.iter().zip(self.caches);
        caches.filter_map(|(name, cache)| Some(output(self.model, name, cache?))).collect()
    }

    fn feeds(&mut self, phase: &Range<usize>) -> TractResult<TVec<TValue>> {
        let kinds: Vec<Kind> = self.model.inputs.iter().map(|input| input.kind).collect();
        kinds.into_iter().map(|kind| Ok(self.feed(kind, phase.clone())?.into())).collect()
    }

    fn feed(&mut self, kind: Kind, phase: Range<usize>) -> TractResult<Tensor> {
        let request = self.request;
        let &Request { batch, seq, .. } = request;
        let rows = [batch, phase.len()];
        match (kind, &request.tokens) {
            (Kind::Ids, Tokens::Ids(ids)) => {
                tensor(&rows, batch, phase, |row, column| [i64::from(ids[row * seq + column])])
            }
            (Kind::Embeddings { width }, Tokens::Embeddings(values)) => {
                let token = |row: usize, column: usize| {
                    values[(row * seq + column) * width..][..width].iter().copied()
                };
                tensor(&[batch, phase.len(), width], batch, phase, token)
            }
            (Kind::Mask, _) => {
                let real = |row, column| [i64::from(request.is_real(row, column))];
                tensor(&[batch, phase.end], batch, 0..phase.end, real)
            }
            (Kind::Positions, _) => {
                tensor(&rows, batch, phase, |row, column| [request.position(row, column)])
            }
            (Kind::Past { heads, size, output }, _) => match self.caches[output].take() {
                Some(cache) => Ok(cache.into_tensor()),
                None => Tensor::zero::<f32>(&[batch, heads, 0, size]),
            },
            // All; those that were not asked for are dropped at the end.
            (Kind::Keep, _) => Ok(Tensor::from(0i64)),
            (Kind::Ids | Kind::Embeddings { .. } | Kind::Unknown, _) => {
                unreachable!("a request is accepted, and a model opened, only if they fit together")
            }
        }
    }
}

/// What the model calls `name`.
fn output(model: &Model, name: &str, value: TValue) -> Result<Output, Diagnostic> {
    let shape = value.shape().to_vec();
    let data = guarded(&model.path, &format!("give `{name}` in f32"), || {
        Ok(value.into_tensor().to_plain_array_view::<f32>()?.iter().copied().collect())
    })?;
    Ok(Output { name: name.to_owned(), shape, data })
}

/// A tensor of what `token` gives for each row and column.
fn tensor<T: Datum + Copy, I: IntoIterator<Item = T>>(
    shape: &[usize],
    batch: usize,
    columns: Range<usize>,
    token: impl Fn(usize, usize) -> I,
) -> TractResult<Tensor> {
    let places = (0..batch).flat_map(|row| columns.clone().map(move |column| (row, column)));
    let values: Vec<T> = places.flat_map(|(row, column)| token(row, column)).collect();
    Tensor::from_shape(shape, &values)
}
