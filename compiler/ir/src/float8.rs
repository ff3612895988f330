//! Numbers of eight bits, `F8_E4M3` of safetensors: a sign, four bits of exponent around 7 and three of
//! fraction, no infinity and two NaNs (Micikevicius et al., "FP8 Formats for Deep Learning").

/// The number of a byte.
pub fn to_f32(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction * power(-9),
        _ => (fraction + 8.0) * power(exponent - 10),
    };
    if byte < 0x80 { magnitude } else { -magnitude }
}

/// The byte of the nearest number, ties to even; NaN where it is beyond the largest.
pub fn from_f32(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    // Between the largest number, 448, and the next that there would be.
    if x.is_nan() || x.abs() > 464.0 {
        return sign | 0x7F;
    }
    let exponent = ((x.to_bits() >> 23 & 0xFF) as i32 - 127).max(-6);
    let steps = (x.abs() / power(exponent - 3)).round_ties_even();
    sign | (((exponent + 6) * 8) as u8 + steps as u8)
}

/// A power of two that single precision has as a normal number.
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        for byte in 0..=u8::MAX {
            let x = to_f32(byte);
            assert_eq!(from_f32(x), byte, "{x}");
            assert_eq!(x.is_nan(), byte & 0x7F == 0x7F);
        }
        for (byte, x) in
            [(0x01, 0.001_953_125), (0x08, 0.015_625), (0x38, 1.0), (0xB9, -1.125), (0x7E, 448.0)]
        {
            assert_eq!(to_f32(byte), x);
        }
    }

    #[test]
    fn numbers_go_to_the_nearest() {
        for byte in (0..0x7E).chain(0x80..0xFE) {
            let (low, high) = (to_f32(byte), to_f32(byte + 1));
            let middle = (low + high) / 2.0;
            assert_eq!(from_f32(middle) & 1, 0, "{middle} is a tie");
            assert_eq!(from_f32(low + (high - low) * 0.499), byte);
            assert_eq!(from_f32(low + (high - low) * 0.501), byte + 1);
        }
        for (x, byte) in [(464.0, 0x7E), (464.1, 0x7F), (-1e30, 0xFF), (1e-30, 0), (-0.0, 0x80)] {
            assert_eq!(from_f32(x), byte);
        }
    }
}
