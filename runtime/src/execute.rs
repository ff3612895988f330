//! One chunk through the plan's steps: each step names its windows of the arena and calls its kernel.

use std::ops::Range;
use std::time::Instant;

use llamac_plan::{Slice, Step};

use crate::engine::{Engine, Feed, Input};
use crate::kernels::{self, Rows, RowsMut, Segment};
use crate::model::Model;
use crate::profile::ChunkShape;

impl Engine {
    /// Runs every step over the current chunk.
    pub(crate) fn execute(&mut self, feeds: &mut [Feed<'_>]) {
        let model = self.model.clone();
        let plan = model.plan();
        for (i, step) in plan.steps.iter().enumerate() {
            let Some(mut recorder) = self.recorder.take() else {
                self.step(&model, step, feeds);
                continue;
            };
            let chunk = self.chunk_shape(feeds);
            let start = Instant::now();
            self.step(&model, step, feeds);
            recorder.record(plan, i, &chunk, start);
            self.recorder = Some(recorder);
        }
    }

    /// What the work of a step depends on.
    fn chunk_shape(&self, feeds: &[Feed<'_>]) -> ChunkShape {
        let chunk = &self.chunk;
        let seen = |rows: Range<usize>| chunk.limits[rows].iter().map(|&limit| u64::from(limit));
        ChunkShape {
            tokens: chunk.positions.len(),
            kept: chunk.kept.len(),
            seen: seen(0..chunk.limits.len()).sum(),
            cached: chunk.pieces.iter().map(|piece| seen(piece.rows.clone()).max().unwrap_or(0)).sum(),
            compute: self.compute,
            cache: feeds[chunk.pieces[0].feed].session.layout,
        }
    }

    fn tokens(&self) -> usize {
        self.chunk.positions.len()
    }

    /// A window to read: a row for each token, or for each kept row.
    ///
    /// # Safety
    /// As for [`crate::arena::Arena::rows`].
    unsafe fn read(&self, slice: &Slice) -> Rows<'_> {
        let rows = 0..self.row_count(slice);
        // SAFETY: the caller's promise.
        unsafe { self.arena.rows(&self.model.plan().buffers, slice, rows) }
    }

    /// A window to write.
    ///
    /// # Safety
    /// As for [`crate::arena::Arena::rows_mut`].
    unsafe fn write(&self, slice: &Slice) -> RowsMut<'_> {
        let rows = 0..self.row_count(slice);
        // SAFETY: the caller's promise.
        unsafe { self.arena.rows_mut(&self.model.plan().buffers, slice, rows) }
    }

    fn row_count(&self, slice: &Slice) -> usize {
        match self.model.plan().buffers[slice.buffer.0].rows {
            llamac_plan::Rows::Tokens => self.tokens(),
            llamac_plan::Rows::Kept => self.chunk.kept.len(),
        }
    }

