//! Attention over the block cache: exact, tiled, with an online softmax (Milakov 2018; FlashAttention, Dao 2022).
//!
//! The rows of a tile are (token, head) pairs that share a K/V head: in Multi-Query Attention all heads of several tokens. Each row passes over
//! blocks of 32 absolute positions in order, reads K and V as stored, the current chunk's too, and skips blocks it cannot see, so that its
//! arithmetic depends neither on its neighbours nor on how the prompt was cut.

// Tiles over raw pointers into scratch and cache.
#![allow(unsafe_code)]

use super::isa::{self, Isa, Kernel, Level, exp};
use super::kv::{BlockView, KV_BLOCK, KvCache, KvFormat, padded_dims};
use super::matmul::for_each_tile;
use super::matrix::PANEL;
use super::tile::{self, Ahead, FloatTile, FloatWeights};
use super::{Device, Scratch};
use crate::buffer::{SharedRows, Tensor};
use std::marker::PhantomData;

/// Rows that pass over the cache together.
const GROUP_ROWS: usize = 48;
/// Rows of a tile.
const TILE_ROWS: usize = 6;

/// The shape and the extras of an attention layer.
#[derive(Clone, Copy)]
pub struct AttentionSpec<'a> {
    /// Query heads.
    pub heads: usize,
    /// What scores are multiplied by; commonly `head_dim^-0.5`.
    pub scale: f32,
    /// A query at p sees p - window + 1 ..= p.
    pub window: Option<usize>,
    /// One logit per head that joins the softmax and attends to nothing.
    pub sinks: Option<&'a [f32]>,
    /// One slope per head: scores get `-slope * distance` (ALiBi).
    pub alibi_slopes: Option<&'a [f32]>,
}

/// The tokens of one sequence in a step: consecutive rows and positions.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// First row of the step's tensors.
    pub row: usize,
    /// Tokens.
    pub len: usize,
    /// Position of the first token.
    pub position: usize,
    /// Blocks of the sequence, by position / [`KV_BLOCK`].
    pub block_table: &'a [u32],
}

/// Some rows of one sequence and one K/V head.
struct Group<'a> {
    cache: &'a KvCache,
    layer: usize,
    spec: &'a AttentionSpec<'a>,
    chunk: Chunk<'a>,
    kv_head: usize,
    /// First row of the group among the `len * heads_per_kv` rows of the chunk.
    first: usize,
    rows: usize,
}

/// Running state of one row.
#[derive(Clone, Copy)]
struct RowState {
    /// Largest score so far.
    max: f32,
    /// Eight partial sums of `e^(score - max)`.
    sums: [f32; 8],
}

/// What one row sees of one block, and the row's state.
struct SoftmaxRow<'a> {
    scores: &'a mut [f32],
    /// First and last visible offsets.
    visible: (usize, usize),
    slope: f32,
    /// Position of the block's first key minus the query's.
    distance: f32,
    scales: &'a [u8],
    state: &'a mut RowState,
    out: &'a mut [f32],
}

/// A block of -inf, one of zeros, one of -inf: windows onto it mask the offsets before and after what is visible.
static MASK: [f32; 3 * KV_BLOCK] = {
    let mut mask = [f32::NEG_INFINITY; 3 * KV_BLOCK];
    let mut i = KV_BLOCK;
    while i < 2 * KV_BLOCK {
        mask[i] = 0.0;
        i += 1;
    }
    mask
};

