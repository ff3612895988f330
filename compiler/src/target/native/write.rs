//! Writes an artifact: plan, files of the checkpoint, and every weight, tile by tile, from the mapped checkpoint to
//! the output.
//!
//! A weight is written by one thread, from its first tile to its last, so that its checksum is taken on the way; the
//! weights are shared out among the threads, the largest first. Memory is a tile or two a thread, whatever the model.

use std::io;
use std::ops::Range;
use std::path::Path;

use llamac_ir::{DType, Weight};
use llamac_plan::artifact::{FILES, MAX_HEADER, MAX_PLAN, PLAN};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::layout::{MatrixLayout, PANEL, WeightDtype};
use llamac_plan::{Plan, WeightLayout};
use rayon::prelude::*;

use super::container::{self, Container, TensorWriter};
use super::pack::{pack, pack_codes};
use crate::driver::Progress;
use crate::output::{Output, write_fault};
use crate::weights::{Block, WeightReader};

/// Bytes of packed weights that a thread prepares at a time, at least one panel.
const TILE: usize = 1 << 20;

/// What goes into an artifact.
pub(super) struct Content<'a> {
    pub(super) plan: &'a Plan,
    /// How each weight of the plan is made.
    pub(super) recipes: &'a [Weight],
    pub(super) reader: WeightReader<'a>,
    /// Files of the checkpoint, by name.
    pub(super) files: &'a [(&'a str, &'a [u8])],
}

/// Writes `content` to `output` and returns the number of bytes.
pub(super) fn write(
    content: &Content<'_>,
    output: &Output,
    progress: &dyn Progress,
) -> Result<u64, Diagnostics> {
    let (plan, tensors) = tensors(content.plan, content.files)?;
    let container =
        Container::new(output.file(), &tensors).ok_or_else(|| bug("the model is too large".into()))?;
    for (what, found, most) in
        [("plan", plan.len(), MAX_PLAN), ("list of tensors", container.header_len(), MAX_HEADER)]
    {
        if found > most {
            return Err(Diagnostic::new(Code::UnsupportedConfig)
                .at("config.json")
                .message(format!("the model's {what} is too long: it has too many layers or labels"))
                .expected(format!("at most {most} bytes"))
                .found(format!("{found} bytes"))
                .into());
        }
    }
    let path = output.path();
    let io = |error: io::Error| Diagnostics::from(write_fault(path, &error));
    container.begin().map_err(io)?;
    let whole = |name: &str, bytes: &[u8]| {
        let mut writer = container.tensor(name);
        writer.write(bytes).map(|()| writer.finish()).map_err(io)
    };
    whole(PLAN, &plan)?;
    for (name, bytes) in content.files {
        whole(&format!("{FILES}{name}"), bytes)?;
    }

    let mut order: Vec<usize> = (0..content.recipes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(content.plan.weights[i].layout.bytes()));
    let total: usize = tensors.iter().map(|(_, bytes)| bytes).sum();
    progress.start(total as u64);
    order.par_iter().with_max_len(1).try_for_each(|&i| {
        let entry = &content.plan.weights[i];
        let mut writer = container.tensor(&entry.tensor);
        let job = Job { reader: content.reader, recipe: &content.recipes[i], path, progress };
        match entry.layout {
            WeightLayout::Matrix(layout) => job.matrix(layout, &mut writer)?,
            WeightLayout::Vector { .. } => job.vector(&mut writer)?,
        }
        writer.finish();
        Ok::<(), Diagnostics>(())
    })?;
    let len = container.len() as u64;
    container.finish().map_err(io)?;
    Ok(len)
}

/// Size of the file that [`write`] makes, in bytes.
pub(super) fn size(plan: &Plan, files: &[(&str, &[u8])]) -> Result<u64, Diagnostic> {
    container::size(&tensors(plan, files)?.1).ok_or_else(|| bug("the model is too large".into()))
}

/// The plan as text, and name and size of each tensor of an artifact.
type Tensors = (Vec<u8>, Vec<(String, usize)>);

