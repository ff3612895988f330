//! The KV cache's layout: keys and values of one sequence and one layer.
//!
//! A KV head's slots lie together, in blocks of [`BLOCK`]: a block's keys, then its values, so that attention reads
//! one stream. Both are packed like weights (see [`llamac_plan::layout`]), because attention multiplies by them: keys
//! as a matrix `[64 slots, head_dim]`, values as `[head_dim, 64 slots]`.
//!
//! As codes of 8 bits, keys are a matrix of q8. A slot's value has one scale, known when it is stored: a block has
//! `[64 slots]` f16 scales, then panels as those of q8, whose groups have codes alone.

use std::array;

use half::f16;
use llamac_plan::KvDtype;
use llamac_plan::layout::{BLOCK as CODES, Group, MatrixLayout, PANEL, WeightDtype};

use super::activations::to_bf16;
use super::simd::{Kernel, Simd};
use super::views::SendMut;
use super::{Context, Rows, TASK_ELEMENTS};

/// Slots of a block.
pub const BLOCK: usize = 64;

/// Bytes of the scales of a block's values.
const SCALE_BYTES: usize = 2 * BLOCK;

/// How one layer's keys and values of one sequence are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Element type.
    pub dtype: KvDtype,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head's key, and of its value.
    pub head_dim: usize,
}

impl KvLayout {
    /// Bytes of one layer's cache with room for `slots` tokens, or `None` if that does not fit.
    pub fn layer_bytes(&self, slots: usize) -> Option<usize> {
        // Nothing takes more than f32 and two groups of codes a head.
        let elements = self.head_dim.checked_add(4 * BLOCK)?.checked_mul(2 * BLOCK)?;
        elements.checked_mul(4)?;
        slots.div_ceil(BLOCK).checked_mul(self.kv_heads)?.checked_mul(self.block_bytes())
    }

    /// Slots that a layer's cache of `bytes` bytes has room for.
    pub fn capacity(&self, bytes: usize) -> usize {
        self.blocks(bytes) * BLOCK
    }

    /// Stores a token's key and value, `[kv_heads · head_dim]` each, rounded to nearest (elements to even).
    ///
    /// # Panics
    /// If `cache` has no such slot, or a row has another length.
    pub fn append(&self, cache: &mut [u8], slot: usize, key: &[f32], value: &[f32]) {
        let width = self.kv_heads * self.head_dim;
        assert!(key.len() == width && value.len() == width, "a token's keys and values are {width} elements");
        assert!(slot < self.capacity(cache.len()), "the cache has room for slot {slot}");
        let stream = self.blocks(cache.len()) * self.block_bytes();
        let heads = key.chunks_exact(self.head_dim).zip(value.chunks_exact(self.head_dim));
        for (stream, (key, value)) in cache.chunks_exact_mut(stream).zip(heads) {
            let block = &mut stream[slot / BLOCK * self.block_bytes()..][..self.block_bytes()];
            self.append_head(block, slot % BLOCK, key, value);
        }
    }

    /// Stores one head's key and value in a block of its part of the cache.
    #[inline(always)]
    fn append_head(&self, block: &mut [u8], slot: usize, key: &[f32], value: &[f32]) {
        let (keys, values) = block.split_at_mut(self.key_bytes());
        match self.dtype {
            KvDtype::F32 => self.store(key, value, slot, keys, values, f32::to_le_bytes),
            KvDtype::F16 => self.store(key, value, slot, keys, values, |x| f16::from_f32(x).to_le_bytes()),
            KvDtype::Bf16 => self.store_pairs(key, value, slot, keys, values),
            KvDtype::Int8 => {
                store_key_codes(key, slot, &self.keys(), keys);
                store_value_codes(value, slot, &self.values(), values);
            }
        }
    }