impl Kernel for SoftmaxRow<'_> {
    /// Turns scores into `e^(score - max)` times V's scales, and rescales what was accumulated if the maximum grew.
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        const VECTORS: usize = KV_BLOCK / 8;
        assert!(self.scores.len() == KV_BLOCK && self.out.len().is_multiple_of(8));
        let (first, last) = self.visible;
        assert!(first < KV_BLOCK && last < KV_BLOCK);
        // SAFETY: the slices were just checked; `MASK` has three blocks and windows of one start at most at the last; scales, where there are any, are two blocks of f32.
        unsafe {
            let scores = self.scores.as_mut_ptr();
            let k_scales = (!self.scales.is_empty()).then(|| self.scales.as_ptr().cast::<f32>());
            let mut s: [I::F; VECTORS] = std::array::from_fn(|i| I::load(scores.add(8 * i)));
            let mut largest = I::splat(f32::NEG_INFINITY);
            for (i, s) in s.iter_mut().enumerate() {
                if let Some(scales) = k_scales {
                    *s = I::mul(*s, I::load(scales.add(8 * i)));
                }
                if self.slope != 0.0 {
                    let lanes: [f32; 8] = std::array::from_fn(|lane| self.distance + (8 * i + lane) as f32);
                    *s = I::fma(I::load(lanes.as_ptr()), I::splat(self.slope), *s);
                }
                let before = I::load(MASK.as_ptr().add(KV_BLOCK - first + 8 * i));
                let after = I::load(MASK.as_ptr().add(2 * KV_BLOCK - 1 - last + 8 * i));
                *s = I::add(*s, I::add(before, after));
                largest = I::max(*s, largest);
            }
            let mut lanes = [0f32; 8];
            I::store(lanes.as_mut_ptr(), largest);
            let state = self.state;
            let max = lanes.iter().fold(state.max, |m, &x| if x > m { x } else { m });
            if max > state.max {
                let shrink = exp::<I>(I::splat(state.max - max));
                state.max = max;
                let sums = state.sums.as_mut_ptr();
                I::store(sums, I::mul(I::load(sums), shrink));
                let out = self.out.as_mut_ptr();
                for i in 0..self.out.len() / 8 {
                    I::store(out.add(8 * i), I::mul(I::load(out.add(8 * i)), shrink));
                }
            }
            let sums = state.sums.as_mut_ptr();
            let mut total = I::load(sums);
            for (i, s) in s.iter().enumerate() {
                let p = exp::<I>(I::sub(*s, I::splat(max)));
                total = I::add(total, p);
                let p = match k_scales {
                    Some(scales) => I::mul(p, I::load(scales.add(KV_BLOCK + 8 * i))),
                    None => p,
                };
                I::store(scores.add(8 * i), p);
            }
            I::store(sums, total);
        }
    }
}

