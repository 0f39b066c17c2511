//! Gradients of gated networks over the rows routed to them.

// Units write disjoint rows. Loops over indices of several slices are what the instruction set is used for.
#![allow(unsafe_code, clippy::needless_range_loop)]

use super::norm::dot;
use crate::buffer::Tensor;
use crate::cpu::Device;
use crate::cpu::experts::{Dispatch, Expert, Gating};
use crate::cpu::isa::{self, Isa, Kernel, exp};
use crate::cpu::matmul::Rows;
use crate::cpu::matrix::PANEL;
use crate::cpu::ops::Routing;
use std::sync::Mutex;

/// What a forward pass keeps for the gradient; rows are entries of the dispatch, sorted by expert.
pub struct ExpertSaves {
    /// Gate and up before the activation, biases included, in panels of 16 taking turns. Turned into its gradient by the backward pass.
    pub gate_up: Tensor,
    /// What the down projection read.
    pub hidden: Tensor,
    /// The gradient of the down projection's output.
    dy: Tensor,
}

impl ExpertSaves {
    /// Room for `entries` entries of networks `ffn` wide on `hidden_size` inputs.
    pub fn new(entries: usize, ffn: usize, hidden_size: usize) -> Self {
        Self {
            gate_up: Tensor::stale(entries, 2 * ffn.next_multiple_of(PANEL)),
            hidden: Tensor::stale(entries, ffn),
            dy: Tensor::stale(entries, hidden_size),
        }
    }
}

/// What a gate's sigmoid is taken of, negated.
#[inline(always)]
fn negated_slope(gating: Gating, gate: f32) -> f32 {
    match gating {
        Gating::SwiGlu => -gate,
        Gating::ClampedSwiGlu { alpha, limit } => -alpha * gate.min(limit),
    }
}

/// The gradient of `act(gate, up)`: replaces the pair by its gradient, given that of the result; `s` is the gate's sigmoid.
#[inline(always)]
fn gate_backward(gating: Gating, s: f32, gate: &mut f32, up: &mut f32, dh: f32) {
    match gating {
        Gating::SwiGlu => {
            let silu = *gate * s;
            (*gate, *up) = (dh * *up * (s + silu * (1.0 - s)), dh * silu);
        }
        Gating::ClampedSwiGlu { alpha, limit } => {
            let (g, u) = (gate.min(limit), up.clamp(-limit, limit));
            let inside = (*gate <= limit, up.abs() <= limit);
            let dg = dh * (u + 1.0) * (s + alpha * g * s * (1.0 - s));
            (*gate, *up) = (if inside.0 { dg } else { 0.0 }, if inside.1 { dh * g * s } else { 0.0 });
        }
    }
}

/// [`gate_backward`] of one entry: `pairs` of 16 gates and 16 ups.
struct GatesBackward<'a> {
    gating: Gating,
    pairs: &'a mut [f32],
    dhidden: &'a [f32],
}

impl Kernel for GatesBackward<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { gating, pairs, dhidden } = self;
        for (pair, dh) in pairs.chunks_exact_mut(2 * PANEL).zip(dhidden.chunks(PANEL)) {
            let (gates, ups) = pair.split_at_mut(PANEL);
            let mut s = [0f32; PANEL];
            for i in 0..PANEL {
                s[i] = negated_slope(gating, gates[i]);
            }
            for half in s.as_chunks_mut::<8>().0 {
                // SAFETY: eight floats.
                unsafe { I::store(half.as_mut_ptr(), exp::<I>(I::load(half.as_ptr()))) };
            }
            // Lanes past the width of the network have no gradient.
            let mut padded = [0f32; PANEL];
            padded[..dh.len()].copy_from_slice(dh);
            for i in 0..PANEL {
                gate_backward(gating, 1.0 / (1.0 + s[i]), &mut gates[i], &mut ups[i], padded[i]);
            }
            gates[dh.len()..].fill(0.0);
            ups[dh.len()..].fill(0.0);
        }
    }
}

