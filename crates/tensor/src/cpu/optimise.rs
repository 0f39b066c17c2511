//! Element-wise updates of weights from gradients, in one pass over memory.

use super::Device;
use super::isa::{self, Isa, Kernel};
use std::sync::Mutex;

/// Elements of one unit of work; sums are formed per unit and then in order, so they do not depend on the workers.
const UNIT: usize = 1 << 16;

/// The numbers of one AdamW update (Loshchilov and Hutter 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// What gradients are multiplied by first: clipping.
    pub gradient_scale: f32,
    /// Updates so far, this one included.
    pub step: u64,
}

/// One tensor's weights, gradients and moments, elements in the same order.
pub struct AdamWTensor<'a> {
    /// Weights, updated.
    pub weights: &'a mut [f32],
    /// Gradients, cleared.
    pub gradients: &'a mut [f32],
    /// First moments, updated.
    pub first: &'a mut [f32],
    /// Second moments, updated.
    pub second: &'a mut [f32],
    /// Whether weight decay applies.
    pub decay: bool,
}

impl AdamWTensor<'_> {
    fn units(self) -> impl Iterator<Item = Self> {
        let decay = self.decay;
        let weights = self.weights.chunks_mut(UNIT);
        let gradients = self.gradients.chunks_mut(UNIT);
        let moments = self.first.chunks_mut(UNIT).zip(self.second.chunks_mut(UNIT));
        weights.zip(gradients).zip(moments).map(move |((weights, gradients), (first, second))| Self {
            weights,
            gradients,
            first,
            second,
            decay,
        })
    }
}

struct Update<'u, 'a> {
    adam: AdamW,
    unit: &'u mut AdamWTensor<'a>,
}

impl Kernel for Update<'_, '_> {
    #[inline(always)]
    #[allow(unsafe_code)]
    unsafe fn run<I: Isa>(self) {
        let AdamW { lr, beta1, beta2, eps, weight_decay, gradient_scale, step } = self.adam;
        let correction = |beta: f32| (1.0 - f64::from(beta).powf(step as f64)) as f32;
        let (rate, root) = (lr / correction(beta1), 1.0 / correction(beta2).sqrt());
        let keep = if self.unit.decay { 1.0 - lr * weight_decay } else { 1.0 };
        let AdamWTensor { weights, gradients, first, second, .. } = self.unit;
        for (((w, g), m), v) in
            weights.iter_mut().zip(gradients.iter_mut()).zip(first.iter_mut()).zip(second.iter_mut())
        {
            let gradient = *g * gradient_scale;
            *m = beta1 * *m + (1.0 - beta1) * gradient;
            *v = beta2 * *v + (1.0 - beta2) * gradient * gradient;
            *w = *w * keep - rate * *m / (v.sqrt() * root + eps);
            *g = 0.0;
        }
    }
}

impl Device {
    /// Updates every tensor and clears its gradients, in one pass.
    pub fn adamw(&mut self, adam: AdamW, tensors: Vec<AdamWTensor<'_>>) {
        let units: Vec<_> = tensors.into_iter().flat_map(AdamWTensor::units).map(Mutex::new).collect();
        let level = self.level;
        self.pool.for_each(units.len(), &|unit, _| {
            if let Ok(mut unit) = units[unit].lock() {
                // SAFETY: the level was detected by the device.
                #[allow(unsafe_code)]
                unsafe {
                    isa::run(level, Update { adam, unit: &mut unit });
                }
            }
        });
    }

    /// The sum of the squares of all elements, in f64.
    pub fn sum_of_squares(&mut self, tensors: &[&[f32]]) -> f64 {
        let units: Vec<&[f32]> = tensors.iter().flat_map(|t| t.chunks(UNIT)).collect();
        let sums: Vec<_> = units.iter().map(|_| Mutex::new(0f64)).collect();
        self.pool.for_each(units.len(), &|unit, _| {
            if let Ok(mut sum) = sums[unit].lock() {
                let mut lanes = [0f64; 8];
                let (chunks, rest) = units[unit].as_chunks::<8>();
                for chunk in chunks {
                    lanes.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
                }
                *sum = lanes.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            }
        });
        sums.into_iter().map(|sum| sum.into_inner().unwrap_or(f64::NAN)).sum()
    }
}
