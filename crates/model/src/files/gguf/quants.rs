//! GGUF's block types: what their bytes mean. The layouts are those of ggml's `ggml-common.h`, little endian.

use crate::files::floats::{E2M1, e8m0, half_at};
use crate::files::tensors::Encoding;

/// Values per super-block of the K types.
const SUPER: usize = 256;

/// Dequantises whole blocks; `out` is as long as `bytes` has values.
pub(in crate::files) fn dequantise(encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
    let (values, size) = encoding.block();
    let block = match encoding {
        Encoding::Q8_0 => q8_0,
        Encoding::Q4_0 => q4_0,
        Encoding::Q4K => q4_k,
        Encoding::Q5K => q5_k,
        Encoding::Q6K => q6_k,
        Encoding::Mxfp4 => mxfp4,
        _ => unreachable!("{encoding:?} has no blocks"),
    };
    for (bytes, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(values)) {
        block(bytes, out);
    }
}

/// Writes codes (one a byte, in the order of the inputs) and scales where blocks are exactly that.
pub(in crate::files) fn read_codes(encoding: Encoding, bytes: &[u8], codes: &mut [u8], scales: &mut [f32]) -> bool {
    let (values, size) = encoding.block();
    if !matches!(encoding, Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Mxfp4) {
        return false;
    }
    let blocks = bytes.chunks_exact(size).zip(codes.chunks_exact_mut(values));
    for ((bytes, codes), scale) in blocks.zip(scales) {
        match encoding {
            Encoding::Q8_0 => {
                *scale = half_at(bytes, 0);
                codes.copy_from_slice(&bytes[2..]);
            }
            Encoding::Q4_0 => {
                *scale = half_at(bytes, 0);
                split_nibbles(&bytes[2..], codes);
            }
            _ => {
                *scale = e8m0(bytes[0]);
                split_nibbles(&bytes[1..], codes);
            }
        }
    }
    true
}

/// Byte j holds value j low and value j + 16 high.
fn split_nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

/// Scale f16, 32 codes i8.
fn q8_0(bytes: &[u8], out: &mut [f32]) {
    let scale = half_at(bytes, 0);
    for (value, &code) in out.iter_mut().zip(&bytes[2..]) {
        *value = f32::from(code as i8) * scale;
    }
}

/// Scale f16, 32 codes of 4 bits standing for -8..=7.
fn q4_0(bytes: &[u8], out: &mut [f32]) {
    let scale = half_at(bytes, 0);
    let mut codes = [0; 32];
    split_nibbles(&bytes[2..], &mut codes);
    for (value, code) in out.iter_mut().zip(codes) {
        *value = (f32::from(code) - 8.0) * scale;
    }
}

/// Scale e8m0, 32 codes e2m1.
fn mxfp4(bytes: &[u8], out: &mut [f32]) {
    let scale = e8m0(bytes[0]);
    let mut codes = [0; 32];
    split_nibbles(&bytes[1..], &mut codes);
    for (value, code) in out.iter_mut().zip(codes) {
        *value = E2M1[usize::from(code)] * scale;
    }
}

/// The 6-bit scale and minimum of group `group` of 8, out of 12 packed bytes: the first four groups have theirs
/// in the low bits of bytes 0..8, the others 4 bits in bytes 8..12 and 2 above those of the first four.
fn packed_scale(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        (packed[group + 4] & 15 | packed[group - 4] >> 6 << 4, packed[group + 4] >> 4 | packed[group] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// `d` and `dmin` f16, packed scales, 256 codes of 4 bits: 64 values share 32 bytes, the first half low.
fn q4_k(bytes: &[u8], out: &mut [f32]) {
    k_with_minimum(bytes, &bytes[16..], |_, _| 0, out);
}

/// As Q4_K, with 32 bytes of fifth bits before the codes: bit g of byte i belongs to value i of group g.
fn q5_k(bytes: &[u8], out: &mut [f32]) {
    let high = &bytes[16..48];
    k_with_minimum(bytes, &bytes[48..], |group, i| (high[i] >> group & 1) << 4, out);
}

fn k_with_minimum(bytes: &[u8], codes: &[u8], high: impl Fn(usize, usize) -> u8, out: &mut [f32]) {
    let (scale, minimum) = (half_at(bytes, 0), half_at(bytes, 1));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (s, m) = packed_scale(&bytes[4..16], group);
        let (s, m) = (scale * s, minimum * m);
        let codes = &codes[group / 2 * 32..][..32];
        for (i, value) in out.iter_mut().enumerate() {
            let code = codes[i] >> (4 * (group % 2)) & 15 | high(group, i);
            *value = f32::from(code) * s - m;
        }
    }
}

/// 128 bytes of low 4 bits, 64 of high 2, 16 scales i8, `d` f16. Each half of the block, 128 values in four rows
/// of 32, has its own 64 low bytes (rows 0, 1 low, rows 2, 3 high) and 32 high bytes (two bits a row).
fn q6_k(bytes: &[u8], out: &mut [f32]) {
    let (low, rest) = bytes.split_at(SUPER / 2);
    let (high, rest) = rest.split_at(SUPER / 4);
    let scale = half_at(rest, SUPER / 32);
    for (i, value) in out.iter_mut().enumerate() {
        let (half, row, column) = (i / 128, i % 128 / 32, i % 32);
        let low = low[half * 64 + row % 2 * 32 + column] >> (row / 2 * 4) & 15;
        let high = high[half * 32 + column] >> (row * 2) & 3;
        let code = f32::from(low | high << 4) - 32.0;
        *value = scale * f32::from(rest[i / 16] as i8) * code;
    }
}

#[cfg(test)]
mod tests {
    use crate::files::gguf::Gguf;
    use crate::files::placement::{Coding, Placement, RowOrder};
    use ::safetensors::SafeTensors;
    use std::path::PathBuf;
    use tensor::MatrixSource;
    use tensor::format::dequantise_row;

    fn fixture(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf").join(name)
    }

    fn place(name: &str, expert: Option<(usize, usize)>) -> Placement {
        Placement { name: name.into(), coding: Coding::Inline, expert, order: RowOrder::PLAIN, transposed: false }
    }

    /// Every type dequantises to the bits that ggml's own code gives, and where a row can be had as codes, they
    /// stand for the same values.
    #[test]
    fn every_block_type_is_bit_identical_to_ggml() {
        let gguf = Gguf::open(&fixture("types.gguf")).unwrap();
        let bytes = std::fs::read(fixture("types.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in expected.tensors() {
            let stacked = view.shape().len() == 3;
            let experts = if stacked { view.shape()[0] } else { 1 };
            let [.., rows, cols] = *view.shape() else { panic!("{name} is a vector") };
            let mut theirs = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            for expert in 0..experts {
                let place = place(&name, stacked.then_some((expert, experts)));
                let matrix = place.matrix(&gguf.store, rows, cols).unwrap();
                for row in 0..rows {
                    let expected: Vec<f32> = theirs.by_ref().take(cols).collect();
                    let mut values = vec![0.0; cols];
                    matrix.read_f32(row, &mut values);
                    let same = |a: &[f32]| a.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same(&values), "{name}, row {row}");
                    let format = matrix.format();
                    let mut codes = vec![0; cols];
                    let mut scales = vec![0.0; cols.div_ceil(format.group())];
                    if matrix.read_codes(row, &mut codes, &mut scales) {
                        dequantise_row(format, &codes, &scales, &mut values);
                        // A zero may come out with the other sign.
                        assert_eq!(values, expected, "codes of {name}, row {row}");
                    }
                }
            }
        }
    }
}