impl Device {
    /// The gradient of [`Device::combine`]: of the weights, `dweights[r, j] = dout[r] . y[slot]`, and, in `saves`, of every entry's output.
    pub fn combine_backward(
        &mut self,
        routing: &Routing,
        dispatch: &Dispatch,
        y: &Tensor,
        dout: &Tensor,
        dweights: &mut Vec<f32>,
        saves: &mut ExpertSaves,
    ) {
        dweights.clear();
        dweights.resize(routing.experts.len(), 0.0);
        let of_slots: Vec<_> = dweights.iter_mut().map(Mutex::new).collect();
        let (k, cols) = (routing.top_k, dout.cols());
        let shared = saves.dy.shared();
        self.for_rows(dispatch.slots.len(), &|entry| {
            let slot = dispatch.slots[entry] as usize;
            let (weight, dout) = (routing.weights[slot], dout.row(slot / k));
            if let Ok(mut dweight) = of_slots[slot].lock() {
                **dweight = dot(dout, y.row(slot));
            }
            // SAFETY: one writer per entry.
            let dy = unsafe { shared.part(entry, 0, cols) };
            dy.iter_mut().zip(dout).for_each(|(dy, d)| *dy = weight * d);
        });
    }

    /// The input gradient of [`Device::expert_ffn`], added to `dx`; leaves in `saves` what the weight gradient needs.
    pub fn expert_ffn_backward_input(
        &mut self,
        experts: &[Expert],
        gating: Gating,
        dispatch: &Dispatch,
        saves: &mut ExpertSaves,
        dx: &mut Tensor,
    ) {
        let Some(first) = experts.first() else { return };
        let (entries, ffn) = (dispatch.rows.len(), first.down.cols());
        let mut dhidden = Tensor::stale(entries, ffn);
        for (e, expert) in experts.iter().enumerate() {
            let transposed = self.transposed(&expert.down);
            self.matmul_rows(&transposed, &saves.dy, dispatch.entries(e), None, false, &mut dhidden);
            self.keep_spare(transposed);
        }
        let (level, cols) = (self.level, saves.gate_up.cols());
        let shared = saves.gate_up.shared();
        self.for_rows(entries, &|entry| {
            // SAFETY: one writer per entry.
            let pairs = unsafe { shared.part(entry, 0, cols) };
            let gates = GatesBackward { gating, pairs, dhidden: dhidden.row(entry) };
            // SAFETY: the level was detected by the device.
            unsafe { isa::run(level, gates) };
        });
        let mut dentries = Tensor::stale(entries, dx.cols());
        for (e, expert) in experts.iter().enumerate() {
            let transposed = self.transposed(&expert.gate_up);
            self.matmul_rows(&transposed, &saves.gate_up, dispatch.entries(e), None, false, &mut dentries);
            self.keep_spare(transposed);
        }
        self.scatter_add(dispatch, &dentries, dx);
    }

    /// Adds every entry to its row, those of a row in the order of experts: the sorted order.
    fn scatter_add(&mut self, dispatch: &Dispatch, entries: &Tensor, dx: &mut Tensor) {
        let mut order: Vec<u32> = (0..dispatch.rows.len() as u32).collect();
        order.sort_by_key(|&entry| dispatch.rows[entry as usize]);
        let of_rows: Vec<&[u32]> =
            order.chunk_by(|&a, &b| dispatch.rows[a as usize] == dispatch.rows[b as usize]).collect();
        let cols = dx.cols();
        let dx = dx.shared();
        self.for_rows(of_rows.len(), &|i| {
            let row = dispatch.rows[of_rows[i][0] as usize] as usize;
            // SAFETY: the entries of a row are one unit.
            let dx = unsafe { dx.part(row, 0, cols) };
            for &entry in of_rows[i] {
                dx.iter_mut().zip(entries.row(entry as usize)).for_each(|(o, d)| *o += d);
            }
        });
    }

    /// The weight gradients of [`Device::expert_ffn`], added to `gradients`, after [`Device::expert_ffn_backward_input`].
    pub fn expert_ffn_backward_weight(
        &mut self,
        dispatch: &Dispatch,
        saves: &ExpertSaves,
        x: &Tensor,
        gradients: &mut [Expert],
    ) {
        for (e, gradient) in gradients.iter_mut().enumerate() {
            let entries = dispatch.entries(e);
            let rows = Rows::List(&dispatch.rows[entries.clone()]);
            self.weight_gradient(x, rows, &saves.gate_up, entries.start, &mut gradient.gate_up);
            let rows = Rows::Range(entries.start, entries.len());
            self.weight_gradient(&saves.hidden, rows, &saves.dy, entries.start, &mut gradient.down);
            for entry in entries {
                if let Some(bias) = &mut gradient.gate_up_bias {
                    bias.iter_mut().zip(saves.gate_up.row(entry)).for_each(|(b, d)| *b += d);
                }
                if let Some(bias) = &mut gradient.down_bias {
                    bias.iter_mut().zip(saves.dy.row(entry)).for_each(|(b, d)| *b += d);
                }
            }
        }
    }
}
