//! Writing panels: rows of a source become lanes.

// The whole of it runs with the vector instructions of the level.
#![allow(unsafe_code)]

use super::isa::{self, Isa, Kernel, Level};
use super::matrix::{FP8_BIAS, PANEL};
use crate::buffer::Tensor;
use crate::format::{Format, MatrixSource, quantise_row, round_to};
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
        for lane in 0..PANEL {
            if let Err(row) = pack_row(self.source, self.format, self.panel * PANEL + lane, lane, self.bytes) {
                *self.result = Err(row);
                return;
            }
        }
    }
}

#[inline(always)]
fn pack_row(source: &dyn MatrixSource, format: Format, row: usize, lane: usize, bytes: &mut [u8]) -> Result<(), usize> {
    let (rows, cols) = (source.rows(), source.cols());
    let check = |finite: bool| if finite { Ok(()) } else { Err(row) };
    if !format.is_quantised() {
        // Missing outputs are the zeros of a new buffer.
        if row < rows {
            let mut values = vec![0f32; cols];
            source.read_f32(row, &mut values);
            check(
                all_finite(&values)
                    && (format == Format::F32 || values.iter().all(|&v| round_to(format, v).is_finite())),
            )?;
            write_floats(format, bytes, lane, &values);
        }
        return Ok(());
    }
    // Missing outputs and the padding of inputs are codes for zero.
    let mut codes = vec![if format == Format::Int4 { 8 } else { 0 }; cols.next_multiple_of(Tensor::PAD)];
    let mut scales = vec![0f32; codes.len().div_ceil(format.group())];
    let groups = cols.div_ceil(format.group());
    if row < rows {
        let stored = source.format() == format && source.read_codes(row, &mut codes[..cols], &mut scales[..groups]);
        if stored {
            check(codes.iter().all(|&code| format != Format::Fp8 || code & 0x7f != 0x7f))?;
        } else {
            let mut values = vec![0f32; cols];
            source.read_f32(row, &mut values);
            check(all_finite(&values))?;
            quantise_row(format, &values, &mut codes[..cols], &mut scales[..groups]);
        }
    }
    check(scales.iter().all(|&s| held_scale(format, s).is_finite()))?;
    write_codes(format, bytes, lane, &codes, &scales);
    Ok(())
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

/// A scale as the panel holds it.
fn held_scale(format: Format, scale: f32) -> f32 {
    match format {
        Format::Fp8 => scale * FP8_BIAS,
        // The kernel's table holds twice the e2m1 values.
        Format::Mxfp4 => round_to(Format::Bf16, scale / 2.0),
        _ => round_to(Format::F16, scale),
    }
}

#[inline(always)]
fn write_floats(format: Format, bytes: &mut [u8], lane: usize, values: &[f32]) {
    match format {
        Format::F32 => {
            let words = bytes.as_chunks_mut::<4>().0.iter_mut().skip(lane).step_by(PANEL);
            words.zip(values).for_each(|(word, v)| *word = v.to_le_bytes());
        }
        Format::F16 => {
            let halves = bytes.as_chunks_mut::<2>().0.iter_mut().skip(lane).step_by(PANEL);
            halves.zip(values).for_each(|(half, v)| *half = f16::from_f32(*v).to_le_bytes());
        }
        _ => {
            let words = bytes.as_chunks_mut::<4>().0.iter_mut().skip(lane).step_by(PANEL);
            for (word, pair) in words.zip(values.chunks(2)) {
                let odd = pair.get(1).map_or(0, |&v| bf16_bits(v));
                *word = (bf16_bits(pair[0]) | odd << 16).to_le_bytes();
            }
        }
    }
}

/// The bits of a finite value rounded to bfloat16, ties to even.
#[inline(always)]
fn bf16_bits(v: f32) -> u32 {
    let bits = v.to_bits();
    (bits + 0x7fff + (bits >> 16 & 1)) >> 16
}

/// Writes one lane's codes (padded) and scales.
#[inline(always)]
fn write_codes(format: Format, bytes: &mut [u8], lane: usize, codes: &[u8], scales: &[f32]) {
    let mut rest = bytes;
    for (codes, &scale) in codes.chunks(format.group()).zip(scales) {
        let scale = held_scale(format, scale);
        let words = codes.as_chunks::<4>().0;
        match format {
            Format::Fp8 => {
                let (block, next) = rest.split_at_mut(64 + codes.len() * PANEL);
                let lanes = block.as_chunks_mut::<4>().0;
                lanes[lane] = scale.to_le_bytes();
                lanes[PANEL + lane..].iter_mut().step_by(PANEL).zip(words).for_each(|(out, word)| *out = *word);
                rest = next;
            }
            Format::Int8 => {
                let (block, next) = rest.split_at_mut(544);
                let lanes = block.as_chunks_mut::<4>().0;
                for (out, word) in lanes[lane..].iter_mut().step_by(PANEL).zip(words) {
                    *out = (u32::from_le_bytes(*word) ^ 0x8080_8080).to_le_bytes();
                }
                block[512 + 2 * lane..][..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                rest = next;
            }
            _ => {
                let (block, next) = rest.split_at_mut(288);
                let lanes = block.as_chunks_mut::<4>().0;
                for (i, out) in lanes[lane..].iter_mut().step_by(PANEL).take(4).enumerate() {
                    *out = (u32::from_le_bytes(words[i]) | u32::from_le_bytes(words[i + 4]) << 4).to_le_bytes();
                }
                let int4 = format == Format::Int4;
                let bits = if int4 { f16::from_f32(scale).to_bits() } else { bf16_bits(scale) as u16 };
                block[256 + 2 * lane..][..2].copy_from_slice(&bits.to_le_bytes());
                rest = next;
            }
        }
    }
}