    /// Elements of `N` bytes: keys are a column of their panel, values a row of each of theirs.
    #[inline(always)]
    fn store<const N: usize>(
        &self,
        key: &[f32],
        value: &[f32],
        slot: usize,
        keys: &mut [u8],
        values: &mut [u8],
        bytes: impl Fn(f32) -> [u8; N],
    ) {
        let panel = &mut keys[slot / PANEL * self.keys().panel_bytes()..];
        for (lanes, &x) in panel.as_chunks_mut::<N>().0.chunks_exact_mut(PANEL).zip(key) {
            lanes[slot % PANEL] = bytes(x);
        }
        let panels = values.chunks_exact_mut(self.values().panel_bytes());
        for (panel, elements) in panels.zip(value.chunks(PANEL)) {
            let lanes = &mut panel.as_chunks_mut::<N>().0[slot * PANEL..][..PANEL];
            lanes.copy_from_slice(&padded::<PANEL>(elements).map(&bytes));
        }
    }

    /// Pairs of bf16: of a key's neighbouring elements, of a value's element and the same of the slot beside.
    #[inline(always)]
    fn store_pairs(&self, key: &[f32], value: &[f32], slot: usize, keys: &mut [u8], values: &mut [u8]) {
        let round = |x: f32| u32::from(to_bf16(x));
        let panel_bytes = self.keys().panel_bytes();
        let panel = &mut keys[slot / PANEL * panel_bytes..][..panel_bytes];
        let lines = panel.as_chunks_mut::<4>().0.as_chunks_mut::<PANEL>().0;
        for (lines, elements) in lines.chunks_mut(PANEL).zip(key.chunks(2 * PANEL)) {
            let elements = padded::<{ 2 * PANEL }>(elements);
            let pairs: [u32; PANEL] =
                array::from_fn(|i| round(elements[2 * i]) | round(elements[2 * i + 1]) << 16);
            lines.iter_mut().zip(pairs).for_each(|(lanes, pair)| lanes[slot % PANEL] = pair.to_le_bytes());
        }
        let panels = values.chunks_exact_mut(self.values().panel_bytes());
        let (shift, beside) = if slot.is_multiple_of(2) { (0, 0xffff_0000) } else { (16, 0xffff) };
        for (panel, elements) in panels.zip(value.chunks(PANEL)) {
            let lanes = &mut panel.as_chunks_mut::<4>().0.as_chunks_mut::<PANEL>().0[slot / 2];
            let elements = padded::<PANEL>(elements);
            *lanes = array::from_fn(|i| {
                (u32::from_le_bytes(lanes[i]) & beside | round(elements[i]) << shift).to_le_bytes()
            });
        }
    }

    /// Blocks of each head in a layer's cache of `bytes` bytes.
    pub(super) fn blocks(&self, bytes: usize) -> usize {
        bytes.checked_div(self.kv_heads * self.block_bytes()).unwrap_or(0)
    }

    /// Bytes of one head's block.
    pub(super) fn block_bytes(&self) -> usize {
        self.first_value_panel() + self.values().panels() * self.value_panel_bytes()
    }

    /// A block's keys.
    pub(super) fn keys(&self) -> MatrixLayout {
        MatrixLayout { dtype: self.element(), rows: BLOCK, cols: self.head_dim }
    }

    /// A block's values, after its keys; those of codes but for the scales.
    pub(super) fn values(&self) -> MatrixLayout {
        MatrixLayout { dtype: self.element(), rows: self.head_dim, cols: BLOCK }
    }

    /// Bytes of a block's keys; then come the scales of its values, where they have any.
    pub(super) fn key_bytes(&self) -> usize {
        self.keys().panels() * self.keys().panel_bytes()
    }

    /// Where a block's first panel of values is.
    pub(super) fn first_value_panel(&self) -> usize {
        self.key_bytes() + if self.dtype == KvDtype::Int8 { SCALE_BYTES } else { 0 }
    }

    /// Bytes of a panel of values.
    pub(super) fn value_panel_bytes(&self) -> usize {
        let scales = if self.dtype == KvDtype::Int8 { GROUP.codes } else { 0 };
        self.values().panel_bytes() - scales
    }

