//! From f32 to the quantised formats, one row at a time.

use super::floats::E2M1;
use half::f16;
use tensor::Format;

/// Largest magnitude of e4m3.
const E4M3_MAX: f32 = 448.0;

/// Quantises a row: one code a byte (int8 and fp8 as their bits, int4 and mxfp4 as 0..=15) and one scale a group
/// ([`Format::group`]; the last may be shorter). Values must be finite. A scale beyond f16, where the format keeps
/// it so, comes out infinite.
pub(super) fn quantise_row(format: Format, values: &[f32], codes: &mut [u8], scales: &mut [f32]) {
    let group = match format {
        Format::Int8 => int8,
        Format::Int4 => int4,
        Format::Fp8 => fp8,
        Format::Mxfp4 => mxfp4,
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("{format:?} has no codes"),
    };
    let groups = values
        .chunks(format.group())
        .zip(codes.chunks_mut(format.group()));
    for ((values, codes), scale) in groups.zip(scales) {
        *scale = group(values, codes);
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, v| max.max(v.abs()))
}

fn as_f16(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

/// Codes `code(value)` where there is a scale, else `zero` all over.
fn fill(values: &[f32], codes: &mut [u8], scale: f32, zero: u8, code: impl Fn(f32) -> u8) -> f32 {
    for (value, c) in values.iter().zip(codes) {
        *c = if scale == 0.0 { zero } else { code(*value) };
    }
    scale
}

/// The scale is rounded first, so that codes are nearest under the scale that is stored.
fn int8(values: &[f32], codes: &mut [u8]) -> f32 {
    let scale = as_f16(largest(values) / 127.0);
    fill(values, codes, scale, 0, |v| {
        (v / scale).round().clamp(-127.0, 127.0) as i8 as u8
    })
}

/// GGUF's Q4_0: the value of largest magnitude becomes code 0, which stands for -8.
fn int4(values: &[f32], codes: &mut [u8]) -> f32 {
    let extreme = |max: f32, v: &f32| if v.abs() > max.abs() { *v } else { max };
    let exact = values.iter().fold(0.0, extreme) / -8.0;
    let inverse = 1.0 / exact;
    let code = |v: f32| (v * inverse + 8.5).clamp(0.0, 15.0) as u8;
    fill(values, codes, exact, 8, code);
    as_f16(exact)
}

fn fp8(values: &[f32], codes: &mut [u8]) -> f32 {
    let scale = largest(values) / E4M3_MAX;
    fill(values, codes, scale, 0, |v| e4m3(v / scale))
}

/// The nearest e4m3, ties to even, saturating.
fn e4m3(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    let magnitude = value.abs().min(E4M3_MAX);
    let code = if magnitude < 1.0 / 64.0 {
        (magnitude * 512.0).round_ties_even() as u8
    } else {
        let bits = magnitude.to_bits();
        let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
        ((rounded >> 20) - (120 << 3)) as u8
    };
    sign | code
}

/// OCP microscaling: the power of two that brings the largest value between 4 and 8, which e2m1 reaches to 6.
fn mxfp4(values: &[f32], codes: &mut [u8]) -> f32 {
    let exponent = (largest(values).to_bits() >> 23) as i32 - 127 - 2;
    let scale = (exponent.max(-126) as f32).exp2();
    fill(values, codes, scale, 0, |v| e2m1(v / scale))
}

/// The nearest e2m1, ties to even, saturating.
fn e2m1(value: f32) -> u8 {
    let magnitude = value.abs();
    // Halfway between two codes, the even one is taken: the upper of the pairs (1, 2), (3, 4), (5, 6).
    let above = |code: u8| {
        let middle = (E2M1[usize::from(code)] + E2M1[usize::from(code) - 1]) / 2.0;
        magnitude > middle || magnitude == middle && code.is_multiple_of(2)
    };
    let code = (1..8).filter(|&code| above(code)).count() as u8;
    if value.is_sign_negative() {
        code | 8
    } else {
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::floats::E4M3;

    #[test]
    fn e4m3_rounds_every_code_to_itself_and_middles_to_even() {
        for code in 0..=0x7eu8 {
            let value = E4M3[usize::from(code)];
            assert_eq!(e4m3(value), code);
            assert_eq!(e4m3(-value), code | 0x80);
            if code < 0x7e {
                let middle = (value + E4M3[usize::from(code) + 1]) / 2.0;
                assert_eq!(e4m3(middle), code + code % 2);
                assert_eq!(e4m3(middle.next_up()), code + 1);
                assert_eq!(e4m3(middle.next_down()), code);
            }
        }
        assert_eq!(e4m3(1e9), 0x7e);
    }

    #[test]
    fn e2m1_rounds_to_nearest_even() {
        for code in 0..16 {
            assert_eq!(e2m1(E2M1[usize::from(code)]), code);
        }
        for (value, code) in [
            (0.25, 0),
            (0.75, 2),
            (1.25, 2),
            (1.75, 4),
            (2.5, 4),
            (3.5, 6),
            (5.0, 6),
            (9.0, 7),
        ] {
            assert_eq!(e2m1(value), code, "{value}");
        }
    }

    #[test]
    fn int4_follows_q4_0() {
        let mut values = [0.0; 32];
        values[3] = -8.0;
        values[4] = 7.0;
        let (mut codes, mut scales) = ([0; 32], [0.0; 1]);
        quantise_row(Format::Int4, &values, &mut codes, &mut scales);
        assert_eq!((scales[0], codes[0], codes[3], codes[4]), (1.0, 8, 0, 15));
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        for format in [Format::Int8, Format::Int4, Format::Fp8, Format::Mxfp4] {
            let (mut codes, mut scales) = ([1; 40], [1.0; 2]);
            quantise_row(format, &[0.0; 40], &mut codes, &mut scales);
            let zero = if format == Format::Int4 { 8 } else { 0 };
            assert!(codes[..].iter().all(|c| *c == zero), "{format:?}");
        }
    }
}
