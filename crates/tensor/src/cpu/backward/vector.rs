//! Loops over slices that several gradients share.

// Vector loads and stores over slices that were just cut, in loops over indices: a closure would not be compiled with the instruction set.
#![allow(unsafe_code, clippy::needless_range_loop)]

use crate::cpu::isa::{self, Isa, Kernel, Level, exp};
use std::ops::Range;

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
    cols: Range<usize>,
    out: &'a mut [f32],
    stride: usize,
}

impl Kernel for Transpose<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { rows, cols, out, stride } = self;
        let whole = cols.start..cols.start + cols.len() / LANES * LANES;
        // Sixteen rows at a time: their elements of one column share a cache line of the output.
        for (block, group) in rows.chunks(2 * LANES).enumerate() {
            for c in whole.clone().step_by(LANES) {
                let line = (c - cols.start) * stride;
                for (half, rows) in group.chunks(LANES).enumerate() {
                    let to = block * 2 * LANES + half * LANES;
                    if rows.len() < LANES {
                        scalar(rows, c..c + LANES, &mut out[line..], stride, to);
                        continue;
                    }
                    // SAFETY: slices of eight elements.
                    unsafe {
                        let mut turned = [I::splat(0.0); LANES];
                        for i in 0..LANES {
                            turned[i] = I::load(rows[i][c..c + LANES].as_ptr());
                        }
                        turned = I::transpose(turned);
                        for i in 0..LANES {
                            I::store(out[line + i * stride + to..][..LANES].as_mut_ptr(), turned[i]);
                        }
                    }
                }
            }
            scalar(group, whole.end..cols.end, &mut out[whole.len() * stride..], stride, block * 2 * LANES);
        }
    }
}

/// Columns `cols` of `rows` to places `to..` of the rows of `out`.
fn scalar(rows: &[&[f32]], cols: Range<usize>, out: &mut [f32], stride: usize, to: usize) {
    for (i, c) in cols.enumerate() {
        let line = &mut out[i * stride + to..][..rows.len()];
        line.iter_mut().zip(rows).for_each(|(o, row)| *o = row[c]);
    }
}

/// Writes the transpose of columns `cols` of `rows`: row c of `out`, `stride` apart, holds element `cols.start + c` of each.
pub(crate) fn transpose(level: Level, rows: &[&[f32]], cols: Range<usize>, out: &mut [f32], stride: usize) {
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
                transpose(level, &slices, 0..cols, &mut out, stride);
                let mut last = vec![-1.0; stride];
                transpose(level, &slices, cols - 1..cols, &mut last, stride);
                assert_eq!(last, out[(cols - 1) * stride..]);
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
