//! Writing panels: rows of a source become lanes.

// The whole of it runs with the vector instructions of the level.
#![allow(unsafe_code)]

use super::isa::{self, Isa, Kernel, Level};
use super::matrix::{FP8_BIAS, FP8_GROUP, PANEL};
use crate::buffer::Tensor;
use crate::format::{Format, MatrixSource, max_abs, quantise_row, round_to};
use half::f16;

/// Packs one panel into `bytes` (zeros at first), or says which row holds a number that `format` cannot.
pub(super) fn pack_panel(
    level: Level,
    source: &dyn MatrixSource,
    format: Format,
    panel: usize,
    bytes: &mut [u8],
) -> Result<(), usize> {
    let mut result = Ok(());
    // SAFETY: the level was detected by the device.
    unsafe { isa::run(level, Pack { source, format, panel, bytes, result: &mut result }) };
    result
}

struct Pack<'a> {
    source: &'a dyn MatrixSource,
    format: Format,
    panel: usize,
    bytes: &'a mut [u8],
    result: &'a mut Result<(), usize>,
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let mut staging = Staging::new(self.format, self.source.cols());
        for lane in 0..PANEL {
            if let Err(row) = staging.stage(self.source, self.panel * PANEL + lane, lane) {
                *self.result = Err(row);
                return;
            }
        }
        staging.interleave(self.bytes);
    }
}

/// The rows of a panel as the words that its lanes will hold, row by row; interleaving them is then one pass over contiguous lines.
struct Staging {
    format: Format,
    values: Vec<f32>,
    codes: Vec<u8>,
    /// `PANEL` rows of words, `stride` apart.
    words: Vec<u32>,
    stride: usize,
    /// `PANEL` rows of scales.
    scales: Vec<f32>,
    groups: usize,
}

impl Staging {
    fn new(format: Format, cols: usize) -> Self {
        let padded = cols.next_multiple_of(Tensor::PAD);
        let count = match format {
            Format::F32 | Format::F16 => padded,
            Format::Bf16 => padded / 2,
            Format::Fp8 | Format::Int8 => padded / 4,
            Format::Int4 | Format::Mxfp4 => padded / 8,
        };
        let groups = if format.is_quantised() { padded.div_ceil(format.group()) } else { 0 };
        // Rows that begin a page apart would share a set of the cache: one more line keeps them apart.
        let stride = count + 16;
        Self {
            format,
            values: vec![0.0; cols],
            // Missing outputs and the padding of inputs are codes for zero.
            codes: vec![if format == Format::Int4 { 8 } else { 0 }; padded],
            words: vec![0; PANEL * stride],
            stride,
            scales: vec![0.0; PANEL * groups],
            groups,
        }
    }

    /// Reads a row of the source into a lane; rows past the end are zeros.
    #[inline(always)]
    fn stage(&mut self, source: &dyn MatrixSource, row: usize, lane: usize) -> Result<(), usize> {
        let exists = row < source.rows();
        let finite = if self.format.is_quantised() {
            self.read_codes(source, exists.then_some(row), lane)
        } else if exists {
            source.read_f32(row, &mut self.values);
            max_abs(&self.values) < overflow(self.format) && all_finite(&self.values)
        } else {
            self.values.fill(0.0);
            true
        };
        self.make_words(lane);
        if finite { Ok(()) } else { Err(row) }
    }

    /// Codes and scales of a row (`None`: of zeros); whether all are numbers.
    #[inline(always)]
    fn read_codes(&mut self, source: &dyn MatrixSource, row: Option<usize>, lane: usize) -> bool {
        let (format, cols) = (self.format, self.values.len());
        let codes = &mut self.codes[..cols];
        let scales = &mut self.scales[lane * self.groups..][..self.groups];
        let mut finite = true;
        match row {
            None => codes.fill(if format == Format::Int4 { 8 } else { 0 }),
            Some(row) => {
                let held = &mut scales[..cols.div_ceil(format.group())];
                if source.format() == format && source.read_codes(row, codes, held) {
                    finite = format != Format::Fp8 || codes.iter().all(|&code| code & 0x7f != 0x7f);
                } else {
                    source.read_f32(row, &mut self.values);
                    finite = all_finite(&self.values);
                    quantise_row(format, &self.values, codes, held);
                }
            }
        }
        scales.iter_mut().for_each(|s| *s = held_scale(format, *s));
        finite && scales.iter().all(|s| s.is_finite())
    }

