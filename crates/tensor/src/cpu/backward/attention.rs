//! The gradient of attention, probabilities computed again from queries and keys (Dao 2022, without a cache in blocks).

// One writer per sequence and K/V head.
#![allow(unsafe_code)]

use super::norm::rms_norm_backward_row;
use super::vector::{exp_less, lane_sum};
use super::{RowsOf, columns_to_panel, product, transpose};
use crate::buffer::{SharedRows, Tensor};
use crate::cpu::Device;
use crate::cpu::arithmetic::BACKWARD_PRODUCTS;
use crate::cpu::attention::{AttentionSpec, Chunk};
use crate::cpu::isa::Level;
use crate::cpu::matrix::PANEL;
use crate::cpu::ops::QkTransform;
use std::sync::Mutex;

/// Queries whose scores are held at a time.
const QUERY_BLOCK: usize = 32;

/// One sequence (positions from 0, all in this step) and one K/V head.
struct Head<'a> {
    level: Level,
    spec: &'a AttentionSpec<'a>,
    qkv: &'a Tensor,
    dout: &'a Tensor,
    row: usize,
    len: usize,
    kv_heads: usize,
    kv_head: usize,
    head_dim: usize,
}

/// Keys or values of a sequence in both orders that products read.
struct Operand {
    /// Lanes are positions, inputs the head's dimensions: `[positions / 16, head_dim, 16]`.
    by_position: Vec<f32>,
    /// Lanes are dimensions, inputs the positions: `[head_dim / 16, positions, 16]`.
    by_dimension: Vec<f32>,
}

