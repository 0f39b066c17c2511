//! Gradients of `y = x W^T + b`: `dx = dy W`, `dW = dy^T x`, `db = sum of dy`.

// Units write disjoint parts of outputs.
#![allow(unsafe_code)]

use super::{RowsOf, columns_to_panel, product, transpose};
use crate::buffer::Tensor;
use crate::cpu::Device;
use crate::cpu::matmul::Rows;
use crate::cpu::matrix::{Matrix, PANEL};
use crate::format::Format;
use std::sync::Mutex;

/// Tokens whose products are summed while their rows stay in the second cache level.
const TOKEN_BLOCK: usize = 512;
/// Inputs (rows of a gradient panel) that a unit works on.
const INPUT_BLOCK: usize = 120;

/// Working memory of weight gradients.
#[derive(Default)]
pub(crate) struct WeightScratch {
    /// Inputs, transposed: `[inputs, tokens]`.
    x: Vec<f32>,
    /// Output gradients as panels: `[outputs / 16, tokens, 16]`.
    dy: Vec<f32>,
}

impl Matrix {
    /// A matrix of f32 zeros, as gradients and optimiser state are kept.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self::cleared(rows, cols, Format::F32)
    }

    /// All elements in the order of panels, padding included.
    ///
    /// # Panics
    /// If the matrix is not held in f32.
    pub fn values(&self) -> &[f32] {
        assert_eq!(self.format(), Format::F32);
        let bytes = self.data();
        // SAFETY: the buffer is aligned to cache lines and holds whole f32; every bit pattern is one.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) }
    }

    /// The same, to change. Padding must stay zero.
    ///
    /// # Panics
    /// If the matrix is not held in f32.
    pub fn values_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.format(), Format::F32);
        let bytes = self.data_mut();
        // SAFETY: as above, and unique.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / 4) }
    }

    /// Writes row `row` of an f32 matrix.
    ///
    /// # Panics
    /// If the matrix is not held in f32.
    pub fn write_row(&mut self, row: usize, values: &[f32]) {
        assert!(row < self.rows() && values.len() == self.cols());
        let stride = self.cols().next_multiple_of(Tensor::PAD) * PANEL;
        let panel = &mut self.values_mut()[row / PANEL * stride..][..stride];
        panel[row % PANEL..].iter_mut().step_by(PANEL).zip(values).for_each(|(o, v)| *o = *v);
    }
}

impl Device {
    /// The transpose of an f32 matrix, packed: what an input gradient multiplies by.
    pub(crate) fn transposed(&mut self, matrix: &Matrix) -> Matrix {
        let mut out = self.spare_matrix(matrix.cols(), matrix.rows());
        let (k, n) = (matrix.cols().next_multiple_of(Tensor::PAD), matrix.rows().next_multiple_of(Tensor::PAD));
        let (source, level) = (matrix.values(), self.level);
        let panels: Vec<_> = out.values_mut().chunks_exact_mut(n * PANEL).map(Mutex::new).collect();
        self.pool.for_each(panels.len(), &|p, _| {
            let Ok(mut panel) = panels[p].lock() else { return };
            // Blocks of 16 outputs by 16 inputs, contiguous on both sides.
            for (from, to) in source.chunks_exact(k * PANEL).zip(panel.chunks_exact_mut(PANEL * PANEL)) {
                let from: [&[f32]; PANEL] = std::array::from_fn(|j| &from[(p * PANEL + j) * PANEL..][..PANEL]);
                transpose(level, &from, 0..PANEL, to, PANEL);
            }
        });
        drop(panels);
        out
    }

    /// `dx = dy W` for the first `rows` rows, added to `dx` if `accumulate`.
    pub fn matmul_backward_input(
        &mut self,
        matrix: &Matrix,
        dy: &Tensor,
        rows: usize,
        accumulate: bool,
        dx: &mut Tensor,
    ) {
        let transposed = self.transposed(matrix);
        self.matmul(&transposed, dy, rows, None, accumulate, dx);
        self.keep_spare(transposed);
    }

    /// `dW += dy^T x` over the first `rows` rows.
    pub fn matmul_backward_weight(&mut self, x: &Tensor, dy: &Tensor, rows: usize, dw: &mut Matrix) {
        self.weight_gradient(x, Rows::Range(0, rows), dy, 0, dw);
    }

