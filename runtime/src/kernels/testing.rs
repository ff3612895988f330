//! What the kernels' tests share: numbers, packed matrices, and every context that this processor can have.

use half::{bf16, f16};
use llamac_plan::layout::{MatrixLayout, PANEL, WeightDtype};

use super::{Context, Isa};

/// Every instruction set of this processor on 1 and 2 threads.
pub(super) fn contexts() -> Vec<Context> {
    let isas = Isa::available().flat_map(|isa| [(1, isa), (2, isa)]);
    isas.map(|(threads, isa)| Context::with_isa(threads, isa).unwrap()).collect()
}

/// Numbers around zero, mostly below one, the same for the same seed (splitmix64).
pub(super) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| next() + next() + next() - 1.5).collect()
}

/// Rounds to a dtype and back.
pub(super) fn round(dtype: WeightDtype, x: f32) -> f32 {
    match dtype {
        WeightDtype::F32 => x,
        WeightDtype::F16 => f16::from_f32(x).to_f32(),
        WeightDtype::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

/// A packed matrix and what it holds after rounding, row-major.
pub(super) struct Packed {
    pub(super) layout: MatrixLayout,
    pub(super) bytes: Vec<u8>,
    pub(super) elements: Vec<f32>,
}

/// A matrix of random numbers.
pub(super) fn matrix(seed: u64, dtype: WeightDtype, rows: usize, cols: usize) -> Packed {
    let layout = MatrixLayout { dtype, rows, cols };
    let elements: Vec<f32> = numbers(seed, rows * cols).into_iter().map(|x| round(dtype, x)).collect();
    let mut bytes = vec![0; layout.bytes().unwrap()];
    for row in 0..rows {
        for col in 0..cols {
            let place = row / PANEL * layout.panel_bytes() + layout.element(row % PANEL, col) * dtype.size();
            let x = elements[row * cols + col];
            match dtype {
                WeightDtype::F32 => bytes[place..place + 4].copy_from_slice(&x.to_le_bytes()),
                WeightDtype::F16 => bytes[place..place + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes()),
                WeightDtype::Bf16 => {
                    bytes[place..place + 2].copy_from_slice(&bf16::from_f32(x).to_le_bytes())
                }
            }
        }
    }
    Packed { layout, bytes, elements }
}

/// Fails unless both are as close as single precision allows: relative L2 error 1e-6, and no element off by more than
/// 1e-5 of the largest.
pub(super) fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    let largest = expected.iter().fold(0.0, |m: f64, e| m.max(e.abs()));
    let errors = || found.iter().zip(expected).map(|(&f, e)| f64::from(f) - e);
    let error = errors().map(|e| e * e).sum::<f64>().sqrt();
    assert!(error <= 1e-6 * norm, "{what}: relative L2 error {}", error / norm);
    for (i, e) in errors().enumerate() {
        assert!(e.abs() <= 1e-5 * largest, "{what}: {} instead of {} at {i}", found[i], expected[i]);
    }
}

/// The bits of numbers, for comparisons that tell zeros apart.
pub(super) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
