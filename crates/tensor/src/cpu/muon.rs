//! Muon (Jordan 2024): momentum made orthogonal, one tensor per worker.

use super::Device;
use super::backward::{RowsOf, columns_to_panel, product, transpose};
use super::isa::Level;
use super::matrix::PANEL;
use crate::buffer::Tensor;
use std::sync::Mutex;

/// Newton-Schulz steps.
const STEPS: usize = 5;
/// Their quintic's coefficients, which lift small singular values fastest.
const COEFFICIENTS: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub struct Muon {
    /// Learning rate: an update has about the size that AdamW's has at the same rate (Liu 2025).
    pub lr: f32,
    /// Decay of the momentum, Nesterov's form.
    pub momentum: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// What gradients are multiplied by first: clipping.
    pub gradient_scale: f32,
}

/// One tensor of f32 matrices, values in the order of panels ([`super::matrix::Matrix::values`]).
pub struct MuonTensor<'a> {
    /// Weights, updated.
    pub weights: &'a mut [f32],
    /// Gradients, cleared.
    pub gradients: &'a mut [f32],
    /// Momentum, updated.
    pub momentum: &'a mut [f32],
    /// Columns.
    pub cols: usize,
    /// The rows of each matrix in it: each is made orthogonal by itself.
    pub matrices: Vec<Vec<usize>>,
}

impl Device {
    /// Updates every tensor and clears its gradients.
    pub fn muon(&mut self, muon: Muon, tensors: Vec<MuonTensor<'_>>) {
        let level = self.level;
        let tensors: Vec<_> = tensors.into_iter().map(Mutex::new).collect();
        self.pool.for_each(tensors.len(), &|unit, _| {
            if let Ok(mut tensor) = tensors[unit].lock() {
                muon.update(level, &mut tensor);
            }
        });
    }
}

impl Muon {
    fn update(&self, level: Level, tensor: &mut MuonTensor<'_>) {
        let cols = tensor.cols;
        let panel = cols.next_multiple_of(Tensor::PAD) * PANEL;
        let at = |row: usize| row / PANEL * panel + row % PANEL;
        for rows in &tensor.matrices {
            let mut direction = vec![0f32; rows.len() * cols];
            for (&row, direction) in rows.iter().zip(direction.chunks_exact_mut(cols)) {
                let gradient = tensor.gradients[at(row)..].iter().step_by(PANEL);
                let momentum = tensor.momentum[at(row)..].iter_mut().step_by(PANEL);
                for ((d, m), g) in direction.iter_mut().zip(momentum).zip(gradient) {
                    let g = g * self.gradient_scale;
                    *m = self.momentum * *m + (1.0 - self.momentum) * g;
                    *d = (1.0 - self.momentum) * g + self.momentum * *m;
                }
            }
            let update = orthogonal(level, direction, rows.len(), cols);
            let scale = self.lr * 0.2 * (rows.len().max(cols) as f32).sqrt();
            let keep = 1.0 - self.lr * self.weight_decay;
            for (&row, update) in rows.iter().zip(update.chunks_exact(cols)) {
                let weights = tensor.weights[at(row)..].iter_mut().step_by(PANEL);
                weights.zip(update).for_each(|(w, u)| *w = *w * keep - scale * u);
            }
        }
        tensor.gradients.fill(0.0);
    }
}

/// The nearest matrix with orthogonal rows (or columns), about: singular values between 0.7 and 1.2.
fn orthogonal(level: Level, x: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
    let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-7) as f32;
    let tall = rows > cols;
    let (n, m) = if tall { (cols, rows) } else { (rows, cols) };
    let mut x = if tall { transposed(level, &x, cols) } else { x };
    x.iter_mut().for_each(|x| *x /= norm);
    let (a, b, c) = COEFFICIENTS;
    for _ in 0..STEPS {
        let gram = times(level, &x, m, n, &|p, panel| {
            let rows: Vec<&[f32]> = x.chunks_exact(m).skip(p * PANEL).take(PANEL).collect();
            transpose(level, &rows, 0..m, panel, PANEL);
        });
        let square = times_columns_of(level, &gram, &gram, n);
        let polynomial: Vec<f32> = gram.iter().zip(&square).map(|(g, s)| b * g + c * s).collect();
        let rest = times_columns_of(level, &polynomial, &x, m);
        x.iter_mut().zip(&rest).for_each(|(x, r)| *x = a * *x + r);
    }
    if tall { transposed(level, &x, m) } else { x }
}

/// The transpose of row-major `x` with `cols` columns.
fn transposed(level: Level, x: &[f32], cols: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = x.chunks_exact(cols).collect();
    let mut out = vec![0.0; x.len()];
    transpose(level, &rows, 0..cols, &mut out, rows.len());
    out
}

/// `x y`, row-major, `y` with `cols` columns.
fn times_columns_of(level: Level, x: &[f32], y: &[f32], cols: usize) -> Vec<f32> {
    let inner = y.len() / cols;
    times(level, x, inner, cols, &|p, panel| columns_to_panel(y.chunks_exact(cols), p * PANEL, panel))
}

/// `x` with `inner` columns times a matrix of `outputs` columns; `fill` writes 16 of them as a panel of zeros: `inner` lines of 16.
fn times(level: Level, x: &[f32], inner: usize, outputs: usize, fill: &dyn Fn(usize, &mut [f32])) -> Vec<f32> {
    let rows = x.len() / inner;
    let mut panel = vec![0f32; inner * PANEL];
    let mut lanes = vec![0f32; rows * PANEL];
    let mut out = vec![0f32; rows * outputs];
    for p in 0..outputs.div_ceil(PANEL) {
        let width = PANEL.min(outputs - p * PANEL);
        if width < PANEL {
            panel.fill(0.0);
        }
        fill(p, &mut panel);
        product::<false>(level, inner, RowsOf { data: x, stride: inner, rows }, &panel, &mut lanes, PANEL);
        for (out, lanes) in out.chunks_exact_mut(outputs).zip(lanes.chunks_exact(PANEL)) {
            out[p * PANEL..][..width].copy_from_slice(&lanes[..width]);
        }
    }
    out
}