impl Group<'_> {
    fn heads_per_kv(&self) -> usize {
        self.spec.heads / self.cache.kv_heads
    }

    /// Token of the chunk and query head of row `r`.
    fn token_and_head(&self, r: usize) -> (usize, usize) {
        let per_kv = self.heads_per_kv();
        let row = self.first + r;
        (row / per_kv, self.kv_head * per_kv + row % per_kv)
    }

    fn position(&self, r: usize) -> usize {
        self.chunk.position + self.token_and_head(r).0
    }

    /// The first position that row `r` sees.
    fn first_visible(&self, r: usize) -> usize {
        self.spec.window.map_or(0, |w| (self.position(r) + 1).saturating_sub(w))
    }

    fn run<W: FloatWeights>(&self, level: Level, scratch: &mut Scratch, q: &Tensor, out: SharedRows<'_>) {
        let head_dim = self.cache.head_dim;
        let dims = padded_dims(head_dim);
        let memory = scratch.floats(2 * self.rows * dims + TILE_ROWS * KV_BLOCK);
        let (queries, rest) = memory.split_at_mut(self.rows * dims);
        let (acc, scores) = rest.split_at_mut(self.rows * dims);
        acc.fill(0.0);
        for (r, query) in queries.chunks_exact_mut(dims).enumerate() {
            let (token, head) = self.token_and_head(r);
            let source = &q.row(self.chunk.row + token)[head * head_dim..][..head_dim];
            query[head_dim..].fill(0.0);
            query.iter_mut().zip(source).for_each(|(o, x)| *o = x * self.spec.scale);
        }
        let mut states = [RowState { max: f32::NEG_INFINITY, sums: [0.0; 8] }; GROUP_ROWS];
        let last = self.position(self.rows - 1) / KV_BLOCK;
        let view = |block: usize| self.cache.block(self.layer, self.chunk.block_table[block] as usize, self.kv_head);
        for block in self.first_visible(0) / KV_BLOCK..=last {
            let (view, next) = (view(block), view(last.min(block + 1)));
            for_each_tile(self.rows, TILE_ROWS, |r, size| {
                // The first rows that read a block ask for the next one.
                let ahead = if r == 0 { next.k.as_ptr().addr().wrapping_sub(view.k.as_ptr().addr()) } else { 0 };
                let tile = Tile { group: self, level, block, view: &view, ahead, r, queries, dims };
                let (states, acc) = (&mut states[r..r + size], &mut acc[r * dims..(r + size) * dims]);
                match size {
                    1 => tile.run::<W, 1>(scores, states, acc),
                    2 => tile.run::<W, 2>(scores, states, acc),
                    3 => tile.run::<W, 3>(scores, states, acc),
                    4 => tile.run::<W, 4>(scores, states, acc),
                    5 => tile.run::<W, 5>(scores, states, acc),
                    _ => tile.run::<W, 6>(scores, states, acc),
                }
            });
        }
        for (r, acc) in acc.chunks_exact(dims).enumerate() {
            let (token, head) = self.token_and_head(r);
            // SAFETY: every (token, head) belongs to one group.
            let out = unsafe { out.part(self.chunk.row + token, head * head_dim, head_dim) };
            let factor = self.normaliser(&states[r], head);
            out.iter_mut().zip(acc).for_each(|(o, a)| *o = a * factor);
        }
    }

    /// One over the softmax's denominator, the sink included.
    fn normaliser(&self, state: &RowState, head: usize) -> f32 {
        let sum: f32 = state.sums.iter().sum();
        match self.spec.sinks {
            None => 1.0 / sum,
            Some(sinks) => {
                let max = state.max.max(sinks[head]);
                let shrink = (state.max - max).exp();
                shrink / (sum * shrink + (sinks[head] - max).exp())
            }
        }
    }
}

/// A few rows of a group against one block.
struct Tile<'a> {
    group: &'a Group<'a>,
    level: Level,
    block: usize,
    view: &'a BlockView<'a>,
    /// How far ahead of this block, around the end of the address space, the next one is; 0 if nothing is to be prefetched.
    ahead: usize,
    /// First row of the tile in the group.
    r: usize,
    queries: &'a [f32],
    dims: usize,
}

