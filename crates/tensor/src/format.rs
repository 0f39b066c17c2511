//! Weight formats, their arithmetic on one row, and where weights come from.

use half::{bf16, f16};

/// How the elements of a weight matrix are held while it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// OCP 8-bit float, 4 exponent and 3 mantissa bits, one f32 scale per 128 inputs.
    Fp8,
    /// Two's complement bytes, one f16 scale per 32 inputs (GGUF's Q8_0).
    Int8,
    /// 0..=15 standing for -8..=7, one f16 scale per 32 inputs (GGUF's Q4_0).
    Int4,
    /// OCP microscaling: e2m1 codes, one power-of-two scale per 32 inputs.
    Mxfp4,
}

impl Format {
    /// Inputs that share a scale; 1 where there is none.
    pub fn group(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => 1,
            Format::Fp8 => 128,
            Format::Int8 | Format::Int4 | Format::Mxfp4 => 32,
        }
    }
}

/// A matrix `[rows, cols]` = `[outputs, inputs]` that can be read row by row, from a file or from memory.
/// Reads happen from several threads at once.
pub trait MatrixSource: Sync {
    /// Outputs.
    fn rows(&self) -> usize;
    /// Inputs.
    fn cols(&self) -> usize;
    /// The format that holds this source's values without loss (or, for encodings that no [`Format`]
    /// holds, the one to compute in).
    fn format(&self) -> Format;
    /// Writes row `row`, dequantised, to `out` (`cols` long).
    fn read_f32(&self, row: usize, out: &mut [f32]);
    /// For a source whose values are exactly codes of `self.format()`: writes one code a byte (`cols` long;
    /// int8 as its bits, int4 as 0..=15, mxfp4 and fp8 as their bits) and one scale a group
    /// (`cols.div_ceil(group)` long) and returns true. Otherwise returns false and writes nothing.
    fn read_codes(&self, _row: usize, _codes: &mut [u8], _scales: &mut [f32]) -> bool {
        false
    }
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 7] =
        [Format::F32, Format::F16, Format::Bf16, Format::Fp8, Format::Int8, Format::Int4, Format::Mxfp4];

    /// The name used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Fp8 => "fp8",
            Format::Int8 => "int8",
            Format::Int4 => "int4",
            Format::Mxfp4 => "mxfp4",
        }
    }

    /// Whether products multiply small integers, so that activations are quantised too.
    pub fn multiplies_integers(self) -> bool {
        matches!(self, Format::Int8 | Format::Int4 | Format::Mxfp4)
    }

    /// Whether a matrix is held as codes and scales.
    pub fn is_quantised(self) -> bool {
        self.group() > 1
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Format::ALL.into_iter().find(|f| f.name() == name).ok_or_else(|| {
            format!("`{name}` is not a weight format; there are {}", Format::ALL.map(Format::name).join(", "))
        })
    }
}

/// The values of e2m1 codes 0..=7; codes 8..=15 are their negatives (OCP Microscaling Formats 1.0).
pub const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The value of an e4m3 byte (OCP 8-bit floating point, the `fn` variant: no infinities, 0x7f and 0xff are NaN).
pub fn e4m3_to_f32(byte: u8) -> f32 {
    let magnitude = match byte & 0x7f {
        0x7f => f32::NAN,
        bits => f32::from_bits(u32::from(bits) << 20) * f32::from_bits((127 + 120) << 23),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The e4m3 byte nearest to `x`, ties to even, saturating at 448.
pub fn f32_to_e4m3(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let x = x.abs().min(448.0);
    // Steps of 2^-9 below the normal numbers, of an eighth of the binade above.
    let step_exponent = (((x.to_bits() >> 23) as i32) - 127).max(-6) - 3;
    let units = (x * f32::from_bits(((127 - step_exponent) as u32) << 23)).round_ties_even() as u32;
    // In the lowest binade (and below it) the units are the bits; each further binade adds eight.
    sign | (units + 8 * (step_exponent + 9) as u32) as u8
}

/// Quantises one row: one code a byte, one scale a group, as [`MatrixSource::read_codes`] gives them.
/// int8: scale `max|x| / 127` rounded to f16, codes to nearest. int4: GGUF's Q4_0 rule, the element largest in magnitude becomes -8.
/// fp8: scale `max|x| / 448`. mxfp4: scale `2^(floor(log2 max|x|) - 2)`, codes to nearest, ties to even.
///
/// # Panics
/// If `format` has no codes.
#[inline(always)]
pub fn quantise_row(format: Format, x: &[f32], codes: &mut [u8], scales: &mut [f32]) {
    let group = format.group();
    for ((x, codes), scale) in x.chunks(group).zip(codes.chunks_mut(group)).zip(scales) {
        let largest = max_abs(x);
        *scale = match format {
            Format::Int8 => f16::from_f32(largest / 127.0).to_f32(),
            Format::Int4 => {
                let signed = x.iter().find(|v| v.abs() == largest).copied().unwrap_or(0.0);
                f16::from_f32(signed / -8.0).to_f32()
            }
            Format::Fp8 => largest / 448.0,
            Format::Mxfp4 if largest > 0.0 => 2f32.powi((((largest.to_bits() >> 23) as i32) - 127 - 2).max(-127)),
            Format::Mxfp4 => 1.0,
            Format::F32 | Format::F16 | Format::Bf16 => panic!("{format} has no codes"),
        };
        let inverse = if *scale == 0.0 { 0.0 } else { 1.0 / *scale };
        let codes = codes.iter_mut().zip(x);
        match format {
            Format::Int8 => codes.for_each(|(c, v)| *c = (v * inverse).round().clamp(-127.0, 127.0) as i8 as u8),
            Format::Int4 => codes.for_each(|(c, v)| *c = (v * inverse + 8.5).clamp(0.0, 15.0) as u8),
            Format::Fp8 => codes.for_each(|(c, v)| *c = f32_to_e4m3(v * inverse)),
            _ => codes.for_each(|(c, v)| *c = f32_to_e2m1(v * inverse)),
        }
    }
}

/// The largest magnitude (NaN passed over), eight running maxima side by side.
#[inline(always)]
pub(crate) fn max_abs(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(m, v)| *m = if v.abs() > *m { v.abs() } else { *m });
    }
    lanes.iter().chain(rest).fold(0f32, |m, v| m.max(v.abs()))
}

