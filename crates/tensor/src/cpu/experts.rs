//! Gated feed-forward networks over the rows routed to them: dispatch, compute, combine.
//!
//! Rows are never copied: a tile reads the activations of whatever rows its expert received. The three are separate calls, so that an all-to-all fits between.

// Units write disjoint parts of outputs.
#![allow(unsafe_code)]

use super::Device;
use super::backward::experts::ExpertSaves;
use super::isa::{self, Isa, Kernel, Level, exp};
use super::matmul::{Input, Rows, compute, panels_per_unit};
use super::matrix::{BLOCK, Matrix, PANEL};
use super::ops::Routing;
use super::tile::{ActivationBlock, quantise_activations};
use crate::buffer::{SharedRows, Tensor};
use std::ops::Range;

/// Rows of one expert that a unit works on.
const ROW_BLOCK: usize = 96;

/// How gate and up combine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gating {
    /// `silu(gate) * up`.
    SwiGlu,
    /// `g sigmoid(alpha g) (u + 1)`, `g = min(gate, limit)`, `u = clamp(up, -limit, limit)`.
    ClampedSwiGlu {
        /// Slope inside the sigmoid.
        alpha: f32,
        /// Bound on gate and up.
        limit: f32,
    },
}

/// One gated network.
pub struct Expert {
    /// Gate and up in turn, 16 outputs each ([`super::matrix::Interleaved`]).
    pub gate_up: Matrix,
    /// Their biases, in the same order and padding.
    pub gate_up_bias: Option<Vec<f32>>,
    /// `[hidden, ffn]`.
    pub down: Matrix,
    /// `[hidden]`.
    pub down_bias: Option<Vec<f32>>,
}

/// Rows sorted by expert. Entry i of the sorted order is (row, slot): slot = row * top_k + choice is where its result goes.
#[derive(Default, Clone, Debug)]
pub struct Dispatch {
    /// Where each expert's entries begin; one more than there are experts.
    pub offsets: Vec<usize>,
    /// Row of each entry.
    pub rows: Vec<u32>,
    /// Slot of each entry.
    pub slots: Vec<u32>,
}

impl Dispatch {
    /// Sorts the choices of `routing` by expert, rows in order within each.
    pub fn from_routing(&mut self, routing: &Routing, experts: usize) {
        self.offsets.clear();
        self.offsets.resize(experts + 1, 0);
        for &e in &routing.experts {
            self.offsets[e as usize + 1] += 1;
        }
        for e in 0..experts {
            self.offsets[e + 1] += self.offsets[e];
        }
        let mut next = self.offsets.clone();
        self.rows.resize(routing.experts.len(), 0);
        self.slots.resize(routing.experts.len(), 0);
        for (slot, &e) in routing.experts.iter().enumerate() {
            let at = next[e as usize];
            next[e as usize] += 1;
            self.rows[at] = (slot / routing.top_k) as u32;
            self.slots[at] = slot as u32;
        }
    }

    /// Keeps the first `capacity` rows of each expert and lets go of the others; returns how many these are.
    pub fn limit(&mut self, capacity: usize) -> usize {
        let (before, mut kept) = (self.rows.len(), 0);
        for e in 0..self.offsets.len().saturating_sub(1) {
            let entries = self.entries(e);
            let taken = entries.start..entries.start + entries.len().min(capacity);
            self.offsets[e] = kept;
            self.rows.copy_within(taken.clone(), kept);
            self.slots.copy_within(taken.clone(), kept);
            kept += taken.len();
        }
        if let Some(end) = self.offsets.last_mut() {
            *end = kept;
        }
        self.rows.truncate(kept);
        self.slots.truncate(kept);
        before - kept
    }

    pub(crate) fn entries(&self, expert: usize) -> Range<usize> {
        self.offsets[expert]..self.offsets[expert + 1]
    }
}