    fn element(&self) -> WeightDtype {
        match self.dtype {
            KvDtype::F32 => WeightDtype::F32,
            KvDtype::F16 => WeightDtype::F16,
            KvDtype::Bf16 => WeightDtype::Bf16,
            KvDtype::Int8 => WeightDtype::Q8,
        }
    }
}

/// Where q8 has the parts of the one group of a block's 64 slots.
const GROUP: Group = Group::of(WeightDtype::Q8, 0);

/// Some elements and zeros behind them, which loops over all take by vectors.
#[inline(always)]
fn padded<const N: usize>(elements: &[f32]) -> [f32; N] {
    elements
        .first_chunk()
        .copied()
        .unwrap_or_else(|| array::from_fn(|i| elements.get(i).copied().unwrap_or(0.0)))
}

/// Writes a key's scales and codes as row `slot` of a matrix of q8.
#[inline(always)]
fn store_key_codes(key: &[f32], slot: usize, layout: &MatrixLayout, out: &mut [u8]) {
    let panel = &mut out[slot / PANEL * layout.panel_bytes()..][..layout.panel_bytes()];
    for (block, elements) in key.chunks(CODES).enumerate() {
        let (scale, codes) = encode(elements);
        panel[layout.scale(slot % PANEL, block)..][..2].copy_from_slice(&scale.to_le_bytes());
        for (col, code) in codes.enumerate() {
            panel[layout.code(slot % PANEL, block * CODES + col).0] = code;
        }
    }
    // What fills up a group is multiplied, too.
    for block in key.len().div_ceil(CODES)..layout.padded_cols() / CODES {
        panel[layout.scale(slot % PANEL, block)..][..2].fill(0);
    }
}

/// Writes a value's scale, and its codes as column `slot` of panels without scales.
#[inline(always)]
fn store_value_codes(value: &[f32], slot: usize, layout: &MatrixLayout, out: &mut [u8]) {
    let (scale, mut codes) = encode(value);
    out[2 * slot..][..2].copy_from_slice(&scale.to_le_bytes());
    let place = layout.code(0, slot).0 - GROUP.codes;
    let next = layout.code(1, slot).0 - layout.code(0, slot).0;
    let panels = out[SCALE_BYTES..].chunks_exact_mut(layout.panel_bytes() - GROUP.codes);
    for panel in panels {
        for (row, code) in codes.by_ref().take(PANEL).enumerate() {
            panel[place + row * next] = code;
        }
    }
}

/// The least scale by which all of `elements` have codes, and their codes. What is not finite, or too large for a scale
/// of half precision, makes one that is not finite either.
#[inline(always)]
fn encode(elements: &[f32]) -> (f16, impl Iterator<Item = u8>) {
    // Magnitudes compare like their bits, and NaN is above all.
    let largest = elements.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let nearest = f16::from_f32(largest / 127.0);
    let too_small = nearest.to_f32() * 127.0 < largest;
    let scale = f16::from_bits(nearest.to_bits() + u16::from(too_small));
    let inverse = if scale == f16::ZERO { 0.0 } else { scale.to_f32().recip() };
    let code = move |x: &f32| ((x * inverse).clamp(-127.0, 127.0).round_ties_even() as i32 + 128) as u8;
    (scale, elements.iter().map(code))
}

