//! Plain floats to and from f32, written as loops over whole slices so that they vectorise.

use half::f16;

pub(super) fn f32s(bytes: &[u8], out: &mut [f32]) {
    for (value, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*b);
    }
}

pub(super) fn bf16s(bytes: &[u8], out: &mut [f32]) {
    for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = bf16(*b);
    }
}

pub(super) fn f16s(bytes: &[u8], out: &mut [f32]) {
    for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = half_to_f32(u16::from_le_bytes(*b));
    }
}

#[inline]
fn bf16(b: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
}

/// IEEE half to single without branches or calls: shifting exponent and mantissa into place leaves the value
/// 2^112 times too small, subnormals included; infinity and NaN then get their exponent back.
#[inline]
fn half_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | u32::from(bits & 0x8000) << 16)
}

/// A little-endian half at the start of `bytes`.
pub(super) fn half_at(bytes: &[u8], index: usize) -> f32 {
    half_to_f32(u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]))
}

/// A little-endian single.
pub(super) fn single_at(bytes: &[u8], index: usize) -> f32 {
    let b = &bytes[4 * index..4 * index + 4];
    f32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

/// 2^(byte - 127), the scale of OCP microscaling formats. 255 stands for NaN there.
pub(super) fn e8m0(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

/// The values of e2m1 codes.
pub(super) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Appends a value as bf16, rounded to nearest even.
pub(super) fn push_bf16(out: &mut Vec<u8>, value: f32) {
    out.extend(half::bf16::from_f32(value).to_le_bytes());
}

/// Appends a value as f16, rounded to nearest even; beyond its range it becomes infinite.
pub(super) fn push_f16(out: &mut Vec<u8>, value: f32) {
    out.extend(f16::from_f32(value).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (half_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
        }
    }
}