/// `out = act(gate + bias, up + bias)` over 16 lanes.
struct Gate<'a> {
    gating: Gating,
    /// 16 gates, then 16 ups.
    gate_up: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        assert!(
            self.gate_up.len() == 2 * PANEL
                && self.out.len() == PANEL
                && self.bias.is_none_or(|b| b.len() == 2 * PANEL)
        );
        // SAFETY: lengths were just checked.
        unsafe {
            for i in [0, 8] {
                let mut gate = I::load(self.gate_up.as_ptr().add(i));
                let mut up = I::load(self.gate_up.as_ptr().add(PANEL + i));
                if let Some(bias) = self.bias {
                    gate = I::add(gate, I::load(bias.as_ptr().add(i)));
                    up = I::add(up, I::load(bias.as_ptr().add(PANEL + i)));
                }
                let (slope, up) = match self.gating {
                    Gating::SwiGlu => (1.0, up),
                    Gating::ClampedSwiGlu { alpha, limit } => {
                        gate = I::min(I::splat(limit), gate);
                        up = I::min(I::splat(limit), I::max(I::splat(-limit), up));
                        (alpha, I::add(up, I::splat(1.0)))
                    }
                };
                let denominator = I::add(I::splat(1.0), exp::<I>(I::mul(gate, I::splat(-slope))));
                I::store(self.out.as_mut_ptr().add(i), I::mul(I::div(gate, denominator), up));
            }
        }
    }
}

struct QuantiseBlock<'a> {
    row: &'a [f32],
    out: &'a mut [ActivationBlock],
}

impl Kernel for QuantiseBlock<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        quantise_activations(self.row, self.out);
    }
}

/// Write access to quantised activations from several workers.
#[derive(Clone, Copy)]
struct SharedBlocks {
    start: *mut ActivationBlock,
    len: usize,
}

// SAFETY: units write blocks of their own rows and columns.
unsafe impl Sync for SharedBlocks {}

/// One unit of a phase: some panels of an expert for some of its entries.
struct Work {
    expert: usize,
    panels: Range<usize>,
    entries: Range<usize>,
}

/// Cuts the matrices of all experts that have rows into units.
fn cut(experts: &[Expert], dispatch: &Dispatch, workers: usize, matrix: impl Fn(&Expert) -> &Matrix) -> Vec<Work> {
    let mut total = 0;
    let busy = || (0..experts.len()).filter(|&e| !dispatch.entries(e).is_empty());
    busy().for_each(|e| total += matrix(&experts[e]).panels() * dispatch.entries(e).len().div_ceil(ROW_BLOCK));
    let panel_bytes = experts.first().map_or(0, |expert| matrix(expert).panel_bytes);
    let step = panels_per_unit(total, panel_bytes, workers);
    let mut work = Vec::new();
    for expert in busy() {
        let panels = matrix(&experts[expert]).panels();
        let entries = dispatch.entries(expert);
        for first in entries.clone().step_by(ROW_BLOCK) {
            for p in (0..panels).step_by(step) {
                work.push(Work {
                    expert,
                    panels: p..panels.min(p + step),
                    entries: first..entries.end.min(first + ROW_BLOCK),
                });
            }
        }
    }
    work
}

/// Takes (entry, first hidden column), a part of that entry's row in panels of 16 taking turns, and the biases to add.
type Put<'a> = dyn Fn((usize, usize), &[f32], Option<&[f32]>) + Sync + 'a;

