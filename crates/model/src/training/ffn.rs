//! The feed-forward half of the tape: routing, experts, auxiliary losses.

use super::{BalanceForm, Losses, Objective};
use crate::decoder::Decoder;
use crate::ffn::{FeedForward, Router};
use std::cmp::Ordering;
use tensor::{Device, Dispatch, ExpertSaves, RouterLosses, Routing, Tensor, softmax};

pub(super) struct FfnTape {
    /// Router logits, then their gradient; `None` in a dense layer.
    logits: Option<Tensor>,
    routing: Routing,
    dispatch: Dispatch,
    /// Choices that no expert had room for.
    dropped: usize,
    saves: ExpertSaves,
    /// Every choice's output, zero where it was dropped.
    y: Tensor,
}

impl FfnTape {
    /// Adds what routing did to the losses.
    pub(super) fn observe(&self, losses: &mut Losses) {
        let Some(logits) = &self.logits else { return };
        let mut load = vec![0u32; logits.cols()];
        self.routing.experts.iter().for_each(|&e| load[e as usize] += 1);
        let (mut means, mut z, mut entropy) = (vec![0f64; logits.cols()], 0f64, 0f64);
        for r in 0..logits.rows() {
            let (p, log_sum) = softmax(logits.row(r));
            means.iter_mut().zip(&p).for_each(|(m, p)| *m += f64::from(*p));
            z += f64::from(log_sum * log_sum);
            entropy -= p.iter().filter(|p| **p > 0.0).map(|&p| f64::from(p * p.ln())).sum::<f64>();
        }
        let rows = logits.rows() as f64;
        losses.mean_probabilities.push(means.iter().map(|m| (m / rows) as f32).collect());
        losses.loads.push(load);
        losses.dropped.push(self.dropped as u32);
        losses.z += (z / rows) as f32;
        losses.entropies.push((entropy / rows) as f32);
    }
}

/// Averages the auxiliary losses over layers, once every layer was observed.
pub(super) fn finish(losses: &mut Losses, form: BalanceForm) {
    let layers = losses.loads.len();
    if layers == 0 {
        return;
    }
    losses.z /= layers as f32;
    let per_layer = |layer: usize| -> f32 {
        let fractions = fractions(losses, form, layer);
        let sum: f32 = fractions.iter().zip(&losses.mean_probabilities[layer]).map(|(f, p)| f * p).sum();
        fractions.len() as f32 * sum
    };
    losses.balance = (0..layers).map(per_layer).sum::<f32>() / layers as f32;
}

/// What each expert's mean probability is weighted by: its share of the choices, in this layer or, pooled, in all (and summed over choices).
fn fractions(losses: &Losses, form: BalanceForm, layer: usize) -> Vec<f32> {
    let share = |load: &[u32]| -> Vec<f32> {
        let total: u32 = load.iter().sum();
        load.iter().map(|&l| l as f32 / total as f32).collect()
    };
    match form {
        BalanceForm::PerLayer => share(&losses.loads[layer]),
        BalanceForm::Pooled => {
            let mut pooled = vec![0u32; losses.loads[layer].len()];
            losses.loads.iter().for_each(|load| pooled.iter_mut().zip(load).for_each(|(p, l)| *p += l));
            share(&pooled).into_iter().map(|f| f * losses.top_k as f32).collect()
        }
    }
}

/// The auxiliary losses of one layer's router.
pub(super) struct Auxiliary {
    losses: RouterLosses,
    fractions: Vec<f32>,
    scale: f32,
}

impl Auxiliary {
    /// For layer `index`; nothing for a dense layer.
    pub(super) fn of(
        decoder: &Decoder,
        index: usize,
        objective: &Objective,
        losses: &Losses,
        rows: usize,
    ) -> Option<Self> {
        decoder.layers[index].ffn.router.as_ref()?;
        let layer = decoder.layers[..index].iter().filter(|l| l.ffn.router.is_some()).count();
        Some(Self {
            losses: RouterLosses { balance: objective.balance, z: objective.z },
            fractions: fractions(losses, objective.balance_form, layer),
            scale: objective.share / (rows * losses.loads.len()) as f32,
        })
    }
}