impl Head<'_> {
    fn slice<'t>(&self, tensor: &'t Tensor, t: usize, column: usize) -> &'t [f32] {
        &tensor.row(self.row + t)[column..column + self.head_dim]
    }

    fn key_column(&self) -> usize {
        (self.spec.heads + self.kv_head) * self.head_dim
    }

    fn value_column(&self) -> usize {
        (self.spec.heads + self.kv_heads + self.kv_head) * self.head_dim
    }

    fn operand(&self, column: usize) -> Operand {
        let (len, dim) = (self.len, self.head_dim);
        let positions = len.next_multiple_of(PANEL);
        let row = |t: usize| self.slice(self.qkv, t, column);
        let mut by_position = vec![0.0; positions * dim];
        for (p, panel) in by_position.chunks_exact_mut(dim * PANEL).enumerate() {
            let rows: Vec<_> = (p * PANEL..len.min((p + 1) * PANEL)).map(row).collect();
            transpose(self.level, &rows, 0..dim, panel, PANEL);
        }
        let mut by_dimension = vec![0.0; dim.next_multiple_of(PANEL) * len];
        for (d, panel) in by_dimension.chunks_exact_mut(len * PANEL).enumerate() {
            columns_to_panel((0..len).map(row), d * PANEL, panel);
        }
        Operand { by_position, by_dimension }
    }

    /// First and one past the last position that query `t` sees.
    fn visible(&self, t: usize) -> (usize, usize) {
        (self.spec.window.map_or(0, |w| (t + 1).saturating_sub(w)), t + 1)
    }

    /// Turns scores (unscaled) into probabilities; what the sink takes is returned.
    fn softmax(&self, t: usize, head: usize, row: &mut [f32]) -> f32 {
        let (from, to) = self.visible(t);
        row[..from].fill(0.0);
        row[to..].fill(0.0);
        let slope = self.spec.alibi_slopes.map_or(0.0, |s| s[head]);
        let sink = self.spec.sinks.map_or(f32::NEG_INFINITY, |s| s[head]);
        let mut max = sink;
        for (j, s) in row[from..to].iter_mut().enumerate() {
            *s = *s * self.spec.scale + slope * ((from + j) as f32 - t as f32);
            max = max.max(*s);
        }
        exp_less(self.level, &mut row[from..to], max);
        let sum = (sink - max).exp() + lane_sum(&row[from..to]);
        row[from..to].iter_mut().for_each(|p| *p /= sum);
        (sink - max).exp() / sum
    }

    /// Writes the gradients of this head's queries, keys and values; adds those of its sinks to `dsinks`.
    fn run(&self, dqkv: SharedRows<'_>, dsinks: &mut [f32]) {
        let (len, dim, level) = (self.len, self.head_dim, self.level);
        let wide = len.next_multiple_of(PANEL);
        let keys = self.operand(self.key_column());
        let values = self.operand(self.value_column());
        let lanes = dim.next_multiple_of(PANEL);
        let (mut dk, mut dv) = (vec![0f32; len * lanes], vec![0f32; len * lanes]);
        let mut p = vec![0f32; QUERY_BLOCK * wide];
        let mut ds = vec![0f32; QUERY_BLOCK * wide];
        let mut turned = vec![0f32; wide * QUERY_BLOCK];
        let mut dq = vec![0f32; QUERY_BLOCK * lanes];
        let mut panel = vec![0f32; QUERY_BLOCK * PANEL];
        let per_kv = self.spec.heads / self.kv_heads;
        let first_head = self.kv_head * per_kv;
        for (number, dsink) in dsinks[first_head..first_head + per_kv].iter_mut().enumerate() {
            let head = first_head + number;
            let column = head * dim;
            for first in (0..len).step_by(QUERY_BLOCK) {
                let rows = QUERY_BLOCK.min(len - first);
                // Positions beyond the last query of the block are masked for all of it.
                let seen = (first + rows).next_multiple_of(PANEL);
                let block = |tensor: &Tensor| {
                    let mut out = Vec::with_capacity(rows * dim);
                    (first..first + rows).for_each(|t| out.extend_from_slice(self.slice(tensor, t, column)));
                    out
                };
                let (q, dout) = (block(self.qkv), block(self.dout));
                let of = |data| RowsOf { data, stride: dim, rows };
                for j in (0..seen).step_by(PANEL) {
                    product::<false>(level, dim, of(&q), &keys.by_position[j * dim..], &mut p[j..], wide);
                    product::<false>(level, dim, of(&dout), &values.by_position[j * dim..], &mut ds[j..], wide);
                }
                for r in 0..rows {
                    let (p, ds) = (&mut p[r * wide..][..seen], &mut ds[r * wide..][..seen]);
                    let sink = self.softmax(first + r, head, p);
                    let pull: f32 = p.iter().zip(ds.iter()).map(|(p, d)| p * d).sum();
                    ds.iter_mut().zip(p.iter()).for_each(|(d, p)| *d = p * (*d - pull) * self.spec.scale);
                    if self.spec.sinks.is_some() {
                        *dsink -= sink * pull;
                    }
                }
                dq.fill(0.0);
                let ds_rows = RowsOf { data: &ds, stride: wide, rows };
                for d in (0..lanes).step_by(PANEL) {
                    product::<false>(level, seen.min(len), ds_rows, &keys.by_dimension[d * len..], &mut dq[d..], lanes);
                }
                for r in 0..rows {
                    // SAFETY: queries of this head belong to this unit.
                    let out = unsafe { dqkv.part(self.row + first + r, column, dim) };
                    out.copy_from_slice(&dq[r * lanes..][..dim]);
                }
                for (weights, other, out) in [(&ds, &q, &mut dk), (&p, &dout, &mut dv)] {
                    let weights: Vec<_> = weights.chunks(wide).take(rows).collect();
                    transpose(level, &weights, 0..seen.min(len), &mut turned, QUERY_BLOCK);
                    let turned = RowsOf { data: &turned, stride: QUERY_BLOCK, rows: seen.min(len) };
                    for d in (0..lanes).step_by(PANEL) {
                        columns_to_panel(other.chunks_exact(dim), d, &mut panel);
                        product::<true>(level, rows, turned, &panel, &mut out[d..], lanes);
                    }
                }
            }
        }
        for t in 0..len {
            // SAFETY: keys and values of this K/V head belong to this unit.
            unsafe { dqkv.part(self.row + t, self.key_column(), dim) }.copy_from_slice(&dk[t * lanes..][..dim]);
            // SAFETY: as above.
            unsafe { dqkv.part(self.row + t, self.value_column(), dim) }.copy_from_slice(&dv[t * lanes..][..dim]);
        }
    }
}