impl Device {
    /// `out[slot] = down(act(gate(x[row]), up(x[row])))` for every entry of `dispatch`; all experts have the same shape. `out` has a row per slot.
    pub fn expert_ffn(
        &mut self,
        experts: &[Expert],
        gating: Gating,
        dispatch: &Dispatch,
        x: &Tensor,
        out: &mut Tensor,
    ) {
        let Some(first) = experts.first() else { return };
        let (level, entries, ffn) = (self.level, dispatch.rows.len(), first.down.cols());
        if first.down.format.multiplies_integers() {
            let mut blocks = std::mem::take(&mut self.hidden_blocks);
            let per_row = ffn.next_multiple_of(Tensor::PAD) / BLOCK;
            blocks.resize(entries * per_row, ActivationBlock::ZERO);
            let shared = SharedBlocks { start: blocks.as_mut_ptr(), len: blocks.len() };
            self.gate_up(experts, dispatch, x, &|(entry, from), gate_up, bias| {
                Activated { level, gating, entry, from, ffn }.quantised(gate_up, bias, shared, per_row);
            });
            self.down(experts, dispatch, Input::Int(&blocks, per_row), out);
            self.hidden_blocks = blocks;
        } else {
            let mut hidden = std::mem::replace(&mut self.hidden, Tensor::zeros(0, 0));
            if hidden.rows() < entries || hidden.cols() != ffn {
                hidden = Tensor::zeros(entries.next_power_of_two(), ffn);
            }
            let shared = hidden.shared();
            self.gate_up(experts, dispatch, x, &|(entry, from), gate_up, bias| {
                Activated { level, gating, entry, from, ffn }.plain(gate_up, bias, shared);
            });
            self.down(experts, dispatch, Input::Float(&hidden), out);
            self.hidden = hidden;
        }
    }

    /// [`Device::expert_ffn`] of f32 weights, keeping what its gradient needs.
    pub fn expert_ffn_saving(
        &mut self,
        experts: &[Expert],
        gating: Gating,
        dispatch: &Dispatch,
        x: &Tensor,
        saves: &mut ExpertSaves,
        out: &mut Tensor,
    ) {
        let Some(first) = experts.first() else { return };
        let (level, ffn) = (self.level, first.down.cols());
        let (pre, hidden) = (saves.gate_up.shared(), saves.hidden.shared());
        self.gate_up(experts, dispatch, x, &|(entry, from), gate_up, bias| {
            // SAFETY: units have different entries or columns.
            let pre = unsafe { pre.part(entry, 2 * from, gate_up.len()) };
            pre.copy_from_slice(gate_up);
            if let Some(bias) = bias {
                pre.iter_mut().zip(bias).for_each(|(p, b)| *p += b);
            }
            Activated { level, gating, entry, from, ffn }.plain(gate_up, bias, hidden);
        });
        self.down(experts, dispatch, Input::Float(&saves.hidden), out);
    }

    /// Gate and up of every entry, each part handed to `put`.
    fn gate_up(&mut self, experts: &[Expert], dispatch: &Dispatch, x: &Tensor, put: &Put<'_>) {
        self.arithmetic.product(dispatch.rows.len(), &experts[0].gate_up);
        let mut blocks = std::mem::take(&mut self.activations);
        let rows = dispatch.rows.iter().max().map_or(0, |&r| r as usize + 1);
        let input = self.input(experts[0].gate_up.format, x, rows, &mut blocks);
        let work = cut(experts, dispatch, self.pool.threads(), |e| &e.gate_up);
        let (level, scratch) = (self.level, &self.scratch);
        self.pool.for_each(work.len(), &|unit, worker| {
            let Ok(mut scratch) = scratch[worker].lock() else {
                return;
            };
            let Work { expert, panels, entries } = &work[unit];
            let expert = &experts[*expert];
            let rows = Rows::List(&dispatch.rows[entries.clone()]);
            let ld = panels.len() * PANEL;
            let result = compute(level, &mut scratch, &expert.gate_up, panels.clone(), input, rows);
            let bias = expert.gate_up_bias.as_ref().map(|b| &b[panels.start * PANEL..panels.end * PANEL]);
            for (i, gate_up) in result.chunks_exact(ld).enumerate() {
                let from = panels.start / 2 * PANEL;
                put((entries.start + i, from), gate_up, bias);
            }
        });
        self.activations = blocks;
    }

