//! Loops over slices that several gradients share.

// Vector loads and stores over slices that were just cut.
#![allow(unsafe_code)]

use crate::cpu::isa::{self, Isa, Kernel, Level, exp};

/// Vector lanes.
const LANES: usize = 8;

struct Exp<'a> {
    row: &'a mut [f32],
    less: f32,
}

impl Kernel for Exp<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let (chunks, rest) = self.row.as_chunks_mut::<LANES>();
        let mut padded = [0f32; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        for chunk in chunks.iter_mut().chain([&mut padded]) {
            // SAFETY: whole chunks.
            unsafe {
                let x = I::sub(I::load(chunk.as_ptr()), I::splat(self.less));
                I::store(chunk.as_mut_ptr(), exp::<I>(x));
            }
        }
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

/// `x = e^(x - less)`.
pub(crate) fn exp_less(level: Level, row: &mut [f32], less: f32) {
    // SAFETY: the level was detected by the device.
    unsafe { isa::run(level, Exp { row, less }) };
}

/// The sum, eight running sums side by side.
pub(crate) fn lane_sum(row: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

struct Transpose<'a> {
    rows: &'a [&'a [f32]],
    cols: usize,
    out: &'a mut [f32],
    stride: usize,
}

impl Kernel for Transpose<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { rows, cols, out, stride } = self;
        let whole = cols / LANES * LANES;
        // Sixteen rows at a time: their elements of one column share a cache line of the output.
        for (block, group) in rows.chunks(2 * LANES).enumerate() {
            for c in (0..whole).step_by(LANES) {
                for (half, rows) in group.chunks(LANES).enumerate() {
                    let to = block * 2 * LANES + half * LANES;
                    let Ok(rows) = <&[&[f32]; LANES]>::try_from(rows) else {
                        scalar(rows, c..c + LANES, out, stride, to);
                        continue;
                    };
                    // SAFETY: slices of eight elements.
                    unsafe {
                        let turned = I::transpose(rows.map(|row| I::load(row[c..c + LANES].as_ptr())));
                        for (i, lanes) in turned.into_iter().enumerate() {
                            I::store(out[(c + i) * stride + to..][..LANES].as_mut_ptr(), lanes);
                        }
                    }
                }
            }
            scalar(group, whole..cols, out, stride, block * 2 * LANES);
        }
    }
}

/// Columns `cols` of `rows` to places `to..` of rows of `out`.
fn scalar(rows: &[&[f32]], cols: std::ops::Range<usize>, out: &mut [f32], stride: usize, to: usize) {
    for c in cols {
        let line = &mut out[c * stride + to..][..rows.len()];
        line.iter_mut().zip(rows).for_each(|(o, row)| *o = row[c]);
    }
}

/// Writes the transpose of `rows` (each at least `cols` long): row c of `out`, `stride` apart, holds element c of each.
pub(crate) fn transpose(level: Level, rows: &[&[f32]], cols: usize, out: &mut [f32], stride: usize) {
    // SAFETY: the level was detected by the device.
    unsafe { isa::run(level, Transpose { rows, cols, out, stride }) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transpose_has_every_element_once() {
        for (rows, cols) in [(1, 1), (7, 9), (8, 8), (16, 16), (19, 37), (33, 24)] {
            let data: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
            let slices: Vec<&[f32]> = data.chunks(cols).collect();
            for level in [Level::detect(), Level::Portable] {
                let stride = rows + 3;
                let mut out = vec![-1.0; cols * stride];
                transpose(level, &slices, cols, &mut out, stride);
                for (c, line) in out.chunks(stride).enumerate() {
                    assert!((0..rows).all(|r| line[r] == data[r * cols + c]) && line[rows..] == [-1.0; 3]);
                }
            }
        }
    }

    #[test]
    fn exponentials_do_not_depend_on_the_place_in_a_row() {
        let x: Vec<f32> = (0..29).map(|i| i as f32 * 0.37 - 5.0).collect();
        for level in [Level::detect(), Level::Portable] {
            let mut all = x.clone();
            exp_less(level, &mut all, 1.5);
            for (i, x) in x.iter().enumerate() {
                let mut alone = [*x];
                exp_less(level, &mut alone, 1.5);
                assert!(alone[0] == all[i] && (all[i] / (x - 1.5).exp() - 1.0).abs() < 1e-6);
            }
        }
    }
}