/// The e2m1 code nearest to `x`, ties to the even code, saturating at 6.
fn f32_to_e2m1(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 8 } else { 0 };
    let x = x.abs();
    let code = (0..7u8)
        .find(|&i| {
            let middle = (E2M1[usize::from(i)] + E2M1[usize::from(i) + 1]) / 2.0;
            x < middle || (x == middle && i % 2 == 0)
        })
        .unwrap_or(7);
    sign | code
}

/// The values that codes and scales stand for; the inverse of [`quantise_row`] up to its rounding.
///
/// # Panics
/// If `format` has no codes.
pub fn dequantise_row(format: Format, codes: &[u8], scales: &[f32], out: &mut [f32]) {
    let group = format.group();
    for ((codes, scale), out) in codes.chunks(group).zip(scales).zip(out.chunks_mut(group)) {
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = scale * code_value(format, code);
        }
    }
}

/// What one code stands for, before its scale.
fn code_value(format: Format, code: u8) -> f32 {
    match format {
        Format::Int8 => f32::from(code as i8),
        Format::Int4 => f32::from(code) - 8.0,
        Format::Fp8 => e4m3_to_f32(code),
        Format::Mxfp4 if code < 8 => E2M1[usize::from(code)],
        Format::Mxfp4 => -E2M1[usize::from(code & 7)],
        Format::F32 | Format::F16 | Format::Bf16 => panic!("{format} has no codes"),
    }
}

/// A matrix in memory as a source, for tests, benchmarks and weights that are computed.
pub struct DenseSource<'a> {
    /// Row-major values, `[rows, cols]`.
    pub values: &'a [f32],
    /// Columns.
    pub cols: usize,
    /// The format to hold it in.
    pub format: Format,
}

impl MatrixSource for DenseSource<'_> {
    fn rows(&self) -> usize {
        self.values.len() / self.cols
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn format(&self) -> Format {
        self.format
    }
    fn read_f32(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.values[row * self.cols..][..self.cols]);
    }
}

/// `x` rounded to what `format` can hold, where the format has no codes.
pub(crate) fn round_to(format: Format, x: f32) -> f32 {
    match format {
        Format::F16 => f16::from_f32(x).to_f32(),
        Format::Bf16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_e4m3_byte_survives_a_round_trip() {
        for byte in (0..=255u8).filter(|b| b & 0x7f != 0x7f) {
            assert_eq!(f32_to_e4m3(e4m3_to_f32(byte)), byte);
        }
    }

    #[test]
    fn e4m3_rounds_to_nearest_even() {
        let all: Vec<(u8, f32)> = (0..0x7f).map(|b| (b, e4m3_to_f32(b))).collect();
        for pair in all.windows(2) {
            let ((low, a), (high, b)) = (pair[0], pair[1]);
            let even = if low % 2 == 0 { low } else { high };
            assert_eq!(f32_to_e4m3((a + b) / 2.0), even, "between {a} and {b}");
            assert_eq!(f32_to_e4m3(a + (b - a) * 0.49), low);
            assert_eq!(f32_to_e4m3(a + (b - a) * 0.51), high);
        }
        assert_eq!(f32_to_e4m3(1e9), 0x7e);
    }

    #[test]
    fn quantisation_error_is_within_half_a_step() {
        let x: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.03).collect();
        for (format, steps) in [(Format::Int8, 254.0), (Format::Int4, 16.0), (Format::Fp8, 28.0), (Format::Mxfp4, 6.0)]
        {
            let mut codes = vec![0; x.len()];
            let mut scales = vec![0.0; x.len().div_ceil(format.group())];
            let mut back = vec![0.0; x.len()];
            quantise_row(format, &x, &mut codes, &mut scales);
            dequantise_row(format, &codes, &scales, &mut back);
            for (a, b) in x.iter().zip(&back) {
                assert!((a - b).abs() <= 1.01 * 3.0 / steps, "{format}: {a} became {b}");
            }
        }
    }
}