/// Stores the keys and values of some rows, `[rows, kv_heads · head_dim]` each, in their slots of a layer's cache; those
/// without a slot are left out. Rounds as [`KvLayout::append`] does.
///
/// # Panics
/// If the shapes do not fit together, or the cache has no such slot.
pub fn append(
    context: &Context,
    layout: KvLayout,
    cache: &mut [u8],
    slots: &[Option<usize>],
    keys: Rows<'_>,
    values: Rows<'_>,
) {
    let width = layout.kv_heads * layout.head_dim;
    assert!(keys.width() == width && values.width() == width, "{layout:?}: {keys:?}, {values:?}");
    assert!(keys.len() == slots.len() && values.len() == slots.len(), "{keys:?} and {values:?} have slots");
    let capacity = layout.capacity(cache.len());
    assert!(slots.iter().flatten().all(|&slot| slot < capacity), "slots are inside the cache");
    // Every task has a block of a head.
    let (first, last) = (slots.iter().flatten().min(), slots.iter().flatten().max());
    let (Some(first), Some(last)) = (first, last) else { return };
    let (first, blocks) = (first / BLOCK, last / BLOCK - first / BLOCK + 1);
    let stream = layout.blocks(cache.len());
    let cache = SendMut(cache.as_mut_ptr());
    let store = |task: usize, _: usize| {
        let (head, block) = (task / blocks, first + task % blocks);
        let place = (head * stream + block) * layout.block_bytes();
        // SAFETY: all slots are inside the cache, so it has every block from the first's to the last's; tasks differ in
        // head or block, and `cache` is borrowed until they end.
        let bytes = unsafe { std::slice::from_raw_parts_mut(cache.get().add(place), layout.block_bytes()) };
        let (start, width) = (head * layout.head_dim, layout.head_dim);
        let (keys, values) = (keys.columns(start, width), values.columns(start, width));
        let rows = AppendRows { layout, bytes, block, slots, keys, values };
        // SAFETY: the context's instruction set is available.
        unsafe { context.isa().dispatch(rows) };
    };
    let tasks = layout.kv_heads * blocks;
    match slots.len() * width < TASK_ELEMENTS / 8 {
        true => (0..tasks).for_each(|task| store(task, 0)),
        false => context.pool().run(tasks, &store),
    }
}

/// The rows of a head that have slots in a block.
struct AppendRows<'a> {
    layout: KvLayout,
    bytes: &'a mut [u8],
    block: usize,
    slots: &'a [Option<usize>],
    keys: Rows<'a>,
    values: Rows<'a>,
}

