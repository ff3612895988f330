//! What the kernels' tests share: numbers, packed matrices, memory with a wall behind it, and every context that this
//! processor can have.

#[cfg(not(miri))]
use std::marker::PhantomData;
#[cfg(not(miri))]
use std::ops::{Deref, DerefMut};

use half::{bf16, f16};
use llamac_plan::layout::{BLOCK, MatrixLayout, PANEL, WeightDtype};

use super::{Context, Isa};

/// Every instruction set of this processor on 1 and 2 threads; in Miri, scalars on 2.
pub(super) fn contexts() -> Vec<Context> {
    let threads = sizes(&[1, 2], &[2]);
    let isas = Isa::available().flat_map(|isa| threads.iter().map(move |&threads| (threads, isa)));
    isas.map(|(threads, isa)| Context::with_isa(threads, isa).unwrap()).collect()
}

/// `all`, or `few` in Miri, where everything takes a thousand times as long.
pub(super) fn sizes<'a, T>(all: &'a [T], few: &'a [T]) -> &'a [T] {
    if cfg!(miri) { few } else { all }
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

/// Rounds to a dtype that is not quantized, and back.
pub(super) fn round(dtype: WeightDtype, x: f32) -> f32 {
    match dtype {
        WeightDtype::F16 => f16::from_f32(x).to_f32(),
        WeightDtype::Bf16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// Elements that end where memory does: who goes on behind them is killed, also in assembly, which no sanitizer sees.
#[cfg(not(miri))]
pub(super) struct Walled<T> {
    map: memmap2::MmapRaw,
    len: usize,
    elements: PhantomData<T>,
}

/// Miri maps no files, and sees every element that is read.
#[cfg(miri)]
pub(super) type Walled<T> = Vec<T>;

#[cfg(not(miri))]
impl<T> Walled<T> {
    /// Bytes of the wall: no system's pages are larger.
    const WALL: usize = 64 << 10;

    fn start(&self) -> *mut T {
        let end = self.map.len() - Self::WALL;
        self.map.as_mut_ptr().wrapping_add(end - self.len * size_of::<T>()).cast()
    }
}

#[cfg(not(miri))]
impl<T: bytemuck::Pod> From<Vec<T>> for Walled<T> {
    fn from(elements: Vec<T>) -> Self {
        let file = tempfile::tempfile().unwrap();
        let room = size_of_val(&elements[..]).next_multiple_of(Self::WALL);
        file.set_len(room as u64).unwrap();
        // Pages behind the end of a file are not there.
        let map = memmap2::MmapOptions::new().len(room + Self::WALL).map_raw(&file).unwrap();
        let mut walled = Self { map, len: elements.len(), elements: PhantomData };
        walled.copy_from_slice(&elements);
        walled
    }
}

#[cfg(not(miri))]
impl<T: bytemuck::Pod> Deref for Walled<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the elements are inside the file, as zeros at first, and aligned, since its end is.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

#[cfg(not(miri))]
impl<T: bytemuck::Pod> DerefMut for Walled<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else has the file.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

/// A packed matrix and what it holds after rounding, row-major.
pub(super) struct Packed {
    pub(super) layout: MatrixLayout,
    pub(super) bytes: Walled<u8>,
    pub(super) elements: Vec<f32>,
}

/// A matrix of random numbers.
pub(super) fn matrix(seed: u64, dtype: WeightDtype, rows: usize, cols: usize) -> Packed {
    packed(dtype, rows, cols, &numbers(seed, rows * cols))
}

/// A matrix of the given numbers, row-major. What is quantized is so in a simple way.
pub(super) fn packed(dtype: WeightDtype, rows: usize, cols: usize, numbers: &[f32]) -> Packed {
    let layout = MatrixLayout { dtype, rows, cols };
    let mut elements = numbers.to_vec();
    let mut bytes = vec![0; layout.bytes().unwrap()];
    for (row, elements) in elements.chunks_mut(cols.max(1)).enumerate() {
        let panel = &mut bytes[row / PANEL * layout.panel_bytes()..];
        let row = row % PANEL;
        let mut put = |place: usize, value: &[u8]| {
            panel[place..].iter_mut().zip(value).for_each(|(byte, value)| *byte |= value);
        };
        match dtype {
            WeightDtype::F32 => {
                elements
                    .iter()
                    .enumerate()
                    .for_each(|(k, x)| put(layout.element(row, k) * 4, &x.to_le_bytes()));
            }
            WeightDtype::F16 => elements.iter_mut().enumerate().for_each(|(k, x)| {
                put(layout.element(row, k) * 2, &f16::from_f32(*x).to_le_bytes());
                *x = f16::from_f32(*x).to_f32();
            }),
            WeightDtype::Bf16 => elements.iter_mut().enumerate().for_each(|(k, x)| {
                put(layout.element(row, k) * 2, &bf16::from_f32(*x).to_le_bytes());
                *x = bf16::from_f32(*x).to_f32();
            }),
            _ => {
                for (block, elements) in elements.chunks_mut(BLOCK).enumerate() {
                    let (zero, half) = match dtype {
                        WeightDtype::Q8 => (128, 127.0),
                        WeightDtype::Q4 => (8, 7.0),
                        // Another one for each block.
                        _ => (3 + ((row + block) % 10) as u8, 4.0),
                    };
                    let largest = elements.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
                    let scale = f16::from_f32(largest / half);
                    put(layout.scale(row, block), &scale.to_le_bytes());
                    if dtype == WeightDtype::Q4A {
                        put(layout.zero(row, block), &[zero]);
                    }
                    let (scale, most) = (scale.to_f32(), if dtype == WeightDtype::Q8 { 255.0 } else { 15.0 });
                    for (i, x) in elements.iter_mut().enumerate() {
                        let code = (*x / scale + f32::from(zero)).round().clamp(0.0, most) as u8;
                        *x = (f32::from(code) - f32::from(zero)) * scale;
                        let (byte, shift) = layout.code(row, block * BLOCK + i);
                        put(byte, &[code << shift]);
                    }
                }
            }
        }
    }
    Packed { layout, bytes: bytes.into(), elements }
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
