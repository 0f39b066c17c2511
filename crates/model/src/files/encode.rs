//! From a checkpoint's parameters to the bytes of another file, a row at a time.

use super::floats::{push_bf16, push_f16};
use super::matrix::tensor_format;
use super::tensors::Encoding;
use super::{FileError, check_finite};
use crate::parameters::ParameterRows;
use spec::WeightFormat;
use tensor::Format;
use tensor::format::quantise_row;

/// What to write values as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    F32,
    F16,
    Bf16,
    /// GGUF's blocks of scale and codes.
    Q8_0,
    /// The same for MXFP4.
    Mxfp4,
    /// Codes and scales apart.
    Codes(WeightFormat),
}

impl Target {
    /// Keeps the precision of plain floats; everything else becomes f32.
    pub(super) fn keeping(encoding: Option<Encoding>) -> Self {
        match encoding {
            Some(Encoding::F16) => Self::F16,
            Some(Encoding::Bf16) => Self::Bf16,
            _ => Self::F32,
        }
    }

    /// The encoding of what is written; of codes, theirs.
    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::F32 => Encoding::F32,
            Self::F16 => Encoding::F16,
            Self::Bf16 => Encoding::Bf16,
            Self::Q8_0 => Encoding::Q8_0,
            Self::Mxfp4 => Encoding::Mxfp4,
            Self::Codes(format) => super::placement::CodeLayout::of(format).code,
        }
    }
}

/// Encodes rows and keeps the buffers for it.
#[derive(Default)]
pub(super) struct Encoder {
    values: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Encoder {
    /// Reads a row and checks it.
    pub(super) fn read(&mut self, matrix: &dyn ParameterRows, row: usize) -> Result<&[f32], FileError> {
        self.values.resize(matrix.cols(), 0.0);
        matrix.read_f32(row, &mut self.values);
        check_finite(matrix.name(), row, &self.values)?;
        Ok(&self.values)
    }

    /// Appends a row to `out`; the scales of [`Target::Codes`] go to `scales`.
    pub(super) fn row(
        &mut self,
        matrix: &dyn ParameterRows,
        row: usize,
        target: Target,
        out: &mut Vec<u8>,
        scales: &mut Vec<u8>,
    ) -> Result<(), FileError> {
        let format = match target {
            Target::F32 | Target::F16 | Target::Bf16 => {
                self.read(matrix, row)?;
                return push_floats(matrix.name(), &self.values, target, out);
            }
            Target::Q8_0 => Format::Int8,
            Target::Mxfp4 => Format::Mxfp4,
            Target::Codes(format) => tensor_format(format),
        };
        self.quantise(matrix, row, format)?;
        match target {
            Target::Codes(format) => {
                push_codes(format, &self.codes, out);
                push_scales(format, &self.scales, scales);
            }
            _ => push_blocks(target, &self.codes, &self.scales, out),
        }
        Ok(())
    }

    /// Fills codes and scales: the source's own where it has them in this format, so that nothing is rounded twice.
    fn quantise(&mut self, matrix: &dyn ParameterRows, row: usize, format: Format) -> Result<(), FileError> {
        let cols = matrix.cols();
        self.codes.resize(cols, 0);
        self.scales.resize(cols.div_ceil(format.group()), 0.0);
        let same = matrix.format() == format;
        if !(same && matrix.read_codes(row, &mut self.codes, &mut self.scales)) {
            self.read(matrix, row)?;
            quantise_row(format, &self.values, &mut self.codes, &mut self.scales);
        }
        match self.scales.iter().position(|scale| !scale.is_finite()) {
            None => Ok(()),
            Some(group) => {
                let row = self.read(matrix, row)?;
                Err(FileError::OutOfRange {
                    name: matrix.name().to_owned(),
                    value: row[group * format.group()],
                    format: "the scales of int8 and int4",
                })
            }
        }
    }
}

/// Appends floats; one that the target cannot hold is an error.
pub(super) fn push_floats(name: &str, values: &[f32], target: Target, out: &mut Vec<u8>) -> Result<(), FileError> {
    let (largest, format) = match target {
        Target::F16 => (f32::from(half::f16::MAX), "f16"),
        Target::Bf16 => (f32::from(half::bf16::MAX), "bf16"),
        _ => (f32::MAX, "f32"),
    };
    if let Some(&value) = values.iter().find(|v| v.abs() > largest) {
        return Err(FileError::OutOfRange { name: name.to_owned(), value, format });
    }
    match target {
        Target::F16 => values.iter().for_each(|&v| push_f16(out, v)),
        Target::Bf16 => values.iter().for_each(|&v| push_bf16(out, v)),
        _ => values.iter().for_each(|v| out.extend(v.to_le_bytes())),
    }
    Ok(())
}

/// Codes as our safetensors hold them: bytes, or two to a byte with the even column low.
fn push_codes(format: WeightFormat, codes: &[u8], out: &mut Vec<u8>) {
    match format {
        WeightFormat::Int8 | WeightFormat::Fp8 => out.extend(codes),
        WeightFormat::Int4 | WeightFormat::Mxfp4 => {
            let pair = |pair: &[u8]| pair[0] | pair.get(1).map_or(0, |odd| odd << 4);
            out.extend(codes.chunks(2).map(pair));
        }
    }
}

fn push_scales(format: WeightFormat, scales: &[f32], out: &mut Vec<u8>) {
    for &scale in scales {
        match format {
            WeightFormat::Int8 | WeightFormat::Int4 => push_f16(out, scale),
            WeightFormat::Fp8 => out.extend(scale.to_le_bytes()),
            WeightFormat::Mxfp4 => out.push(e8m0_byte(scale)),
        }
    }
}

/// The exponent of a power of two.
fn e8m0_byte(scale: f32) -> u8 {
    (scale.to_bits() >> 23) as u8
}

/// GGUF's blocks of 32.
fn push_blocks(target: Target, codes: &[u8], scales: &[f32], out: &mut Vec<u8>) {
    for (codes, &scale) in codes.chunks_exact(32).zip(scales) {
        if target == Target::Q8_0 {
            push_f16(out, scale);
            out.extend(codes);
        } else {
            out.push(e8m0_byte(scale));
            let (low, high) = codes.split_at(16);
            out.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
        }
    }
}