fn tensors(plan: &Plan, files: &[(&str, &[u8])]) -> Result<Tensors, Diagnostic> {
    let text = serde_json::to_vec(plan).map_err(|e| bug(e.to_string()))?;
    let mut tensors = vec![(PLAN.to_owned(), text.len())];
    tensors.extend(files.iter().map(|(name, bytes)| (format!("{FILES}{name}"), bytes.len())));
    for entry in &plan.weights {
        let bytes = entry.layout.bytes().ok_or_else(|| bug(format!("{} is too large", entry.tensor)))?;
        tensors.push((entry.tensor.clone(), bytes));
    }
    Ok((text, tensors))
}

fn bug(why: String) -> Diagnostic {
    Diagnostic::new(Code::InvalidGraph).message(why)
}

/// One weight on its way from the checkpoint to the output.
struct Job<'a> {
    reader: WeightReader<'a>,
    recipe: &'a Weight,
    path: &'a Path,
    progress: &'a dyn Progress,
}

impl Job<'_> {
    fn matrix(&self, layout: MatrixLayout, writer: &mut TensorWriter<'_>) -> Result<(), Diagnostics> {
        let panels = (TILE / layout.panel_bytes().max(1)).max(1);
        let dtype = match layout.dtype {
            WeightDtype::F32 => DType::F32,
            WeightDtype::F16 => DType::F16,
            WeightDtype::Bf16 => DType::BF16,
            WeightDtype::Q8 | WeightDtype::Q4 | WeightDtype::Q4A => {
                return self.quantized(layout, panels, writer);
            }
        };
        let mut raw = Vec::new();
        let mut packed = Vec::new();
        for first in (0..layout.rows).step_by(panels * PANEL) {
            let rows = first..layout.rows.min(first + panels * PANEL);
            raw.resize(rows.len() * layout.cols * layout.dtype.size(), 0);
            packed.resize(rows.len().div_ceil(PANEL) * layout.panel_bytes(), 0);
            self.read(rows, dtype, &mut raw)?;
            pack(&layout, &raw, &mut packed);
            self.append(&packed, writer)?;
        }
        Ok(())
    }

    /// A quantized matrix, `panels` panels at a time.
    fn quantized(
        &self,
        layout: MatrixLayout,
        panels: usize,
        writer: &mut TensorWriter<'_>,
    ) -> Result<(), Diagnostics> {
        let mut packed = Vec::new();
        for first in (0..layout.rows).step_by(panels * PANEL) {
            let rows = first..layout.rows.min(first + panels * PANEL);
            packed.clear();
            packed.resize(rows.len().div_ceil(PANEL) * layout.panel_bytes(), 0);
            let read = self.reader.quantized(
                self.recipe,
                &Block::rows(self.recipe, rows),
                &mut |row, grids, codes| {
                    let panel = &mut packed[row / PANEL * layout.panel_bytes()..][..layout.panel_bytes()];
                    pack_codes(&layout, row % PANEL, grids, codes, panel);
                    Ok(())
                },
            );
            read.map_err(Diagnostic::from)?;
            self.append(&packed, writer)?;
        }
        Ok(())
    }

    fn vector(&self, writer: &mut TensorWriter<'_>) -> Result<(), Diagnostics> {
        let mut raw = vec![0; self.recipe.elements() * DType::F32.size()];
        self.read(0..self.recipe.shape()[0], DType::F32, &mut raw)?;
        self.append(&raw, writer)
    }

    fn read(&self, rows: Range<usize>, dtype: DType, out: &mut [u8]) -> Result<(), Diagnostic> {
        let block = Block::rows(self.recipe, rows);
        Ok(self.reader.read(self.recipe, &block, dtype, out)?)
    }

    fn append(&self, bytes: &[u8], writer: &mut TensorWriter<'_>) -> Result<(), Diagnostics> {
        writer.write(bytes).map_err(|e| write_fault(self.path, &e))?;
        self.progress.advance(bytes.len() as u64);
        Ok(())
    }
}
