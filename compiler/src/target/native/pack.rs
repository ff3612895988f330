//! Cuts rows of a matrix into panels: from row-major elements to the layout of [`llamac_plan::layout`].

use half::f16;
use llamac_ir::Grid;
use llamac_plan::layout::{MatrixLayout, PANEL, WeightDtype};

/// Packs whole panels from `rows`, up to [`PANEL`] row-major rows a panel of `layout.cols` elements of the layout's
/// dtype, into `out`, which holds the panels' bytes. Rows and columns that are missing become zeros.
pub(crate) fn pack(layout: &MatrixLayout, rows: &[u8], out: &mut [u8]) {
    let row_bytes = layout.cols * layout.dtype.size();
    let panels = rows.chunks(PANEL * row_bytes).zip(out.chunks_exact_mut(layout.panel_bytes()));
    for (rows, panel) in panels {
        match layout.dtype {
            WeightDtype::F32 => interleave::<4>(rows, row_bytes, panel),
            WeightDtype::F16 => interleave::<2>(rows, row_bytes, panel),
            // A pair of columns is one unit; the odd last column is half a unit.
            WeightDtype::Bf16 => interleave::<4>(rows, row_bytes, panel),
            WeightDtype::Q8 | WeightDtype::Q4 | WeightDtype::Q4A => unreachable!("packed by `pack_codes`"),
        }
    }
}

/// Packs a row of a quantized matrix into its panel, of which it is row `row`: a grid for each block, and
/// [`BLOCK`] codes. The panel's bits for the row are zeros before.
pub(crate) fn pack_codes(layout: &MatrixLayout, row: usize, grids: &[Grid], codes: &[u8], panel: &mut [u8]) {
    for (block, grid) in grids.iter().enumerate() {
        let scale = layout.scale(row, block);
        panel[scale..scale + 2].copy_from_slice(&f16::from_f32(grid.scale).to_le_bytes());
        if layout.dtype == WeightDtype::Q4A {
            panel[layout.zero(row, block)] = grid.zero;
        }
    }
    // A run of four codes lies together.
    for (run, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
        let (byte, shift) = layout.code(row, 4 * run);
        for (byte, code) in panel[byte..byte + 4].iter_mut().zip(codes) {
            *byte |= code << shift;
        }
    }
}

/// Transposes units of `N` bytes: unit `u` of row `r` goes to place `u · PANEL + r`.
fn interleave<const N: usize>(rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    if rows.len() < PANEL * row_bytes || !row_bytes.is_multiple_of(N) {
        panel.fill(0);
    }
    // Lines of the panel are written whole while a few bytes of every row are read: rows stream through the cache.
    let whole = row_bytes / N;
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        let (units, rest) = row.as_chunks::<N>();
        let places = panel.chunks_exact_mut(PANEL * N);
        for (unit, line) in units.iter().zip(places) {
            line[r * N..(r + 1) * N].copy_from_slice(unit);
        }
        let start = (whole * PANEL + r) * N;
        if !rest.is_empty() {
            panel[start..start + rest.len()].copy_from_slice(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use llamac_ir::Scheme;
    use llamac_plan::layout::BLOCK;

    use super::*;

    /// Every code, scale and zero point is where the layout says, and all other bits are zeros.
    #[test]
    fn every_code_reaches_its_place() {
        for (dtype, scheme) in
            [(WeightDtype::Q8, Scheme::Q8), (WeightDtype::Q4, Scheme::Q4), (WeightDtype::Q4A, Scheme::Q4A)]
        {
            for (rows, cols) in [(1, 1), (16, 64), (5, 100), (16, 128), (16, 200)] {
                let layout = MatrixLayout { dtype, rows, cols };
                let mut panel = vec![0; layout.panel_bytes()];
                let mut left = vec![0_u8; layout.panel_bytes()];
                for row in 0..rows {
                    let numbers: Vec<f32> =
                        (0..cols).map(|col| ((row * 31 + col * 17) % 23) as f32 - 9.0).collect();
                    let (mut grids, mut codes) = (Vec::new(), vec![0; cols.next_multiple_of(BLOCK)]);
                    for (numbers, codes) in numbers.chunks(BLOCK).zip(codes.as_chunks_mut().0) {
                        grids.push(scheme.quantize(numbers, codes));
                    }
                    pack_codes(&layout, row, &grids, &codes, &mut panel);
                    for (block, grid) in grids.iter().enumerate() {
                        let scale = layout.scale(row, block);
                        left[scale..scale + 2].copy_from_slice(&f16::from_f32(grid.scale).to_le_bytes());
                        if dtype == WeightDtype::Q4A {
                            left[layout.zero(row, block)] = grid.zero;
                        }
                    }
                    for (col, code) in codes.iter().enumerate() {
                        let (byte, shift) = layout.code(row, col);
                        left[byte] |= code << shift;
                    }
                }
                assert!(panel == left, "{dtype:?} {rows} {cols}");
            }
        }
    }

    #[test]
    fn every_element_reaches_its_place() {
        for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
            for (rows, cols) in [(1, 1), (16, 4), (17, 7), (33, 12)] {
                let layout = MatrixLayout { dtype, rows, cols };
                let size = dtype.size();
                let raw: Vec<u8> = (0..rows * cols * size).map(|i| (i % 251) as u8 + 1).collect();
                let mut packed = vec![0xAA; layout.bytes().unwrap()];
                pack(&layout, &raw, &mut packed);
                for panel in 0..layout.panels() {
                    let bytes = &packed[panel * layout.panel_bytes()..(panel + 1) * layout.panel_bytes()];
                    for row in 0..PANEL {
                        for col in 0..layout.padded_cols() {
                            let place = layout.element(row, col) * size;
                            let from = ((panel * PANEL + row) * cols + col) * size;
                            let inside = panel * PANEL + row < rows && col < cols;
                            let expected = if inside { &raw[from..from + size] } else { &[0; 4][..size] };
                            assert_eq!(&bytes[place..place + size], expected, "{dtype:?} {row} {col}");
                        }
                    }
                }
            }
        }
    }
}
