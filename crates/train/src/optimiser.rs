//! From gradients to weights: clipping, AdamW, and Muon for the matrices of layers.

use model::Decoder;
use model::training::{Held, TensorMut};
use spec::Role;
use tensor::{AdamW, AdamWTensor, Device, Muon, MuonTensor};

/// Which rule updates the matrices of layers. Embedding, head and vectors always follow AdamW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// AdamW.
    #[default]
    AdamW,
    /// Momentum made orthogonal by Newton-Schulz steps (Jordan 2024), scaled to AdamW's size (Liu 2025).
    Muon,
}

/// The numbers of an optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimiserConfig {
    /// The rule.
    pub kind: Kind,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, on matrices.
    pub weight_decay: f32,
    /// The global norm that gradients are scaled down to; 0: never.
    pub clip: f32,
    /// Muon's momentum.
    pub momentum: f32,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self { kind: Kind::AdamW, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0, momentum: 0.95 }
    }
}

/// An optimiser's state: moments of the shape of the decoder.
pub struct Optimiser {
    config: OptimiserConfig,
    steps: u64,
    first: Decoder,
    second: Decoder,
}

impl Optimiser {
    /// No steps taken, all moments zero.
    pub fn new(config: &OptimiserConfig, decoder: &Decoder) -> Self {
        Self { config: *config, steps: 0, first: decoder.zeros_like(), second: decoder.zeros_like() }
    }

    /// The global norm of the gradients; NaN or infinite if one of them is.
    pub fn gradient_norm(device: &mut Device, gradients: &mut Decoder) -> f64 {
        let mut tensors = gradients.tensors_mut();
        let values: Vec<&[f32]> = tensors.iter_mut().map(|(_, t)| &*t.values_mut()).collect();
        device.sum_of_squares(&values).sqrt()
    }

    /// Clips by `norm` (of [`Optimiser::gradient_norm`]), updates the weights and clears the gradients.
    pub fn step(&mut self, device: &mut Device, decoder: &mut Decoder, gradients: &mut Decoder, norm: f64, lr: f32) {
        self.steps += 1;
        let clip = f64::from(self.config.clip);
        let gradient_scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 };
        let adam = AdamW {
            lr,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            weight_decay: self.config.weight_decay,
            gradient_scale,
            step: self.steps,
        };
        let muon = Muon { momentum: self.config.momentum, weight_decay: adam.weight_decay, gradient_scale, lr };
        let (mut by_adam, mut by_muon) = (Vec::new(), Vec::new());
        let weights = decoder.tensors_mut().into_iter().zip(gradients.tensors_mut());
        let moments = self.first.tensors_mut().into_iter().zip(self.second.tensors_mut());
        for (((held, weights), (_, gradients)), ((_, first), (_, second))) in weights.zip(moments) {
            if !held.is_trainable() {
                continue;
            }
            if self.config.kind == Kind::Muon && is_muon(&held) {
                by_muon.push(muon_tensor(&held, weights, gradients, first));
            } else {
                by_adam.push(adam_tensor(&held, weights, gradients, first, second));
            }
        }
        device.adamw(adam, by_adam);
        device.muon(muon, by_muon);
    }

    /// The state by name, to be saved and restored: first moments (Muon's momentum) and second moments.
    pub fn state_mut(&mut self) -> [(&'static str, &mut Decoder); 2] {
        [("first", &mut self.first), ("second", &mut self.second)]
    }

    /// The state by name, to be saved.
    pub fn state(&self) -> [(&'static str, &Decoder); 2] {
        [("first", &self.first), ("second", &self.second)]
    }

    /// Updates so far; part of the state.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Updates so far, to be restored.
    pub fn steps_mut(&mut self) -> &mut u64 {
        &mut self.steps
    }
}

/// Whether Muon updates a tensor: the matrices of layers, each parameter by itself.
fn is_muon(held: &Held) -> bool {
    held.is_matrix() && held.pieces.iter().all(|p| !matches!(p.id.role, Role::Embedding | Role::Head))
}

fn muon_tensor<'a>(
    held: &Held,
    weights: TensorMut<'a>,
    gradients: TensorMut<'a>,
    momentum: TensorMut<'a>,
) -> MuonTensor<'a> {
    MuonTensor {
        weights: weights.into_values(),
        gradients: gradients.into_values(),
        momentum: momentum.into_values(),
        cols: held.shape[1],
        matrices: held.pieces.iter().map(|p| (0..p.rows).map(|row| p.held_row(row)).collect()).collect(),
    }
}

fn adam_tensor<'a>(
    held: &Held,
    weights: TensorMut<'a>,
    gradients: TensorMut<'a>,
    first: TensorMut<'a>,
    second: TensorMut<'a>,
) -> AdamWTensor<'a> {
    AdamWTensor {
        weights: weights.into_values(),
        gradients: gradients.into_values(),
        first: first.into_values(),
        second: second.into_values(),
        decay: held.is_matrix(),
    }
}
