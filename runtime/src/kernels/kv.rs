//! The KV cache's layout: keys and values of one sequence and one layer.
//!
//! A KV head's slots lie together, in blocks of [`BLOCK`]: a block's keys, then its values, so that attention reads
//! one stream. Both are packed like weights (see [`llamac_plan::layout`]), because attention multiplies by them: keys
//! as a matrix `[64 slots, head_dim]`, values as `[head_dim, 64 slots]`.

use half::{bf16, f16};
use llamac_plan::KvDtype;
use llamac_plan::layout::{MatrixLayout, PANEL, WeightDtype};

/// Slots of a block.
pub const BLOCK: usize = 64;

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
        let elements = self.head_dim.checked_next_multiple_of(PANEL)?.checked_mul(2 * BLOCK)?;
        elements.checked_mul(self.dtype.size())?;
        slots.div_ceil(BLOCK).checked_mul(self.kv_heads)?.checked_mul(self.block_bytes())
    }

    /// Slots that a layer's cache of `bytes` bytes has room for.
    pub fn capacity(&self, bytes: usize) -> usize {
        self.blocks(bytes) * BLOCK
    }

    /// Stores a token's key and value, `[kv_heads · head_dim]` each, rounded to nearest even.
    ///
    /// # Panics
    /// If `cache` has no such slot, or a row has another length.
    pub fn append(&self, cache: &mut [u8], slot: usize, key: &[f32], value: &[f32]) {
        let width = self.kv_heads * self.head_dim;
        assert!(key.len() == width && value.len() == width, "a token's keys and values are {width} elements");
        assert!(slot < self.capacity(cache.len()), "the cache has room for slot {slot}");
        let blocks = self.blocks(cache.len());
        let (keys, values) = (self.keys(), self.values());
        let key_bytes = keys.panels() * keys.panel_bytes();
        for head in 0..self.kv_heads {
            let row = head * self.head_dim..(head + 1) * self.head_dim;
            let start = (head * blocks + slot / BLOCK) * self.block_bytes();
            let (k, v) = cache[start..start + self.block_bytes()].split_at_mut(key_bytes);
            self.store(&key[row.clone()], k, |d| place(&keys, slot % BLOCK, d));
            self.store(&value[row], v, |d| place(&values, d, slot % BLOCK));
        }
    }

    /// Writes each element, rounded, to its place, counted in elements.
    fn store(&self, row: &[f32], out: &mut [u8], place: impl Fn(usize) -> usize) {
        match self.dtype {
            KvDtype::F32 => {
                for (d, x) in row.iter().enumerate() {
                    out[place(d) * 4..][..4].copy_from_slice(&x.to_le_bytes());
                }
            }
            KvDtype::F16 => {
                for (d, &x) in row.iter().enumerate() {
                    out[place(d) * 2..][..2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
                }
            }
            KvDtype::Bf16 => {
                for (d, &x) in row.iter().enumerate() {
                    out[place(d) * 2..][..2].copy_from_slice(&bf16::from_f32(x).to_le_bytes());
                }
            }
        }
    }

    /// Blocks of each head in a layer's cache of `bytes` bytes.
    pub(super) fn blocks(&self, bytes: usize) -> usize {
        bytes.checked_div(self.kv_heads * self.block_bytes()).unwrap_or(0)
    }

    /// Bytes of one head's block.
    pub(super) fn block_bytes(&self) -> usize {
        let (keys, values) = (self.keys(), self.values());
        keys.panels() * keys.panel_bytes() + values.panels() * values.panel_bytes()
    }

    /// A block's keys.
    pub(super) fn keys(&self) -> MatrixLayout {
        MatrixLayout { dtype: self.element(), rows: BLOCK, cols: self.head_dim }
    }

    /// A block's values, after its keys.
    pub(super) fn values(&self) -> MatrixLayout {
        MatrixLayout { dtype: self.element(), rows: self.head_dim, cols: BLOCK }
    }

    fn element(&self) -> WeightDtype {
        match self.dtype {
            KvDtype::F32 => WeightDtype::F32,
            KvDtype::F16 => WeightDtype::F16,
            KvDtype::Bf16 => WeightDtype::Bf16,
        }
    }
}

/// Position of an element from a matrix's start, in elements.
fn place(layout: &MatrixLayout, row: usize, col: usize) -> usize {
    row / PANEL * (layout.panel_bytes() / layout.dtype.size()) + layout.element(row % PANEL, col)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_its_own_place() {
        for (dtype, head_dim) in [(KvDtype::F32, 6), (KvDtype::F16, 20), (KvDtype::Bf16, 14)] {
            let layout = KvLayout { dtype, kv_heads: 2, head_dim };
            let mut cache = vec![0; layout.layer_bytes(70).unwrap()];
            assert_eq!(layout.capacity(cache.len()), 128);
            let row = vec![1.0; 2 * head_dim];
            let one = match dtype {
                KvDtype::F32 => 1.0_f32.to_le_bytes().to_vec(),
                KvDtype::F16 => f16::ONE.to_le_bytes().to_vec(),
                KvDtype::Bf16 => bf16::ONE.to_le_bytes().to_vec(),
            };
            for slot in 0..70 {
                layout.append(&mut cache, slot, &row, &row);
                let ones = cache.chunks(one.len()).filter(|bytes| *bytes == one).count();
                assert_eq!(ones, (slot + 1) * 4 * head_dim);
            }
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
