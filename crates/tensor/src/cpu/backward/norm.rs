//! Gradients of RMSNorm, of rotary embedding, and of the embedding's lookup.

// Rows and columns are written by one worker each.
#![allow(unsafe_code)]

use crate::buffer::Tensor;
use crate::cpu::Device;
use crate::cpu::matrix::{Matrix, PANEL};
use std::sync::Mutex;

/// Columns of a norm's weight gradient that a unit sums.
const COLUMNS: usize = 64;

/// Sum of products, eight running sums side by side.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// The same of three.
fn dot_of_three(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let ((a, a_rest), (b, b_rest), (c, c_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>(), c.as_chunks::<8>());
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        lanes.iter_mut().zip(a).zip(b.iter().zip(c)).for_each(|((sum, a), (b, c))| *sum += a * b * c);
    }
    let rest = a_rest.iter().zip(b_rest).zip(c_rest).map(|((a, b), c)| a * b * c);
    lanes.iter().sum::<f32>() + rest.sum::<f32>()
}

/// `1 / sqrt(mean(x^2) + eps)`.
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// Adds the gradient with respect to `x` of `y = weight * x / rms(x)` to `dx`.
pub(crate) fn rms_norm_backward_row(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    let r = inverse_rms(x, eps);
    let weighted = dot_of_three(x, weight, dy);
    let pull = r * r * r / x.len() as f32 * weighted;
    for (((dx, x), w), d) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
        *dx += r * w * d - pull * x;
    }
}

impl Device {
    /// Adds to `dx` the input gradient of [`Device::rms_norm`] at `x`, given that of its output.
    pub fn rms_norm_backward_input(
        &mut self,
        x: &Tensor,
        weight: &[f32],
        eps: f32,
        dy: &Tensor,
        rows: usize,
        dx: &mut Tensor,
    ) {
        let dx = dx.shared();
        self.for_rows(rows, &|r| {
            // SAFETY: one writer per row.
            let dx = unsafe { dx.part(r, 0, weight.len()) };
            rms_norm_backward_row(x.row(r), weight, eps, dy.row(r), dx);
        });
    }

    /// Adds to `dw` the weight gradient of [`Device::rms_norm`].
    pub fn rms_norm_backward_weight(&mut self, x: &Tensor, eps: f32, dy: &Tensor, rows: usize, dw: &mut [f32]) {
        let mut scales = vec![0f32; rows];
        let of_rows: Vec<_> = scales.iter_mut().map(Mutex::new).collect();
        self.for_rows(rows, &|r| {
            if let Ok(mut scale) = of_rows[r].lock() {
                **scale = inverse_rms(x.row(r), eps);
            }
        });
        drop(of_rows);
        // Each column's tokens in order, on one worker.
        let columns: Vec<_> = dw.chunks_mut(COLUMNS).map(Mutex::new).collect();
        self.pool.for_each(columns.len(), &|unit, _| {
            let Ok(mut dw) = columns[unit].lock() else { return };
            let range = unit * COLUMNS..unit * COLUMNS + dw.len();
            for (r, scale) in scales.iter().enumerate() {
                for ((dw, x), d) in dw.iter_mut().zip(&x.row(r)[range.clone()]).zip(&dy.row(r)[range.clone()]) {
                    *dw += d * x * scale;
                }
            }
        });
    }

    /// Adds the gradients of looked-up rows to the rows of `dtable`, tokens in order.
    pub fn embed_backward(&mut self, ids: &[u32], dy: &Tensor, dtable: &mut Matrix) {
        let padded = dtable.cols().next_multiple_of(Tensor::PAD) * PANEL;
        let panels: Vec<_> = dtable.values_mut().chunks_exact_mut(padded).map(Mutex::new).collect();
        // Tokens of one panel belong to one worker.
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|&t| ids[t as usize] as usize / PANEL);
        let groups: Vec<&[u32]> =
            order.chunk_by(|&a, &b| ids[a as usize] as usize / PANEL == ids[b as usize] as usize / PANEL).collect();
        self.pool.for_each(groups.len(), &|unit, _| {
            let group = groups[unit];
            let Ok(mut panel) = panels[ids[group[0] as usize] as usize / PANEL].lock() else { return };
            for &t in group {
                let lane = ids[t as usize] as usize % PANEL;
                panel[lane..].iter_mut().step_by(PANEL).zip(dy.row(t as usize)).for_each(|(o, d)| *o += d);
            }
        });
    }
}
