//! Gradients of gated networks over the rows routed to them.

// Units write disjoint rows.
#![allow(unsafe_code)]

use super::norm::dot;
use crate::buffer::Tensor;
use crate::cpu::Device;
use crate::cpu::experts::{Dispatch, Expert, Gating};
use crate::cpu::matmul::Rows;
use crate::cpu::matrix::PANEL;
use crate::cpu::ops::Routing;

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
            gate_up: Tensor::zeros(entries, 2 * ffn.next_multiple_of(PANEL)),
            hidden: Tensor::zeros(entries, ffn),
            dy: Tensor::zeros(entries, hidden_size),
        }
    }
}

/// The gradient of `act(gate, up)`: replaces the pair by its gradient, given that of the result.
fn gate_backward(gating: Gating, gate: &mut f32, up: &mut f32, dh: f32) {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    match gating {
        Gating::SwiGlu => {
            let s = sigmoid(*gate);
            let silu = *gate * s;
            (*gate, *up) = (dh * *up * (s + silu * (1.0 - s)), dh * silu);
        }
        Gating::ClampedSwiGlu { alpha, limit } => {
            let (g, u) = (gate.min(limit), up.clamp(-limit, limit));
            let s = sigmoid(alpha * g);
            let inside = (*gate <= limit, up.abs() <= limit);
            let dg = dh * (u + 1.0) * (s + alpha * g * s * (1.0 - s));
            (*gate, *up) = (if inside.0 { dg } else { 0.0 }, if inside.1 { dh * g * s } else { 0.0 });
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
        let k = routing.top_k;
        dweights.extend((0..routing.experts.len()).map(|slot| dot(dout.row(slot / k), y.row(slot))));
        let cols = dout.cols();
        let shared = saves.dy.shared();
        self.for_rows(dispatch.slots.len(), &|entry| {
            let slot = dispatch.slots[entry] as usize;
            let weight = routing.weights[slot];
            // SAFETY: one writer per entry.
            let dy = unsafe { shared.part(entry, 0, cols) };
            dy.iter_mut().zip(dout.row(slot / k)).for_each(|(dy, d)| *dy = weight * d);
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
        let mut dhidden = Tensor::zeros(entries, ffn);
        for (e, expert) in experts.iter().enumerate() {
            let transposed = self.transposed(&expert.down);
            self.matmul_rows(&transposed, &saves.dy, dispatch.entries(e), None, false, &mut dhidden);
            self.keep_spare(transposed);
        }
        let cols = saves.gate_up.cols();
        let shared = saves.gate_up.shared();
        self.for_rows(entries, &|entry| {
            // SAFETY: one writer per entry.
            let row = unsafe { shared.part(entry, 0, cols) };
            for (pair, dh) in row.chunks_exact_mut(2 * PANEL).zip(dhidden.row(entry).chunks(PANEL)) {
                let (gates, ups) = pair.split_at_mut(PANEL);
                for ((gate, up), dh) in gates.iter_mut().zip(ups.iter_mut()).zip(dh) {
                    gate_backward(gating, gate, up, *dh);
                }
                // Lanes past the width of the network.
                gates[dh.len()..].fill(0.0);
                ups[dh.len()..].fill(0.0);
            }
        });
        let mut dentries = Tensor::zeros(entries, dx.cols());
        for (e, expert) in experts.iter().enumerate() {
            let transposed = self.transposed(&expert.gate_up);
            self.matmul_rows(&transposed, &saves.gate_up, dispatch.entries(e), None, false, &mut dentries);
            self.keep_spare(transposed);
        }
        // A row's entries in the order of experts: the sorted order.
        for (entry, &row) in dispatch.rows.iter().enumerate() {
            dx.row_mut(row as usize).iter_mut().zip(dentries.row(entry)).for_each(|(o, d)| *o += d);
        }
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
