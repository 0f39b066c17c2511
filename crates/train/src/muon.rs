//! Muon: momentum, made orthogonal (Jordan 2024).

use model::training::{Held, TensorMut};
use spec::Role;
use tensor::{DenseSource, Device, Format, Matrix, Tensor};

/// Newton-Schulz steps.
const STEPS: usize = 5;
/// Their quintic's coefficients, which lift small singular values fastest.
const COEFFICIENTS: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);

/// Whether Muon updates a tensor: the matrices of layers, each parameter by itself.
pub(crate) fn is_muon(held: &Held) -> bool {
    held.is_matrix() && held.pieces.iter().all(|p| !matches!(p.id.role, Role::Embedding | Role::Head))
}

/// The numbers of one update.
pub(crate) struct Muon {
    pub momentum: f32,
    pub weight_decay: f32,
    pub gradient_scale: f32,
    pub lr: f32,
}

impl Muon {
    /// Updates the parameters of one tensor and their momentum, and clears the gradients.
    pub(crate) fn update(
        &self,
        device: &mut Device,
        held: &Held,
        mut weights: TensorMut<'_>,
        mut gradients: TensorMut<'_>,
        mut momentum: TensorMut<'_>,
    ) {
        let cols = held.shape[1];
        for piece in &held.pieces {
            let mut direction = vec![0f32; piece.rows * cols];
            let (mut gradient, mut moving) = (vec![0f32; cols], vec![0f32; cols]);
            for (row, direction) in direction.chunks_exact_mut(cols).enumerate() {
                let row = piece.held_row(row);
                gradients.read_row(row, &mut gradient);
                momentum.read_row(row, &mut moving);
                for ((d, m), g) in direction.iter_mut().zip(&mut moving).zip(&gradient) {
                    let g = g * self.gradient_scale;
                    *m = self.momentum * *m + (1.0 - self.momentum) * g;
                    *d = (1.0 - self.momentum) * g + self.momentum * *m;
                }
                momentum.write_row(row, &moving);
            }
            let update = orthogonal(device, direction, piece.rows, cols);
            let scale = self.lr * 0.2 * (piece.rows.max(cols) as f32).sqrt();
            let keep = 1.0 - self.lr * self.weight_decay;
            let mut weight = vec![0f32; cols];
            for (row, update) in update.chunks_exact(cols).enumerate() {
                let row = piece.held_row(row);
                weights.read_row(row, &mut weight);
                weight.iter_mut().zip(update).for_each(|(w, u)| *w = *w * keep - scale * u);
                weights.write_row(row, &weight);
            }
        }
        gradients.values_mut().fill(0.0);
    }
}

/// The nearest matrix with orthogonal rows (or columns), about: singular values between 0.7 and 1.2.
fn orthogonal(device: &mut Device, x: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
    let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-7) as f32;
    let tall = rows > cols;
    let (n, m) = if tall { (cols, rows) } else { (rows, cols) };
    let mut x = if tall { transposed(&x, rows, cols) } else { x };
    x.iter_mut().for_each(|x| *x /= norm);
    let (a, b, c) = COEFFICIENTS;
    for _ in 0..STEPS {
        let gram = product(device, &x, &x, m, n);
        let square = product(device, &gram, &gram, n, n);
        let polynomial: Vec<f32> = gram.iter().zip(&square).map(|(g, s)| b * g + c * s).collect();
        let turned = transposed(&x, n, m);
        let rest = product(device, &polynomial, &turned, n, m);
        x.iter_mut().zip(&rest).for_each(|(x, r)| *x = a * *x + r);
    }
    if tall { transposed(&x, n, m) } else { x }
}

fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (r, row) in x.chunks_exact(cols).enumerate() {
        row.iter().enumerate().for_each(|(c, v)| out[c * rows + r] = *v);
    }
    out
}

/// `x w^T` of row-major matrices with `inner` columns; `w` has `outputs` rows.
fn product(device: &mut Device, x: &[f32], w: &[f32], inner: usize, outputs: usize) -> Vec<f32> {
    let source = DenseSource { values: w, cols: inner, format: Format::F32 };
    // A matrix that is not finite has no use for the optimiser: the trainer stops at the gradient's norm before.
    let Ok(matrix) = Matrix::pack(device, &source, Format::F32) else {
        return vec![f32::NAN; x.len() / inner * outputs];
    };
    let rows: Vec<&[f32]> = x.chunks_exact(inner).collect();
    let x = Tensor::from_rows(inner, &rows);
    let mut y = Tensor::zeros(rows.len(), outputs);
    device.matmul(&matrix, &x, rows.len(), None, false, &mut y);
    (0..rows.len()).flat_map(|r| y.row(r).iter().copied()).collect()
}