impl Kernel for AppendRows<'_> {
    type Output = ();

    /// Plain loops, which the compiler makes vectors of.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (row, slot) in self.slots.iter().enumerate() {
            if let Some(slot) = slot.filter(|slot| slot / BLOCK == self.block) {
                self.layout.append_head(self.bytes, slot % BLOCK, self.keys.row(row), self.values.row(row));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{numbers, sizes};

    #[test]
    fn every_element_has_its_own_place() {
        for (dtype, head_dim) in
            [(KvDtype::F32, 6), (KvDtype::F16, 20), (KvDtype::Bf16, 14), (KvDtype::Int8, 70)]
        {
            let layout = KvLayout { dtype, kv_heads: 2, head_dim };
            let mut cache = vec![0; layout.layer_bytes(70).unwrap()];
            assert_eq!(layout.capacity(cache.len()), 128);
            let row = vec![1.0; 2 * head_dim];
            let one = match dtype {
                KvDtype::F32 => 1.0_f32.to_le_bytes().to_vec(),
                KvDtype::F16 => f16::ONE.to_le_bytes().to_vec(),
                KvDtype::Bf16 => half::bf16::ONE.to_le_bytes().to_vec(),
                KvDtype::Int8 => vec![255],
            };
            for slot in 0..70 {
                layout.append(&mut cache, slot, &row, &row);
                // Looking through all takes long in Miri.
                if cfg!(miri) && slot % 69 != 0 {
                    continue;
                }
                let ones = cache.chunks(one.len()).filter(|bytes| *bytes == one).count();
                assert_eq!(ones, (slot + 1) * 4 * head_dim);
            }
        }
    }

    #[test]
    fn rows_are_stored_as_one_by_one() {
        for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8] {
            // Few rows are stored by one thread, many by more.
            for &(rows, head_dim) in sizes(&[(3, 6), (100, 70)], &[(5, 18)]) {
                let layout = KvLayout { dtype, kv_heads: 3, head_dim };
                let width = layout.kv_heads * head_dim;
                // Neither the first block is touched nor the last.
                let (skipped, room) = (70, 70 + rows + 64);
                let mut one_by_one = vec![0; layout.layer_bytes(room).unwrap()];
                let mut together = one_by_one.clone();
                let (keys, values) = (numbers(1, rows * width), numbers(2, rows * width));
                // The second token is hidden, and the others come in the opposite order.
                let slots: Vec<_> =
                    (0..rows).map(|row| (row != 1).then_some(skipped + rows - 1 - row)).collect();
                let row = |of: &'_ [f32], row: usize| of[row * width..(row + 1) * width].to_vec();
                for (i, slot) in slots.iter().enumerate().filter_map(|(i, slot)| Some((i, (*slot)?))) {
                    layout.append(&mut one_by_one, slot, &row(&keys, i), &row(&values, i));
                }
                let (keys, values) = (Rows::new(&keys, width), Rows::new(&values, width));
                append(&Context::new(2), layout, &mut together, &slots, keys, values);
                assert!(together == one_by_one, "{dtype:?}, {rows} rows");
            }
        }
    }

    /// In whatever order slots are written, each keeps to its own.
    #[test]
    fn what_is_stored_again_changes_nothing() {
        for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8] {
            for &head_dim in sizes(&[6, 14, 20, 64, 70, 80], &[14]) {
                let layout = KvLayout { dtype, kv_heads: 1, head_dim };
                let (keys, values) = (numbers(1, BLOCK * head_dim), numbers(2, BLOCK * head_dim));
                let mut cache = vec![0; layout.layer_bytes(BLOCK).unwrap()];
                let mut store = |slot: usize| {
                    let row = slot * head_dim..(slot + 1) * head_dim;
                    layout.append(&mut cache, slot, &keys[row.clone()], &values[row]);
                    cache.clone()
                };
                let stored = (0..BLOCK).map(&mut store).last().unwrap();
                let step = if cfg!(miri) { 17 } else { 1 };
                for slot in (0..BLOCK).rev().step_by(step) {
                    assert!(
                        store(slot) == stored,
                        "{dtype:?}, {head_dim}: slot {slot} has a place of its own"
                    );
                }
            }
        }
    }

    #[test]
    fn codes_are_within_half_a_step() {
        for exponent in [-30, -14, 0, 20] {
            let unit = 2f32.powi(exponent);
            let elements: Vec<f32> = (0..32).map(|i| (i as f32 * 0.7).sin() * unit).collect();
            let (scale, codes) = encode(&elements);
            let scale = scale.to_f32();
            for (x, code) in elements.iter().zip(codes) {
                let found = (f32::from(code) - 128.0) * scale;
                assert!((found - x).abs() <= 0.5001 * scale, "{found} for {x}");
            }
            assert!(scale <= 1.002 * unit / 127.0 + 6e-8);
        }
        assert_eq!(encode(&[0.0; 5]).0, f16::ZERO);
        for special in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e7] {
            assert!(!encode(&[1.0, special]).0.is_finite());
        }
    }

    #[test]
    fn a_cache_that_does_not_fit_is_none() {
        let layout = KvLayout { dtype: KvDtype::F32, kv_heads: 8, head_dim: 128 };
        assert_eq!(layout.layer_bytes(usize::MAX), None);
        assert_eq!(KvLayout { head_dim: usize::MAX / 2, ..layout }.layer_bytes(1), None);
    }

    #[test]
    #[should_panic(expected = "room for slot 64")]
    fn a_slot_past_the_end_is_refused() {
        let layout = KvLayout { dtype: KvDtype::F32, kv_heads: 1, head_dim: 2 };
        layout.append(&mut vec![0; layout.layer_bytes(64).unwrap()], 64, &[0.0; 2], &[0.0; 2]);
    }
}
