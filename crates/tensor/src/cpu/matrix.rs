//! Weight matrices, packed once for the kernels that read them.
//!
//! A matrix `[outputs, inputs]` is cut into panels of 16 outputs. Within a panel the inputs run in order and the lanes of a
//! vector are outputs, so a product needs no sum across lanes and accumulates each output in the order of k, whatever the number
//! of rows. Inputs are padded with zeros to [`Tensor::PAD`], outputs to 16.
//!
//! | format | one step of a panel | bytes |
//! |---|---|---|
//! | f32, f16 | one input: 16 values | 64, 32 |
//! | bf16 | two inputs: 16 words, the even input in the low half | 64 |
//! | fp8 | per 128 inputs 16 f32 scales (times 2^120, see `tile`), then per four inputs 16 words | 64 + 64 each |
//! | int8 | 32 inputs: 8 x (16 words of four inputs, offset by 128), then 16 f16 scales | 544 |
//! | int4, mxfp4 | 32 inputs: 4 x (16 words, low nibbles inputs 4i.., high nibbles 16 + 4i..), 16 f16 (mxfp4: bf16) scales | 288 |

use super::Device;
use super::pack::pack_panel;
use crate::buffer::{Buffer, Tensor};
use crate::format::{Format, MatrixSource, dequantise_row, quantise_row};
use half::{bf16, f16};
use std::sync::Mutex;

/// Outputs of a panel.
pub const PANEL: usize = 16;
/// Inputs of one integer block.
pub(crate) const BLOCK: usize = 32;
pub(super) const FP8_GROUP: usize = 128;
/// 2^120, which turns an e4m3 pattern moved into the exponent of an f32 into its value.
pub(super) const FP8_BIAS: f32 = f32::from_bits((127 + 120) << 23);

/// A packed weight matrix.
pub struct Matrix {
    pub(crate) format: Format,
    rows: usize,
    cols: usize,
    pub(crate) panel_bytes: usize,
    data: Buffer<u8>,
}

/// Why a matrix could not be packed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PackError {
    /// A weight is NaN, infinite, or larger than the format can hold.
    #[error("row {row} holds a weight that is not a finite number in this format")]
    NotFinite {
        /// The first such row met.
        row: usize,
    },
}

/// Bytes that a packed `[rows, cols]` matrix takes.
pub fn packed_bytes(format: Format, rows: usize, cols: usize) -> usize {
    rows.div_ceil(PANEL) * panel_bytes(format, cols.next_multiple_of(Tensor::PAD))
}

/// Bytes of one panel of `k` (padded) inputs.
pub(crate) fn panel_bytes(format: Format, k: usize) -> usize {
    match format {
        Format::F32 => k * 64,
        Format::F16 | Format::Bf16 => k * 32,
        Format::Fp8 => k * 16 + k.div_ceil(FP8_GROUP) * 64,
        Format::Int8 => k / BLOCK * 544,
        Format::Int4 | Format::Mxfp4 => k / BLOCK * 288,
    }
}

/// Rows of `first` and `second` in turn, 16 at a time, each padded with zeros to a multiple of 16: the gate and up
/// projections as one matrix whose panels 2i and 2i + 1 belong together.
pub struct Interleaved<'a> {
    /// Gives the even panels.
    pub first: &'a dyn MatrixSource,
    /// Gives the odd panels.
    pub second: &'a dyn MatrixSource,
}

impl Interleaved<'_> {
    fn find(&self, row: usize) -> Option<(&dyn MatrixSource, usize)> {
        let (panel, lane) = (row / PANEL, row % PANEL);
        let source = if panel.is_multiple_of(2) { self.first } else { self.second };
        let row = panel / 2 * PANEL + lane;
        (row < source.rows()).then_some((source, row))
    }
}

impl MatrixSource for Interleaved<'_> {
    fn rows(&self) -> usize {
        2 * self.first.rows().next_multiple_of(PANEL)
    }
    fn cols(&self) -> usize {
        self.first.cols()
    }
    fn format(&self) -> Format {
        self.first.format()
    }
    fn read_f32(&self, row: usize, out: &mut [f32]) {
        match self.find(row) {
            Some((source, row)) => source.read_f32(row, out),
            None => out.fill(0.0),
        }
    }
    fn read_codes(&self, row: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
        match self.find(row) {
            Some((source, row)) => self.second.format() == self.first.format() && source.read_codes(row, codes, scales),
            None => {
                quantise_row(self.format(), &vec![0.0; self.cols()], codes, scales);
                true
            }
        }
    }
}

/// Rows of several matrices of the same width, one after the other.
pub struct Stacked<'a>(pub &'a [&'a dyn MatrixSource]);

impl Stacked<'_> {
    fn find(&self, mut row: usize) -> (&dyn MatrixSource, usize) {
        for source in self.0 {
            if row < source.rows() {
                return (*source, row);
            }
            row -= source.rows();
        }
        panic!("row past the end of stacked matrices")
    }
}