    /// `db += sum of dy` over the first `rows` rows.
    pub fn bias_backward(&mut self, dy: &Tensor, rows: usize, db: &mut [f32]) {
        (0..rows).for_each(|r| db.iter_mut().zip(dy.row(r)).for_each(|(b, d)| *b += d));
    }

    /// `dW += sum over i of dy[first + i]^T x[rows(i)]`.
    pub(crate) fn weight_gradient(&mut self, x: &Tensor, rows: Rows<'_>, dy: &Tensor, first: usize, dw: &mut Matrix) {
        let tokens = rows.len();
        if tokens == 0 {
            return;
        }
        let (inputs, outputs) = (dw.cols(), dw.rows());
        assert!(x.cols() == inputs && dy.cols() >= outputs && first + tokens <= dy.rows());
        self.arithmetic.product(tokens, dw);
        let stride = tokens.next_multiple_of(PANEL) + PANEL;
        let panels = outputs.div_ceil(PANEL);
        let mut scratch = std::mem::take(&mut self.weight_scratch);
        let (x_len, dy_len) = (inputs * stride, panels * tokens * PANEL);
        // Only ever grown, so that networks of different sizes in turn do not clear it each time.
        scratch.x.resize(x_len.max(scratch.x.len()), 0.0);
        scratch.dy.resize(dy_len.max(scratch.dy.len()), 0.0);
        let level = self.level;
        let x_rows: Vec<&[f32]> = (0..tokens).map(|i| x.row(rows.get(i))).collect();
        let dy_rows: Vec<&[f32]> = (0..tokens).map(|i| &dy.row(first + i)[..outputs]).collect();
        let input_blocks: Vec<_> = scratch.x[..x_len].chunks_mut(64 * stride).map(Mutex::new).collect();
        let dy_panels: Vec<_> = scratch.dy[..dy_len].chunks_mut(tokens * PANEL).map(Mutex::new).collect();
        self.pool.for_each(input_blocks.len() + panels, &|unit, _| match unit.checked_sub(panels) {
            None => {
                if let Ok(mut panel) = dy_panels[unit].lock() {
                    columns_to_panel(dy_rows.iter().copied(), unit * PANEL, &mut panel);
                }
            }
            Some(block) => {
                if let Ok(mut out) = input_blocks[block].lock() {
                    transpose(level, &x_rows, block * 64..inputs.min(block * 64 + 64), &mut out, stride);
                }
            }
        });
        drop((input_blocks, dy_panels));
        let padded = inputs.next_multiple_of(Tensor::PAD) * PANEL;
        let blocks = inputs.div_ceil(INPUT_BLOCK);
        let targets: Vec<_> = dw
            .values_mut()
            .chunks_exact_mut(padded)
            .flat_map(|panel| panel[..inputs * PANEL].chunks_mut(INPUT_BLOCK * PANEL))
            .map(Mutex::new)
            .collect();
        self.pool.for_each(targets.len(), &|unit, _| {
            let Ok(mut target) = targets[unit].lock() else { return };
            let (panel, block) = (unit / blocks, unit % blocks);
            let dy = &scratch.dy[panel * tokens * PANEL..][..tokens * PANEL];
            let x = &scratch.x[block * INPUT_BLOCK * stride..];
            for t in (0..tokens).step_by(TOKEN_BLOCK) {
                let k = TOKEN_BLOCK.min(tokens - t);
                let x = RowsOf { data: &x[t..], stride, rows: target.len() / PANEL };
                product::<true>(level, k, x, &dy[t * PANEL..], &mut target, PANEL);
            }
        });
        drop(targets);
        self.weight_scratch = scratch;
    }

    /// A matrix to overwrite: the one kept from before if it fits.
    fn spare_matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        match self.spare.take() {
            Some(spare) if (spare.rows(), spare.cols()) == (rows, cols) => spare,
            _ => Matrix::zeros(rows, cols),
        }
    }

    pub(crate) fn keep_spare(&mut self, matrix: Matrix) {
        self.spare = Some(matrix);
    }
}