impl Device {
    /// The gradient of [`Device::attention`] over whole sequences (every chunk at position 0): writes that of the rotated queries, keys and
    /// values, `dqkv` and `qkv` laid out `[queries | keys | values]`, and adds that of the sinks to `dsinks` (`[heads]`).
    #[allow(clippy::too_many_arguments)]
    pub fn attention_backward(
        &mut self,
        kv_heads: usize,
        head_dim: usize,
        spec: &AttentionSpec<'_>,
        chunks: &[Chunk<'_>],
        qkv: &Tensor,
        dout: &Tensor,
        dqkv: &mut Tensor,
        dsinks: &mut [f32],
    ) {
        assert!(chunks.iter().all(|c| c.position == 0), "gradients run over whole sequences");
        self.arithmetic.attend(BACKWARD_PRODUCTS, chunks, spec.window, spec.heads * head_dim);
        let level = self.level;
        let units: Vec<_> = chunks.iter().flat_map(|c| (0..kv_heads).map(move |h| (*c, h))).collect();
        let sums: Vec<_> = units.iter().map(|_| Mutex::new(vec![0f32; spec.heads])).collect();
        let out = dqkv.shared();
        self.pool.for_each(units.len(), &|unit, _| {
            let (Chunk { row, len, .. }, kv_head) = units[unit];
            let head = Head { level, spec, qkv, dout, row, len, kv_heads, kv_head, head_dim };
            if let Ok(mut sums) = sums[unit].lock() {
                head.run(out, &mut sums);
            }
        });
        if spec.sinks.is_some() {
            for sum in sums.into_iter().filter_map(|s| s.into_inner().ok()) {
                dsinks.iter_mut().zip(sum).for_each(|(d, s)| *d += s);
            }
        }
    }

    /// Takes the gradient of rotated and normalised queries and keys back to what the projection gave, in place. `raw` are queries and keys before
    /// [`Device::store_kv`] changed them (read only where there are norms); the norms' weight gradients are added to `dnorms`.
    pub fn qk_backward(
        &mut self,
        head_dim: usize,
        transform: &QkTransform<'_>,
        chunks: &[Chunk<'_>],
        raw: &Tensor,
        dqkv: &mut Tensor,
        mut dnorms: Option<(&mut [f32], &mut [f32])>,
    ) {
        let kv_heads = (dqkv.cols() / head_dim - transform.heads) / 2;
        let width = (transform.heads + kv_heads) * head_dim;
        if dnorms.is_none() {
            let Some(rope) = transform.rope else { return };
            let out = dqkv.shared();
            for chunk in chunks {
                self.for_rows(chunk.len, &|t| {
                    // SAFETY: one writer per row.
                    let row = unsafe { out.part(chunk.row + t, 0, width) };
                    row.chunks_exact_mut(head_dim).for_each(|d| rope.rotate_back(chunk.position + t, d));
                });
            }
            return;
        }
        // The norms' gradients are sums over tokens, in their order.
        for chunk in chunks {
            for t in 0..chunk.len {
                let row = chunk.row + t;
                for (h, d) in dqkv.row_mut(row)[..width].chunks_exact_mut(head_dim).enumerate() {
                    if let Some(rope) = transform.rope {
                        rope.rotate_back(chunk.position + t, d);
                    }
                    let (Some((q, k, eps)), Some((dq, dk))) = (transform.norms, dnorms.as_mut()) else { continue };
                    let x = &raw.row(row)[h * head_dim..][..head_dim];
                    let (weight, dweight) = if h < transform.heads { (q, &mut **dq) } else { (k, &mut **dk) };
                    let dy = d.to_vec();
                    let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() / head_dim as f32 + eps).sqrt();
                    dweight.iter_mut().zip(x).zip(&dy).for_each(|((w, x), d)| *w += d * x * scale);
                    d.fill(0.0);
                    rms_norm_backward_row(x, weight, eps, &dy, d);
                }
            }
        }
    }
}