impl MatrixSource for Stacked<'_> {
    fn rows(&self) -> usize {
        self.0.iter().map(|s| s.rows()).sum()
    }
    fn cols(&self) -> usize {
        self.0[0].cols()
    }
    fn format(&self) -> Format {
        self.0[0].format()
    }
    fn read_f32(&self, row: usize, out: &mut [f32]) {
        let (source, row) = self.find(row);
        source.read_f32(row, out);
    }
    fn read_codes(&self, row: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
        let (source, row) = self.find(row);
        source.format() == self.format() && source.read_codes(row, codes, scales)
    }
}

impl Matrix {
    /// Packs `source` in `format`, panels in parallel; each row is read once.
    ///
    /// # Errors
    /// [`PackError::NotFinite`] naming a row with a NaN, an infinity or a number too large for `format`.
    pub fn pack(device: &mut Device, source: &dyn MatrixSource, format: Format) -> Result<Self, PackError> {
        let (rows, cols) = (source.rows(), source.cols());
        let panel_bytes = panel_bytes(format, cols.next_multiple_of(Tensor::PAD));
        let panels = rows.div_ceil(PANEL);
        let mut data = Buffer::zeros(panels * panel_bytes);
        let bad = Mutex::new(None::<usize>);
        let chunks: Vec<_> = data.chunks_mut(panel_bytes.max(1)).map(Mutex::new).collect();
        let level = device.level;
        device.pool.for_each(panels, &|panel, _| {
            let Ok(mut bytes) = chunks[panel].lock() else {
                return;
            };
            if let Err(row) = pack_panel(level, source, format, panel, &mut bytes)
                && let Ok(mut bad) = bad.lock()
            {
                *bad = Some(bad.map_or(row, |b| b.min(row)));
            }
        });
        drop(chunks);
        match bad.into_inner() {
            Ok(Some(row)) => Err(PackError::NotFinite { row }),
            _ => Ok(Self { format, rows, cols, panel_bytes, data }),
        }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the elements are held.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    pub(crate) fn panel(&self, panel: usize) -> &[u8] {
        &self.data[panel * self.panel_bytes..][..self.panel_bytes]
    }

    /// A matrix of zero bytes: zeros, in every format whose zero is all bits clear.
    pub(crate) fn cleared(rows: usize, cols: usize, format: Format) -> Self {
        let panel_bytes = panel_bytes(format, cols.next_multiple_of(Tensor::PAD));
        Self { format, rows, cols, panel_bytes, data: Buffer::zeros(rows.div_ceil(PANEL) * panel_bytes) }
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Writes row `row`, dequantised, to `out` (`cols` long): an embedding's lookup, and what tests compare with.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let panel = self.panel(row / PANEL);
        let lane = row % PANEL;
        let word = |at: usize| u32::from_le_bytes([panel[at], panel[at + 1], panel[at + 2], panel[at + 3]]);
        let half_word = |at: usize| u16::from_le_bytes([panel[at], panel[at + 1]]);
        match self.format {
            Format::F32 => out.iter_mut().enumerate().for_each(|(k, o)| *o = f32::from_bits(word(k * 64 + lane * 4))),
            Format::F16 => {
                out.iter_mut()
                    .enumerate()
                    .for_each(|(k, o)| *o = f16::from_bits(half_word(k * 32 + lane * 2)).to_f32());
            }
            Format::Bf16 => out
                .iter_mut()
                .enumerate()
                .for_each(|(k, o)| *o = bf16::from_bits(half_word(k / 2 * 64 + lane * 4 + k % 2 * 2)).to_f32()),
            format => {
                let group = format.group();
                let mut codes = [0u8; FP8_GROUP];
                for (g, out) in out.chunks_mut(group).enumerate() {
                    let scale = read_group(format, panel, lane, g, &mut codes[..out.len()]);
                    let n = out.len();
                    dequantise_row(format, &codes[..n], &[scale], out);
                }
            }
        }
    }
}

/// Reads the codes of group `g` of one lane and returns its scale; `codes` may be shorter than the group at the end.
fn read_group(format: Format, panel: &[u8], lane: usize, g: usize, codes: &mut [u8]) -> f32 {
    let half_word = |at: usize| u16::from_le_bytes([panel[at], panel[at + 1]]);
    match format {
        Format::Fp8 => {
            let at = g * (64 + FP8_GROUP * 16);
            codes.iter_mut().enumerate().for_each(|(k, c)| *c = panel[at + 64 + k / 4 * 64 + lane * 4 + k % 4]);
            let bits = [0, 1, 2, 3].map(|i| panel[at + lane * 4 + i]);
            f32::from_le_bytes(bits) / FP8_BIAS
        }
        Format::Int8 => {
            let at = g * 544;
            codes.iter_mut().enumerate().for_each(|(k, c)| *c = panel[at + k / 4 * 64 + lane * 4 + k % 4] ^ 0x80);
            f16::from_bits(half_word(at + 512 + lane * 2)).to_f32()
        }
        _ => {
            let at = g * 288;
            for (k, c) in codes.iter_mut().enumerate() {
                let byte = panel[at + k % 16 / 4 * 64 + lane * 4 + k % 4];
                *c = if k < 16 { byte & 15 } else { byte >> 4 };
            }
            let bits = half_word(at + 256 + lane * 2);
            if format == Format::Int4 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() * 2.0 }
        }
    }
}
