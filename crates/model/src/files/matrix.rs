//! A weight matrix as it lies in a file, readable row by row.

use super::floats::{self, E2M1};
use super::gguf::quants;
use super::mapped::Bytes;
use super::placement::{CodeLayout, RowOrder};
use super::tensors::Encoding;
use crate::parameters::ParameterRows;
use spec::WeightFormat;
use tensor::format::e4m3_to_f32;
use tensor::{Format, MatrixSource};

/// A matrix `[outputs, inputs]` in a mapped file. Reads may happen from several threads at once.
pub struct StoredMatrix<'a> {
    pub(super) name: String,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) order: RowOrder,
    pub(super) data: Data<'a>,
}

/// The bytes, by how they are laid out. Sizes were checked when the matrix was made.
pub(super) enum Data<'a> {
    /// Row after row, each of whole blocks.
    Rows { bytes: Bytes<'a>, encoding: Encoding },
    /// `[inputs, outputs]`, floats.
    Columns { bytes: Bytes<'a>, encoding: Encoding, outputs: usize },
    /// Row after row of codes, and row after row of their scales.
    Codes { codes: Bytes<'a>, scales: Bytes<'a>, format: WeightFormat },
}

impl StoredMatrix<'_> {
    pub(super) fn read(&self, row: usize, out: &mut [f32]) {
        let row = self.order.stored(row);
        match &self.data {
            Data::Rows { bytes, encoding } => {
                read_blocks(*encoding, self.row(bytes, *encoding, row), out);
            }
            Data::Columns { bytes, encoding, outputs } => read_column(*encoding, bytes.slice(), row, *outputs, out),
            Data::Codes { codes, scales, format } => CodeRow::at(*format, codes, scales, row, self.cols).read(out),
        }
    }

    fn row<'a>(&self, bytes: &Bytes<'a>, encoding: Encoding, row: usize) -> &'a [u8] {
        let (values, block) = encoding.block();
        let length = self.cols / values * block;
        &bytes.slice()[row * length..][..length]
    }
}

impl ParameterRows for StoredMatrix<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    /// Whether [`MatrixSource::format`] holds the values without loss: all but the K-quants of GGUF.
    fn is_exact(&self) -> bool {
        let encoding = match &self.data {
            Data::Rows { encoding, .. } | Data::Columns { encoding, .. } => *encoding,
            Data::Codes { .. } => return true,
        };
        !matches!(encoding, Encoding::Q4K | Encoding::Q5K | Encoding::Q6K)
    }

    /// Drops the file's pages that reading has brought into memory. They come back when read again.
    fn release(&self) {
        match &self.data {
            Data::Rows { bytes, .. } | Data::Columns { bytes, .. } => bytes.release(),
            Data::Codes { codes, scales, .. } => {
                codes.release();
                scales.release();
            }
        }
    }
}

impl MatrixSource for StoredMatrix<'_> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn format(&self) -> Format {
        match &self.data {
            Data::Codes { format, .. } => tensor_format(*format),
            Data::Rows { encoding, .. } | Data::Columns { encoding, .. } => match encoding {
                Encoding::F32 => Format::F32,
                Encoding::F16 => Format::F16,
                Encoding::Bf16 => Format::Bf16,
                Encoding::Q4_0 => Format::Int4,
                Encoding::Mxfp4 => Format::Mxfp4,
                _ => Format::Int8,
            },
        }
    }

    fn read_f32(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}", self.name);
        self.read(row, out);
    }

    fn read_codes(&self, row: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
        assert!(row < self.rows && codes.len() == self.cols, "row {row} of {}", self.name);
        let row = self.order.stored(row);
        match &self.data {
            Data::Columns { .. } => false,
            Data::Rows { bytes, encoding } => {
                quants::read_codes(*encoding, self.row(bytes, *encoding, row), codes, scales)
            }
            Data::Codes { codes: stored, scales: stored_scales, format } => {
                CodeRow::at(*format, stored, stored_scales, row, self.cols).codes(codes, scales);
                true
            }
        }
    }
}

/// The computing format that our files' format is.
pub(super) fn tensor_format(format: WeightFormat) -> Format {
    match format {
        WeightFormat::Int8 => Format::Int8,
        WeightFormat::Fp8 => Format::Fp8,
        WeightFormat::Int4 => Format::Int4,
        WeightFormat::Mxfp4 => Format::Mxfp4,
    }
}

fn read_blocks(encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
    match encoding {
        Encoding::F32 => floats::f32s(bytes, out),
        Encoding::F16 => floats::f16s(bytes, out),
        Encoding::Bf16 => floats::bf16s(bytes, out),
        _ => quants::dequantise(encoding, bytes, out),
    }
}

/// Gathers one column of a `[inputs, outputs]` tensor of floats.
fn read_column(encoding: Encoding, bytes: &[u8], output: usize, outputs: usize, out: &mut [f32]) {
    let (_, size) = encoding.block();
    for (value, input) in out.iter_mut().zip(bytes.chunks_exact(outputs * size)) {
        let element = &input[output * size..][..size];
        read_blocks(encoding, element, std::slice::from_mut(value));
    }
}

/// One row of codes with separate scales.
struct CodeRow<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
    format: WeightFormat,
}

impl<'a> CodeRow<'a> {
    fn at(format: WeightFormat, codes: &Bytes<'a>, scales: &Bytes<'a>, row: usize, cols: usize) -> Self {
        let layout = CodeLayout::of(format);
        let code_bytes = layout.row_bytes(cols);
        let scale_bytes = cols.div_ceil(format.group_size()) * layout.scale.block().1;
        Self {
            codes: &codes.slice()[row * code_bytes..][..code_bytes],
            scales: &scales.slice()[row * scale_bytes..][..scale_bytes],
            format,
        }
    }

    fn scale(&self, group: usize) -> f32 {
        match self.format {
            WeightFormat::Int8 | WeightFormat::Int4 => floats::half_at(self.scales, group),
            WeightFormat::Fp8 => floats::single_at(self.scales, group),
            WeightFormat::Mxfp4 => floats::e8m0(self.scales[group]),
        }
    }

    /// Codes one a byte, in the order of the inputs.
    fn codes(&self, codes: &mut [u8], scales: &mut [f32]) {
        match self.format {
            WeightFormat::Int8 | WeightFormat::Fp8 => codes.copy_from_slice(self.codes),
            WeightFormat::Int4 | WeightFormat::Mxfp4 => {
                for (pair, byte) in codes.chunks_mut(2).zip(self.codes) {
                    pair[0] = byte & 15;
                    if let Some(odd) = pair.get_mut(1) {
                        *odd = byte >> 4;
                    }
                }
            }
        }
        for (group, scale) in scales.iter_mut().enumerate() {
            *scale = self.scale(group);
        }
    }

    fn read(&self, out: &mut [f32]) {
        let group_size = self.format.group_size();
        for (group, out) in out.chunks_mut(group_size).enumerate() {
            let scale = self.scale(group);
            let first = group * group_size;
            let nibble = |i: usize| self.codes[(first + i) / 2] >> (4 * (i % 2)) & 15;
            for (i, value) in out.iter_mut().enumerate() {
                *value = scale
                    * match self.format {
                        WeightFormat::Int8 => f32::from(self.codes[first + i] as i8),
                        WeightFormat::Fp8 => e4m3_to_f32(self.codes[first + i]),
                        WeightFormat::Int4 => f32::from(nibble(i)) - 8.0,
                        WeightFormat::Mxfp4 => E2M1[usize::from(nibble(i))],
                    };
            }
        }
    }
}