impl FeedForward {
    /// `residual += ffn(normed)`.
    pub(super) fn forward_saving(
        &self,
        device: &mut Device,
        normed: &Tensor,
        capacity: Option<f32>,
        residual: &mut Tensor,
    ) -> FfnTape {
        let rows = normed.rows();
        let (mut routing, mut dispatch) = (Routing::default(), Dispatch::default());
        let logits = self.router.as_ref().map(|router| {
            let mut logits = Tensor::stale(rows, self.experts.len());
            device.matmul(&router.weight, normed, rows, router.bias.as_deref(), false, &mut logits);
            device.route(&logits, self.experts.len(), rows, router.choice(), &mut routing);
            logits
        });
        if logits.is_none() {
            routing.all_to_one(rows);
        }
        dispatch.from_routing(&routing, self.experts.len());
        let limit = capacity.filter(|_| logits.is_some()).map(|factor| {
            let even = routing.experts.len() as f64 / self.experts.len() as f64;
            (f64::from(factor) * even).ceil().max(1.0) as usize
        });
        let dropped = limit.map_or(0, |limit| dispatch.limit(limit));
        let entries = routing.experts.len();
        let mut saves = ExpertSaves::new(entries, self.experts[0].down.cols(), normed.cols());
        let mut y = match dropped {
            0 => Tensor::stale(entries, normed.cols()),
            _ => Tensor::zeros(entries, normed.cols()),
        };
        device.expert_ffn_saving(&self.experts, self.gating, &dispatch, normed, &mut saves, &mut y);
        device.combine(&routing, &y, rows, residual);
        FfnTape { logits, routing, dispatch, dropped, saves, y }
    }

    /// Adds to `dnormed` the gradient of the layer's normed input, given that of its output.
    pub(super) fn backward_input(
        &self,
        device: &mut Device,
        dout: &Tensor,
        auxiliary: Option<Auxiliary>,
        tape: &mut FfnTape,
        dnormed: &mut Tensor,
    ) {
        let FfnTape { logits, routing, dispatch, saves, y, .. } = tape;
        let mut dweights = Vec::new();
        device.combine_backward(routing, dispatch, y, dout, &mut dweights, saves);
        device.expert_ffn_backward_input(&self.experts, self.gating, dispatch, saves, dnormed);
        let (Some(Router { weight, kind, .. }), Some(logits), Some(a)) = (&self.router, logits.as_mut(), auxiliary)
        else {
            return;
        };
        device.route_backward(*kind, routing, &dweights, a.losses, &a.fractions, a.scale, logits);
        device.matmul_backward_input(weight, logits, dout.rows(), true, dnormed);
    }

    /// Adds the gradients of experts and router, after [`FeedForward::backward_input`].
    pub(super) fn backward_weight(
        &self,
        device: &mut Device,
        tape: &FfnTape,
        normed: &Tensor,
        gradient: &mut FeedForward,
    ) {
        device.expert_ffn_backward_weight(&tape.dispatch, &tape.saves, normed, &mut gradient.experts);
        if let (Some(dlogits), Some(router)) = (&tape.logits, &mut gradient.router) {
            device.matmul_backward_weight(normed, dlogits, normed.rows(), &mut router.weight);
            if let Some(bias) = &mut router.bias {
                device.bias_backward(dlogits, normed.rows(), bias);
            }
        }
    }
}

impl Decoder {
    /// Moves the bias on the choice of every expert by `rate`: up where it was chosen less often than its even share, down where more often (Wang
    /// 2024). `choices` are the choices per expert of each layer that has experts.
    pub fn balance_choices<'a>(&mut self, choices: impl IntoIterator<Item = &'a [u64]>, rate: f32) {
        let routers = self.layers.iter_mut().filter_map(|layer| layer.ffn.router.as_mut());
        for (router, choices) in routers.zip(choices) {
            let (Some(bias), total) = (&mut router.choice_bias, choices.iter().sum::<u64>()) else { continue };
            for (bias, &chosen) in bias.iter_mut().zip(choices) {
                // In whole numbers: chosen against total / experts.
                match (chosen * choices.len() as u64).cmp(&total) {
                    Ordering::Less => *bias += rate,
                    Ordering::Equal => {}
                    Ordering::Greater => *bias -= rate,
                }
            }
        }
    }
}