    #[inline(always)]
    fn make_words(&mut self, lane: usize) {
        let words = &mut self.words[lane * self.stride..][..self.stride];
        let code_words = self.codes.as_chunks::<4>().0;
        match self.format {
            Format::F32 => words.iter_mut().zip(&self.values).for_each(|(w, v)| *w = v.to_bits()),
            Format::F16 => {
                words.iter_mut().zip(&self.values).for_each(|(w, v)| *w = u32::from(f16::from_f32(*v).to_bits()));
            }
            Format::Bf16 => {
                let (pairs, last) = self.values.as_chunks::<2>();
                words.iter_mut().zip(pairs).for_each(|(w, [even, odd])| *w = bf16_bits(*even) | bf16_bits(*odd) << 16);
                last.iter().for_each(|v| words[pairs.len()] = bf16_bits(*v));
            }
            Format::Fp8 => words.iter_mut().zip(code_words).for_each(|(w, c)| *w = u32::from_le_bytes(*c)),
            Format::Int8 => {
                words.iter_mut().zip(code_words).for_each(|(w, c)| *w = u32::from_le_bytes(*c) ^ 0x8080_8080);
            }
            Format::Int4 | Format::Mxfp4 => {
                for (words, codes) in words.chunks_exact_mut(4).zip(code_words.as_chunks::<8>().0) {
                    for i in 0..4 {
                        words[i] = u32::from_le_bytes(codes[i]) | u32::from_le_bytes(codes[i + 4]) << 4;
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn interleave(&self, bytes: &mut [u8]) {
        let f16_scale = |s: f32| f16::from_f32(s).to_le_bytes();
        let bf16_scale = |s: f32| (bf16_bits(s) as u16).to_le_bytes();
        match self.format {
            Format::F32 | Format::Bf16 => self.lines(0, bytes),
            Format::F16 => {
                for (k, line) in bytes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    for (lane, half) in line.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        *half = (self.words[lane * self.stride + k] as u16).to_le_bytes();
                    }
                }
            }
            Format::Fp8 => {
                for (group, block) in bytes.chunks_mut(64 + FP8_GROUP * PANEL).enumerate() {
                    let (scales, codes) = block.split_at_mut(64);
                    self.scale_line(group, scales, f32::to_le_bytes);
                    self.lines(group * FP8_GROUP / 4, codes);
                }
            }
            Format::Int8 => self.blocks(bytes, 8, f16_scale),
            Format::Int4 => self.blocks(bytes, 4, f16_scale),
            Format::Mxfp4 => self.blocks(bytes, 4, bf16_scale),
        }
    }

    /// Blocks of `words` lines, each followed by its scales.
    #[inline(always)]
    fn blocks(&self, bytes: &mut [u8], words: usize, scale: impl Fn(f32) -> [u8; 2]) {
        for (group, block) in bytes.chunks_exact_mut(words * 64 + 32).enumerate() {
            let (codes, scales) = block.split_at_mut(words * 64);
            self.lines(group * words, codes);
            self.scale_line(group, scales, &scale);
        }
    }

    /// Fills lines of 16 words, from word `first` of every lane on.
    #[inline(always)]
    fn lines(&self, first: usize, out: &mut [u8]) {
        for (i, line) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            for (lane, word) in line.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *word = self.words[lane * self.stride + first + i].to_le_bytes();
            }
        }
    }

    #[inline(always)]
    fn scale_line<const N: usize>(&self, group: usize, out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
        for (lane, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            *out = bytes(self.scales[lane * self.groups + group]);
        }
    }
}

/// Whether no value is NaN or infinite: such a value times zero is NaN, and eight sums run side by side.
#[inline(always)]
fn all_finite(values: &[f32]) -> bool {
    let mut sums = [0f32; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, v)| *sum += v * 0.0);
    }
    sums == [0.0; 8] && rest.iter().all(|v| v.is_finite())
}

/// The magnitude from which on rounding to `format` gives infinity.
fn overflow(format: Format) -> f32 {
    match format {
        Format::F16 => 65520.0,
        // Half a unit above the largest bfloat16.
        Format::Bf16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    }
}

/// A scale as the panel holds it.
fn held_scale(format: Format, scale: f32) -> f32 {
    match format {
        Format::Fp8 => scale * FP8_BIAS,
        // The kernel's table holds twice the e2m1 values.
        Format::Mxfp4 => round_to(Format::Bf16, scale / 2.0),
        _ => round_to(Format::F16, scale),
    }
}

/// The bits of a finite value rounded to bfloat16, ties to even.
#[inline(always)]
fn bf16_bits(v: f32) -> u32 {
    let bits = v.to_bits();
    (bits + 0x7fff + (bits >> 16 & 1)) >> 16
}
