//! Rows of an embedding, which is stored as a linear layer's matrix.

use half::{bf16, f16};
use llamac_plan::layout::{BLOCK, PANEL, WeightDtype};

use super::{Context, Matrix, RowsMut};

/// Row `ids[t]` of the table, widened, as row `t` of `out`.
///
/// # Panics
/// If an id is not below the number of rows, or the shapes do not fit together.
pub fn embed(context: &Context, ids: &[u32], table: Matrix<'_>, out: RowsMut<'_>) {
    let layout = *table.layout();
    assert!(out.width() == layout.cols && out.len() == ids.len(), "{} ids of {table:?} → {out:?}", ids.len());
    context.for_rows(ids.len(), layout.cols * 4, &|tokens| {
        for token in tokens {
            let id = ids[token] as usize;
            assert!(id < layout.rows, "row {id} of {table:?}");
            let panel = &table.data()[id / PANEL * layout.panel_bytes()..][..layout.panel_bytes()];
            // SAFETY: the row is inside `out`, and no other task has it.
            let out = unsafe { std::slice::from_raw_parts_mut(out.pointer(token), layout.cols) };
            let row = id % PANEL;
            let two = |place: usize| [panel[place], panel[place + 1]];
            for (col, out) in out.iter_mut().enumerate() {
                *out = match layout.dtype {
                    WeightDtype::F32 => {
                        let ([a, b], [c, d]) =
                            (two(layout.element(row, col) * 4), two(layout.element(row, col) * 4 + 2));
                        f32::from_le_bytes([a, b, c, d])
                    }
                    WeightDtype::F16 => f16::from_le_bytes(two(layout.element(row, col) * 2)).to_f32(),
                    WeightDtype::Bf16 => bf16::from_le_bytes(two(layout.element(row, col) * 2)).to_f32(),
                    dtype => {
                        let (byte, shift) = layout.code(row, col);
                        let (code, zero) = match dtype {
                            WeightDtype::Q8 => (panel[byte], 128),
                            WeightDtype::Q4 => (panel[byte] >> shift & 15, 8),
                            _ => (panel[byte] >> shift & 15, panel[layout.zero(row, col / BLOCK)]),
                        };
                        let scale = f16::from_le_bytes(two(layout.scale(row, col / BLOCK))).to_f32();
                        f32::from(i16::from(code) - i16::from(zero)) * scale
                    }
                };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{self, contexts, sizes};

    #[test]
    fn embeddings_are_rows_of_the_table() {
        for context in contexts() {
            for dtype in WeightDtype::ALL {
                for &cols in sizes(&[9, 100], &[9, 35]) {
                    let table = testing::matrix(4, dtype, 37, cols);
                    let ids = [36, 0, 16, 15, 16];
                    let mut out = vec![0.0; ids.len() * cols];
                    let rows = RowsMut::new(&mut out, cols);
                    embed(&context, &ids, Matrix::new(table.layout, &table.bytes), rows);
                    for (id, row) in ids.iter().zip(out.chunks(cols)) {
                        assert_eq!(row, &table.elements[*id as usize * cols..][..cols], "{dtype:?}");
                    }
                }
            }
        }
    }
}