    fn step(&mut self, model: &Model, step: &Step, feeds: &mut [Feed<'_>]) {
        let context = &self.context;
        // SAFETY (of every `read` and `write` below): the plan was checked when the model was opened. The windows of
        // one step overlap only where its kernel works in place, and no view outlives its step.
        match step {
            Step::Embed { table, out } => {
                let buffers = &model.plan().buffers;
                for piece in &self.chunk.pieces {
                    // SAFETY: see above; the pieces' rows are disjoint.
                    let out = unsafe { self.arena.rows_mut(buffers, out, piece.rows.clone()) };
                    let tokens = piece.first_token..piece.first_token + piece.rows.len();
                    match feeds[piece.feed].input {
                        Input::Ids(ids) => kernels::embed(context, &ids[tokens], model.matrix(*table), out),
                        Input::Embeddings(rows) => copy_rows(context, rows, tokens, out),
                        Input::Prompt => copy_rows(context, model.prompt_rows(), tokens, out),
                    }
                }
            }
            Step::RmsNorm { x, weight, eps, out } => {
                // SAFETY: see above.
                let (x, out) = unsafe { (self.read(x), self.write(out)) };
                kernels::rms_norm(context, x, model.vector(*weight), *eps, out);
            }
            Step::AddRmsNorm { a, b, weight, eps, sum, out } => {
                // SAFETY: see above.
                let (a, b, sum, out) =
                    unsafe { (self.read(a), self.read(b), self.write(sum), self.write(out)) };
                kernels::add_rms_norm(context, a, b, model.vector(*weight), *eps, sum, out);
            }
            Step::Linear { x, weight, bias, gate, out } => {
                // SAFETY: see above.
                let (x, out) = unsafe { (self.read(x), self.write(out)) };
                let (matrix, bias) = (model.matrix(*weight), bias.map(|b| model.vector(b)));
                let arithmetic = self.compute.arithmetic(matrix.layout().dtype);
                match *gate {
                    None => kernels::linear(context, arithmetic, x, matrix, bias, out),
                    Some(gate) => kernels::gated_linear(context, arithmetic, gate, x, matrix, bias, out),
                }
            }
            Step::RotaryAngles { frequencies, factor, cos, sin } => {
                let buffers = &model.plan().buffers;
                for piece in &self.chunk.pieces {
                    let inv_freq = feeds[piece.feed].session.inv_freq(model, frequencies);
                    let positions = &self.chunk.positions[piece.rows.clone()];
                    // SAFETY: see above; the pieces' rows are disjoint.
                    let (cos, sin) = unsafe {
                        (
                            self.arena.rows_mut(buffers, cos, piece.rows.clone()),
                            self.arena.rows_mut(buffers, sin, piece.rows.clone()),
                        )
                    };
                    kernels::rotary_angles(context, positions, inv_freq, *factor, cos, sin);
                }
            }
            Step::Rotary { x, cos, sin, heads, out } => {
                // SAFETY: see above.
                let (x, cos, sin, out) =
                    unsafe { (self.read(x), self.read(cos), self.read(sin), self.write(out)) };
                kernels::rotary(context, x, cos, sin, *heads, out);
            }
            Step::KvAppend { layer, key, value } => {
                // SAFETY: see above.
                let (key, value) = unsafe { (self.read(key), self.read(value)) };
                for piece in &self.chunk.pieces {
                    let session = &mut *feeds[piece.feed].session;
                    let layout = session.layout;
                    let cache = session.layer_mut(*layer);
                    let rows = piece.rows.clone();
                    let (key, value) = (key.rows(rows.clone()), value.rows(rows.clone()));
                    kernels::append(context, layout, cache, &self.chunk.slots[rows], key, value);
                }
            }
            Step::Attention { layer, query, heads, scale, out } => {
                let mut segments = recycle(std::mem::take(&mut self.segments));
                for piece in &self.chunk.pieces {
                    let session = &feeds[piece.feed].session;
                    segments.push(Segment {
                        layout: session.layout,
                        cache: session.layer(*layer),
                        first_row: piece.rows.start,
                        limits: &self.chunk.limits[piece.rows.clone()],
                    });
                }
                // SAFETY: see above.
                let (query, out) = unsafe { (self.read(query), self.write(out)) };
                kernels::attention(context, query, &segments, *heads, *scale, out);
                self.segments = recycle(segments);
            }
            Step::Activate { function, x, out } => {
                // SAFETY: see above.
                let (x, out) = unsafe { (self.read(x), self.write(out)) };
                kernels::activate(context, *function, x, out);
            }
            Step::Add { a, b, out } => {
                // SAFETY: see above.
                let (a, b, out) = unsafe { (self.read(a), self.read(b), self.write(out)) };
                kernels::add(context, a, b, out);
            }
            Step::Mul { a, b, out } => {
                // SAFETY: see above.
                let (a, b, out) = unsafe { (self.read(a), self.read(b), self.write(out)) };
                kernels::mul(context, a, b, out);
            }
            Step::Keep { x, out } => {
                // SAFETY: see above.
                let (x, out) = unsafe { (self.read(x), self.write(out)) };
                kernels::gather_rows(context, x, &self.chunk.kept, out);
            }
            Step::HiddenState { index, x } => {
                if self.results.wanted_hidden.contains(index) {
                    // SAFETY: see above.
                    let x =
                        unsafe { self.arena.rows(&model.plan().buffers, x, 0..self.chunk.positions.len()) };
                    (0..x.len()).for_each(|row| self.results.hidden[*index].extend_from_slice(x.row(row)));
                }
            }
            Step::OutputLinear { x, weight, bias } => {
                let width = model.output_width();
                let start = self.results.output.len();
                self.results.output.resize(start + self.chunk.kept.len() * width, 0.0);
                let rows = self.row_count(x);
                // SAFETY: see above.
                let x = unsafe { self.arena.rows(&model.plan().buffers, x, 0..rows) };
                let out = RowsMut::new(&mut self.results.output[start..], width);
                let matrix = model.matrix(*weight);
                let arithmetic = self.compute.arithmetic(matrix.layout().dtype);
                kernels::linear(context, arithmetic, x, matrix, bias.map(|b| model.vector(b)), out);
            }
            Step::Output { x } => {
                let rows = self.row_count(x);
                // SAFETY: see above.
                let x = unsafe { self.arena.rows(&model.plan().buffers, x, 0..rows) };
                (0..x.len()).for_each(|row| self.results.output.extend_from_slice(x.row(row)));
            }
        }
    }
}

/// Copies some of `rows`, each as wide as one of `out`.
fn copy_rows(context: &kernels::Context, rows: &[f32], range: Range<usize>, out: RowsMut<'_>) {
    let width = out.width();
    kernels::copy(context, Rows::new(&rows[range.start * width..range.end * width], width), out);
}

/// The same empty vector for elements of another lifetime; in-place collection keeps its memory.
fn recycle<'b>(mut segments: Vec<Segment<'_>>) -> Vec<Segment<'b>> {
    segments.clear();
    segments.into_iter().map(|_| unreachable!("the vector is empty")).collect()
}
