//! Between stored elements and single precision.
//!
//! Stored elements are little-endian and at any address, since a safetensors header does not align what follows it.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use llamac_ir::{DType, float8};

/// Widens the elements of `bytes` to `out`, exactly but for integers, which round. Both have the same number of elements.
pub fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        DType::BF16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        DType::F16 => {
            // Blocks, aligned on the stack, are converted by the processor's instructions where it has them.
            let mut block = [f16::ZERO; 256];
            for (out, bytes) in out.chunks_mut(256).zip(bytes.chunks(512)) {
                let block = &mut block[..out.len()];
                for (element, bytes) in block.iter_mut().zip(bytes.as_chunks().0) {
                    *element = f16::from_le_bytes(*bytes);
                }
                block.convert_to_f32_slice(out);
            }
        }
        DType::I64 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = i64::from_le_bytes(*bytes) as f32;
            }
        }
        DType::I32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = i32::from_le_bytes(*bytes) as f32;
            }
        }
        DType::Bool => each(bytes, out, |byte| f32::from(u8::from(byte != 0))),
        DType::U8 => each(bytes, out, f32::from),
        DType::I8 => each(bytes, out, |byte| f32::from(byte as i8)),
        DType::F8E4M3 => each(bytes, out, float8::to_f32),
    }
}

fn each(bytes: &[u8], out: &mut [f32], widen: impl Fn(u8) -> f32) {
    out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = widen(*byte));
}

/// Rounds `values` to `dtype`, to nearest and ties to even, into the bytes of `out`. Both have the same number of
/// elements.
pub fn narrow(dtype: DType, values: &[f32], out: &mut [u8]) {
    match dtype {
        DType::F32 => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = value.to_le_bytes();
            }
        }
        DType::BF16 => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = bf16::from_f32(*value).to_le_bytes();
            }
        }
        DType::F16 => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = f16::from_f32(*value).to_le_bytes();
            }
        }
        DType::I64 => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = (value.round() as i64).to_le_bytes();
            }
        }
        DType::I32 => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = (value.round() as i32).to_le_bytes();
            }
        }
        DType::Bool => {
            for (out, value) in out.iter_mut().zip(values) {
                *out = u8::from(*value != 0.0);
            }
        }
        DType::U8 => {
            for (out, value) in out.iter_mut().zip(values) {
                *out = value.round() as u8;
            }
        }
        DType::I8 => {
            for (out, value) in out.iter_mut().zip(values) {
                *out = value.round() as i8 as u8;
            }
        }
        DType::F8E4M3 => {
            for (out, value) in out.iter_mut().zip(values) {
                *out = float8::from_f32(*value);
            }
        }
    }
}

/// Elements that are in single precision on their way from one dtype to another.
const WIDE: usize = 256;

/// The elements of `bytes` as another dtype, in `out`, which has as many; the same dtype keeps its bytes.
///
/// # Errors
/// The first finite number that would become infinite.
pub fn convert(from: DType, bytes: &[u8], to: DType, out: &mut [u8]) -> Result<(), f32> {
    if from == to {
        out.copy_from_slice(bytes);
        return Ok(());
    }
    let mut wide = [0.0; WIDE];
    let blocks = bytes.chunks(WIDE * from.size()).zip(out.chunks_mut(WIDE * to.size()));
    for (bytes, out) in blocks {
        let wide = &mut wide[..bytes.len() / from.size()];
        widen(from, bytes, wide);
        let too_large = |value: &&f32| value.is_finite() && !to.round(**value).is_finite();
        if to != DType::F32
            && let Some(value) = wide.iter().find(too_large)
        {
            return Err(*value);
        }
        narrow(to, wide, out);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All bit patterns of the narrow types come back, also from an odd address and beyond one block.
    #[test]
    fn narrow_types_come_back() {
        for dtype in [DType::F16, DType::BF16] {
            let mut bytes = vec![0];
            bytes.extend((0..=u16::MAX).flat_map(u16::to_le_bytes));
            let mut wide = vec![0.0; 1 << 16];
            widen(dtype, &bytes[1..], &mut wide);
            let mut back = vec![0; 1 << 17];
            narrow(dtype, &wide, &mut back);
            for (i, value) in wide.iter().enumerate() {
                // A NaN may come back as another NaN.
                assert!(value.is_nan() || back[2 * i..][..2] == bytes[1 + 2 * i..][..2], "{dtype} {i:#x}");
                assert!(value.is_nan() || *value == dtype.round(*value), "{dtype} {i:#x}");
            }
            assert_eq!(wide[usize::from(if dtype == DType::F16 { 0x3C00u16 } else { 0x3F80 })], 1.0);
        }
    }

    #[test]
    fn wide_types_come_back() {
        let values = [0.0, -0.0, 1.5, f32::MIN_POSITIVE / 2.0, f32::INFINITY, -3.0e38];
        for (dtype, values) in
            [(DType::F32, &values[..]), (DType::I64, &[0.0, -2.0, 1e9]), (DType::I32, &[0.0, -2.0, 65536.0])]
        {
            let mut bytes = vec![0; values.len() * dtype.size()];
            narrow(dtype, values, &mut bytes);
            let mut back = vec![7.0; values.len()];
            widen(dtype, &bytes, &mut back);
            assert_eq!(back, values);
        }
    }

    #[test]
    fn dtypes_become_others_unless_a_number_does_not_fit() {
        let values: Vec<f32> = (0..1000).map(|i| i as f32 * 0.37 - 100.0).collect();
        let stored = |dtype: DType, values: &[f32]| {
            let mut bytes = vec![0; values.len() * dtype.size()];
            narrow(dtype, values, &mut bytes);
            bytes
        };
        for from in [DType::F32, DType::F16, DType::BF16] {
            for to in [DType::F32, DType::F16, DType::BF16] {
                let mut out = vec![0xAA; values.len() * to.size()];
                assert_eq!(convert(from, &stored(from, &values), to, &mut out), Ok(()));
                let rounded: Vec<f32> = values.iter().map(|value| from.round(*value)).collect();
                assert_eq!(out, stored(to, &rounded), "{from} to {to}");
            }
        }
        let large = stored(DType::F32, &[1.0, f32::INFINITY, f32::NAN, 65519.0, -7e4]);
        let mut out = vec![0; 10];
        assert_eq!(convert(DType::F32, &large, DType::F16, &mut out), Err(-7e4));
        assert_eq!(convert(DType::F32, &large[..16], DType::F16, &mut out[..8]), Ok(()));
        assert_eq!(out[6..8], f16::MAX.to_le_bytes());
    }
}
