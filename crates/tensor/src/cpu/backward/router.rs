//! Gradients of routing, and the auxiliary losses on router logits.

use crate::buffer::Tensor;
use crate::cpu::Device;
use crate::cpu::ops::{RouterKind, Routing};

/// What is added to the loss for a layer's router; 0 leaves a term out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RouterLosses {
    /// Coefficient of `E * sum over e of f_e * P_e` (Fedus 2021): `f_e` the fraction of choices that went to expert e, `P_e` its mean probability.
    pub balance: f32,
    /// Coefficient of the mean squared log-sum-exp of the logits (Zoph 2022).
    pub z: f32,
}

impl Device {
    /// Replaces router logits (`[rows, experts]`) by the gradient with respect to them: of the expert weights `dweights`
    /// (`[rows, top_k]`, as in `routing`), and of the auxiliary losses. `fractions` are `f_e`, which carry no gradient; `scale` is one over the number of tokens that the
    /// auxiliary means run over.
    #[allow(clippy::too_many_arguments)]
    pub fn route_backward(
        &mut self,
        kind: RouterKind,
        routing: &Routing,
        dweights: &[f32],
        losses: RouterLosses,
        fractions: &[f32],
        scale: f32,
        logits: &mut Tensor,
    ) {
        let (k, experts) = (routing.top_k, fractions.len());
        for r in 0..dweights.len() / k {
            let chosen = &routing.experts[r * k..][..k];
            let weights = &routing.weights[r * k..][..k];
            let dweights = &dweights[r * k..][..k];
            let row = &mut logits.row_mut(r)[..experts];
            let (probabilities, log_sum) = softmax(row);
            let z = 2.0 * losses.z * scale * log_sum;
            let balance = |e: usize| losses.balance * experts as f32 * fractions[e] * scale;
            let mean: f32 = probabilities.iter().enumerate().map(|(e, p)| p * balance(e)).sum();
            for (e, (d, p)) in row.iter_mut().zip(&probabilities).enumerate() {
                *d = p * (balance(e) - mean + z);
            }
            let pull: f32 = weights.iter().zip(dweights).map(|(w, d)| w * d).sum();
            match kind {
                // The weights are probabilities over all experts, of which only the chosen matter.
                RouterKind::SoftmaxTopK { renormalise: false } => {
                    row.iter_mut().zip(&probabilities).for_each(|(d, p)| *d -= p * pull);
                    chosen.iter().zip(weights).zip(dweights).for_each(|((&e, w), d)| row[e as usize] += w * d);
                }
                // Both other kinds are a softmax over the chosen.
                _ => {
                    chosen.iter().zip(weights).zip(dweights).for_each(|((&e, w), d)| row[e as usize] += w * (d - pull))
                }
            }
        }
    }
}

/// Probabilities and log-sum-exp.
pub fn softmax(logits: &[f32]) -> (Vec<f32>, f32) {
    let max = logits.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
    let mut p: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f32 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    (p, max + sum.ln())
}