impl Tile<'_> {
    fn run<W: FloatWeights, const MR: usize>(&self, scores: &mut [f32], states: &mut [RowState], acc: &mut [f32]) {
        let (first, last) = (self.block * KV_BLOCK, self.block * KV_BLOCK + KV_BLOCK - 1);
        let sees = |i: usize| self.group.position(self.r + i) >= first && self.group.first_visible(self.r + i) <= last;
        if !(0..MR).any(sees) {
            return;
        }
        let (dims, bytes) = (self.dims, self.group.cache.format.element_bytes());
        let query = |i: usize| self.queries[(self.r + i) * dims..][..dims].as_ptr();
        for (half, panel) in self.view.k.chunks_exact(PANEL * dims * bytes).enumerate() {
            self.product::<W, MR, false>(
                dims,
                panel,
                std::array::from_fn(query),
                &mut scores[half * PANEL..],
                KV_BLOCK,
            );
        }
        for i in 0..MR {
            let row = &mut scores[i * KV_BLOCK..][..KV_BLOCK];
            if !sees(i) {
                row.fill(0.0);
                continue;
            }
            let (position, head) = (self.group.position(self.r + i), self.group.token_and_head(self.r + i).1);
            let softmax = SoftmaxRow {
                scores: row,
                visible: (self.group.first_visible(self.r + i).saturating_sub(first), position.min(last) - first),
                slope: self.group.spec.alibi_slopes.map_or(0.0, |s| s[head]),
                distance: first as f32 - position as f32,
                scales: self.view.scales,
                state: &mut states[i],
                out: &mut acc[i * dims..][..dims],
            };
            // SAFETY: the level was detected by the device.
            unsafe { isa::run(self.level, softmax) };
        }
        for (n, panel) in self.view.v.chunks_exact(PANEL * KV_BLOCK * bytes).enumerate() {
            let weights = std::array::from_fn(|i| scores[i * KV_BLOCK..][..KV_BLOCK].as_ptr());
            self.product::<W, MR, true>(KV_BLOCK, panel, weights, &mut acc[n * PANEL..], dims);
        }
    }

    /// `out[i] (+)= x[i] . panel` for `k` inputs; `x` points to `k` floats each.
    fn product<W: FloatWeights, const MR: usize, const ACCUMULATE: bool>(
        &self,
        k: usize,
        panel: &[u8],
        x: [*const f32; MR],
        out: &mut [f32],
        ld: usize,
    ) {
        assert!(out.len() >= (MR - 1) * ld + PANEL && panel.len() * W::STEP >= k * W::STEP_BYTES);
        let tile = FloatTile::<W, MR, 1, ACCUMULATE> {
            weights: PhantomData,
            k,
            panels: [panel.as_ptr()],
            x,
            out: out.as_mut_ptr(),
            ld,
            ahead: Ahead { bytes: self.ahead, panel: 0 },
        };
        // SAFETY: panel and output were just checked; `k` is a multiple of 16; the level was detected.
        unsafe { isa::run(self.level, tile) };
    }
}

impl Device {
    /// Attention of every chunk's tokens over what the cache holds of their sequences, the tokens themselves included (they were stored
    /// before). `q` holds queries in its first `heads * head_dim` columns, `out` `[rows, heads * head_dim]`.
    pub fn attention(
        &mut self,
        cache: &KvCache,
        layer: usize,
        spec: &AttentionSpec<'_>,
        chunks: &[Chunk<'_>],
        q: &Tensor,
        out: &mut Tensor,
    ) {
        assert!(spec.heads.is_multiple_of(cache.kv_heads) && out.cols() >= spec.heads * cache.head_dim);
        self.arithmetic.attend(2, chunks, spec.window, spec.heads * cache.head_dim);
        let per_kv = spec.heads / cache.kv_heads;
        let mut groups = Vec::new();
        // Whole groups share each block they read; only when there are too few for the workers are they cut smaller.
        let sequences = chunks.len() * cache.kv_heads;
        for chunk in chunks.iter().filter(|c| c.len > 0) {
            let rows = chunk.len * per_kv;
            let enough = if sequences >= 2 * self.pool.threads() { rows } else { rows.div_ceil(self.pool.threads()) };
            let step = enough.clamp(1, GROUP_ROWS);
            for kv_head in 0..cache.kv_heads {
                for first in (0..rows).step_by(step) {
                    let rows = step.min(rows - first);
                    groups.push(Group { cache, layer, spec, chunk: *chunk, kv_head, first, rows });
                }
            }
        }
        let (level, scratch) = (self.level, &self.scratch);
        let out = out.shared();
        self.pool.for_each(groups.len(), &|unit, worker| {
            let Ok(mut scratch) = scratch[worker].lock() else {
                return;
            };
            // The longest rows come last in a chunk; they start first.
            let group = &groups[groups.len() - 1 - unit];
            match cache.format {
                KvFormat::F32 => group.run::<tile::F32>(level, &mut scratch, q, out),
                KvFormat::Bf16 => group.run::<tile::Bf16>(level, &mut scratch, q, out),
                KvFormat::Int8 => group.run::<tile::PlainInt8>(level, &mut scratch, q, out),
            }
        });
    }
}
