//! Bounds that every published model stays far below. They keep all products of two sizes within 64 bits.

use std::ops::RangeInclusive;

pub const VOCAB: RangeInclusive<u64> = 1..=i32::MAX as u64;
pub const WIDTH: RangeInclusive<u64> = 1..=1 << 20;
pub const INTERMEDIATE: RangeInclusive<u64> = 1..=1 << 24;
pub const LAYERS: RangeInclusive<u64> = 1..=512;
pub const HEADS: RangeInclusive<u64> = 1..=1 << 16;
pub const HEAD_DIM: RangeInclusive<u64> = 2..=1 << 16;
pub const POSITIONS: RangeInclusive<u64> = 1..=1 << 40;
