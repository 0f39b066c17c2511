//! Operations on rows: normalisation, rotary embedding, lookup, routing.

// Kernels over slices whose lengths are checked at their head; disjoint rows written in parallel.
#![allow(unsafe_code)]

use super::Device;
use super::attention::Chunk;
use super::backward::router::softmax;
use super::isa::{self, Isa, Kernel};
use super::kv::{KV_BLOCK, KvCache};
use super::matrix::Matrix;
use crate::buffer::Tensor;

/// Rows below which a row-wise operation stays on the calling thread.
const PARALLEL_ROWS: usize = 8;

/// `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019), sum of squares over eight lanes in the order of columns.
struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let mut lanes = [0f32; 8];
        let chunks = self.x.chunks_exact(8);
        let rest = chunks.remainder();
        // SAFETY: whole chunks of eight.
        unsafe {
            let mut sum = I::splat(0.0);
            for chunk in chunks {
                let x = I::load(chunk.as_ptr());
                sum = I::fma(x, x, sum);
            }
            I::store(lanes.as_mut_ptr(), sum);
        }
        let sum: f32 = lanes.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
        let scale = 1.0 / (sum / self.x.len() as f32 + self.eps).sqrt();
        for ((out, x), w) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = w * (x * scale);
        }
    }
}

/// Rotary embedding tables for the served context.
pub struct RopeTable {
    half: usize,
    /// `[positions, half]` pairs of cosine and sine.
    cos_sin: Vec<(f32, f32)>,
}

impl RopeTable {
    /// Cosines and sines of `position * frequency`, times `attention_factor`, for positions below `context`. Angles are f32 products, as in transformers.
    pub fn new(frequencies: &[f32], attention_factor: f32, context: usize) -> Self {
        let entry = |position: usize, frequency: f32| {
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            (cos as f32 * attention_factor, sin as f32 * attention_factor)
        };
        let cos_sin = (0..context).flat_map(|p| frequencies.iter().map(move |&f| entry(p, f))).collect();
        Self { half: frequencies.len(), cos_sin }
    }

    /// Rotates the halves of `head` against each other.
    fn rotate(&self, position: usize, head: &mut [f32]) {
        let table = &self.cos_sin[position * self.half..][..self.half];
        let (low, high) = head.split_at_mut(self.half);
        for ((a, b), &(cos, sin)) in low.iter_mut().zip(high).zip(table) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }

    /// Applies the transpose of [`RopeTable::rotate`]: what a gradient needs.
    pub(crate) fn rotate_back(&self, position: usize, head: &mut [f32]) {
        let table = &self.cos_sin[position * self.half..][..self.half];
        let (low, high) = head.split_at_mut(self.half);
        for ((a, b), &(cos, sin)) in low.iter_mut().zip(high).zip(table) {
            (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
        }
    }
}

/// What happens to queries and keys between projection and attention.
#[derive(Clone, Copy)]
pub struct QkTransform<'a> {
    /// Query heads.
    pub heads: usize,
    /// RMSNorm weights of each query head and each key head, and epsilon.
    pub norms: Option<(&'a [f32], &'a [f32], f32)>,
    /// Rotary embedding, if positions enter this way.
    pub rope: Option<&'a RopeTable>,
}

/// Which experts each row visits, best first, and with what weight.
#[derive(Default, Clone, Debug)]
pub struct Routing {
    /// Choices per row.
    pub top_k: usize,
    /// `[rows, top_k]` experts.
    pub experts: Vec<u32>,
    /// `[rows, top_k]` weights.
    pub weights: Vec<f32>,
}

impl Routing {
    /// Every row to expert 0 with weight one: a dense layer.
    pub fn all_to_one(&mut self, rows: usize) {
        self.top_k = 1;
        self.experts.clear();
        self.experts.resize(rows, 0);
        self.weights.clear();
        self.weights.resize(rows, 1.0);
    }
}

/// How router logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterKind {
    /// Softmax over all experts, the k largest, renormalised to one or not.
    SoftmaxTopK {
        /// Whether the k weights are divided by their sum.
        renormalise: bool,
    },
    /// The k largest logits, softmax over those.
    TopKSoftmax,
}

/// How a router chooses.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// How logits become weights.
    pub kind: RouterKind,
    /// Experts that each row visits.
    pub top_k: usize,
    /// Added to the probabilities over all experts to decide which are chosen, and to nothing else, `[experts]`; without it the largest
    /// logits are.
    pub bias: Option<&'a [f32]>,
}

impl Device {
    /// Runs `f(row)` for every row, in parallel if there are enough.
    pub(crate) fn for_rows(&mut self, rows: usize, f: &(dyn Fn(usize) + Sync)) {
        if rows < PARALLEL_ROWS {
            (0..rows).for_each(f);
        } else {
            self.pool.for_each(rows.div_ceil(4), &|unit, _| (unit * 4..rows.min(unit * 4 + 4)).for_each(f));
        }
    }

    /// RMSNorm of the first `rows` rows.
    pub fn rms_norm(&mut self, x: &Tensor, weight: &[f32], eps: f32, rows: usize, out: &mut Tensor) {
        assert!(x.cols() == weight.len() && out.cols() == x.cols() && rows <= x.rows());
        let level = self.level;
        let out = out.shared();
        self.for_rows(rows, &|r| {
            // SAFETY: one writer per row; the level was detected.
            unsafe { isa::run(level, RmsNorm { x: x.row(r), weight, eps, out: out.part(r, 0, weight.len()) }) };
        });
    }