    /// The down projection of every entry, to the row of its slot.
    fn down(&mut self, experts: &[Expert], dispatch: &Dispatch, input: Input<'_>, out: &mut Tensor) {
        self.arithmetic.product(dispatch.rows.len(), &experts[0].down);
        let work = cut(experts, dispatch, self.pool.threads(), |e| &e.down);
        let (level, scratch) = (self.level, &self.scratch);
        let shared = out.shared();
        self.pool.for_each(work.len(), &|unit, worker| {
            let Ok(mut scratch) = scratch[worker].lock() else {
                return;
            };
            let Work { expert, panels, entries } = &work[unit];
            let expert = &experts[*expert];
            let ld = panels.len() * PANEL;
            let rows = Rows::Range(entries.start, entries.len());
            let result = compute(level, &mut scratch, &expert.down, panels.clone(), input, rows);
            let from = panels.start * PANEL;
            let width = ld.min(expert.down.rows() - from);
            for (result, &slot) in result.chunks_exact(ld).zip(&dispatch.slots[entries.clone()]) {
                // SAFETY: a slot belongs to one entry, and units of an entry have different columns.
                let out = unsafe { shared.part(slot as usize, from, width) };
                match &expert.down_bias {
                    None => out.copy_from_slice(&result[..width]),
                    Some(bias) => out.iter_mut().zip(result).zip(&bias[from..]).for_each(|((o, y), b)| *o = y + b),
                }
            }
        });
    }

    /// `out[r] += sum over choices j of weight[r, j] * y[r * top_k + j]`, choices best first.
    pub fn combine(&mut self, routing: &Routing, y: &Tensor, rows: usize, out: &mut Tensor) {
        let k = routing.top_k;
        let cols = out.cols();
        let shared = out.shared();
        self.pool.for_each(rows.div_ceil(8), &|unit, _| {
            for r in unit * 8..rows.min(unit * 8 + 8) {
                // SAFETY: one writer per row.
                let out = unsafe { shared.part(r, 0, cols) };
                for j in r * k..(r + 1) * k {
                    let weight = routing.weights[j];
                    out.iter_mut().zip(y.row(j)).for_each(|(o, y)| *o += weight * y);
                }
            }
        });
    }
}

/// Where the activated outputs of one entry go.
struct Activated {
    level: Level,
    gating: Gating,
    entry: usize,
    /// First column of `hidden`.
    from: usize,
    ffn: usize,
}

impl Activated {
    /// The 16 columns of pair `pair`.
    fn pair(&self, gate_up: &[f32], bias: Option<&[f32]>, pair: usize, out: &mut [f32]) {
        let range = pair * 2 * PANEL..(pair + 1) * 2 * PANEL;
        let gate = Gate { gating: self.gating, gate_up: &gate_up[range.clone()], bias: bias.map(|b| &b[range]), out };
        // SAFETY: the level was detected.
        unsafe { isa::run(self.level, gate) };
    }

    fn plain(&self, gate_up: &[f32], bias: Option<&[f32]>, hidden: SharedRows<'_>) {
        for pair in 0..gate_up.len() / (2 * PANEL) {
            let from = self.from + pair * PANEL;
            let width = PANEL.min(self.ffn - from);
            let mut values = [0f32; PANEL];
            self.pair(gate_up, bias, pair, &mut values);
            // SAFETY: units have different entries or columns.
            let hidden = unsafe { hidden.part(self.entry, from, width) };
            match hidden.first_chunk_mut() {
                Some(whole) => *whole = values,
                None => hidden.copy_from_slice(&values[..width]),
            }
        }
    }

    /// Two pairs make a block; units start at whole blocks, because they hold multiples of four panels.
    fn quantised(&self, gate_up: &[f32], bias: Option<&[f32]>, blocks: SharedBlocks, per_row: usize) {
        let pairs = gate_up.len() / (2 * PANEL);
        for block in 0..pairs.div_ceil(2) {
            let mut values = [0f32; BLOCK];
            for half in 0..2.min(pairs - 2 * block) {
                self.pair(gate_up, bias, 2 * block + half, &mut values[half * PANEL..][..PANEL]);
            }
            let from = self.from + block * BLOCK;
            values[(self.ffn - from).min(BLOCK)..].fill(0.0);
            let index = self.entry * per_row + from / BLOCK;
            assert!(index < blocks.len);
            // SAFETY: in bounds; units have different entries or blocks; the level was detected.
            unsafe {
                let out = std::slice::from_mut(&mut *blocks.start.add(index));
                isa::run(self.level, QuantiseBlock { row: &values, out });
            }
        }
    }
}