    /// Rows `ids` of `table`.
    pub fn embed(&mut self, table: &Matrix, ids: &[u32], out: &mut Tensor) {
        assert!(out.cols() == table.cols() && ids.len() <= out.rows());
        let out = out.shared();
        self.for_rows(ids.len(), &|r| {
            // SAFETY: one writer per row.
            let out = unsafe { out.part(r, 0, table.cols()) };
            table.read_row(ids[r] as usize, out);
        });
    }

    /// `out[i] = x[rows[i]]`.
    pub fn gather(&mut self, x: &Tensor, rows: &[u32], out: &mut Tensor) {
        assert!(x.cols() == out.cols() && rows.len() <= out.rows());
        for (i, &row) in rows.iter().enumerate() {
            out.row_mut(i).copy_from_slice(x.row(row as usize));
        }
    }

    /// A copy.
    pub fn copy(&mut self, x: &Tensor) -> Tensor {
        self.copy_rows(x, 0..x.rows())
    }

    /// A copy of some rows.
    pub fn copy_rows(&mut self, x: &Tensor, rows: std::ops::Range<usize>) -> Tensor {
        let mut out = Tensor::stale(rows.len(), x.cols());
        let to = out.shared();
        self.for_rows(rows.len(), &|i| {
            // SAFETY: one writer per row.
            unsafe { to.part(i, 0, x.cols()) }.copy_from_slice(x.row(rows.start + i));
        });
        out
    }

    /// Writes all rows of `x` to `out`, from row `first` on.
    pub fn write_rows(&mut self, x: &Tensor, first: usize, out: &mut Tensor) {
        (0..x.rows()).for_each(|r| out.row_mut(first + r).copy_from_slice(x.row(r)));
    }

    /// Normalises and rotates queries and keys in place, and stores keys and values. `qkv` rows are `[queries | keys | values]`, heads of `head_dim` each.
    pub fn store_kv(
        &mut self,
        cache: &mut KvCache,
        layer: usize,
        transform: &QkTransform<'_>,
        chunks: &[Chunk<'_>],
        qkv: &mut Tensor,
    ) {
        let (head_dim, kv_heads) = (cache.head_dim, cache.kv_heads);
        let q_width = transform.heads * head_dim;
        assert_eq!(qkv.cols(), q_width + 2 * kv_heads * head_dim);
        // A unit is what one block of one sequence receives, so that each block has one writer.
        let units: Vec<(usize, usize, usize, u32)> = chunks
            .iter()
            .flat_map(|c| {
                let blocks = (c.position / KV_BLOCK)..(c.position + c.len).div_ceil(KV_BLOCK);
                blocks.filter(|_| c.len > 0).map(|b| {
                    let first = c.position.max(b * KV_BLOCK);
                    let end = (c.position + c.len).min((b + 1) * KV_BLOCK);
                    (c.row + first - c.position, first, end - first, c.block_table[b])
                })
            })
            .collect();
        let level = self.level;
        let writer = cache.writer();
        let rows = qkv.shared();
        let store = |unit: usize| {
            let (row, first, len, block) = units[unit];
            if first % KV_BLOCK == 0 {
                // SAFETY: this unit alone touches the block.
                unsafe { writer.clear(layer, block as usize) };
            }
            for i in 0..len {
                // SAFETY: a row belongs to one unit.
                let row = unsafe { rows.part(row + i, 0, q_width + 2 * kv_heads * head_dim) };
                let (qk, values) = row.split_at_mut(q_width + kv_heads * head_dim);
                for (h, head) in qk.chunks_exact_mut(head_dim).enumerate() {
                    if let Some((q_norm, k_norm, eps)) = transform.norms {
                        let x = head.to_vec();
                        let weight = if h < transform.heads { q_norm } else { k_norm };
                        // SAFETY: the level was detected.
                        unsafe { isa::run(level, RmsNorm { x: &x, weight, eps, out: head }) };
                    }
                    if let Some(rope) = transform.rope {
                        rope.rotate(first + i, head);
                    }
                }
                let keys = qk[q_width..].chunks_exact(head_dim);
                for (h, (k, v)) in keys.zip(values.chunks_exact(head_dim)).enumerate() {
                    // SAFETY: this unit alone touches the block.
                    unsafe { writer.write(layer, block as usize, h, (first + i) % KV_BLOCK, k, v) };
                }
            }
        };
        if units.len() < 4 {
            (0..units.len()).for_each(store);
        } else {
            self.pool.for_each(units.len(), &|unit, _| store(unit));
        }
    }

    /// Chooses among `experts` experts from router logits (`[rows, experts..]`), in f32; of equal ones the lower expert wins.
    pub fn route(&mut self, logits: &Tensor, experts: usize, rows: usize, choice: Choice<'_>, routing: &mut Routing) {
        let Choice { kind, top_k, bias } = choice;
        routing.top_k = top_k;
        routing.experts.clear();
        routing.weights.clear();
        let mut order: Vec<u32> = Vec::new();
        for r in 0..rows {
            let logits = &logits.row(r)[..experts];
            order.clear();
            order.extend(0..logits.len() as u32);
            let biased = bias.map(|bias| {
                let (mut scores, _) = softmax(logits);
                scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
                scores
            });
            let scores = biased.as_deref().unwrap_or(logits);
            order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
            let chosen = &order[..top_k];
            let max = chosen.iter().map(|&e| logits[e as usize]).fold(f32::NEG_INFINITY, f32::max);
            let exp = |e: u32| (logits[e as usize] - max).exp();
            let sum: f32 = match kind {
                RouterKind::SoftmaxTopK { renormalise: false } => (0..logits.len() as u32).map(exp).sum(),
                _ => chosen.iter().map(|&e| exp(e)).sum(),
            };
            routing.experts.extend(chosen);
            routing.weights.extend(chosen.iter().map(|&e| exp(e) / sum));
        }
    }
}
