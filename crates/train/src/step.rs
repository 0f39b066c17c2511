//! One step's forward and backward pass: a batch in micro-batches, and what it showed.

use crate::failpoint;
use data::Sample;
use model::Decoder;
use model::training::{Losses, MicroBatch, Objective};
use tensor::{Device, IGNORE};

/// Samples as the decoder takes them: documents one after the other.
#[derive(Default)]
pub(crate) struct Rows {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    documents: Vec<usize>,
}

impl Rows {
    pub(crate) fn new(samples: &[Sample]) -> Self {
        let mut rows = Self::default();
        samples.iter().for_each(|sample| rows.push(sample));
        rows
    }

    fn push(&mut self, sample: &Sample) {
        let context = sample.tokens.len() - 1;
        self.tokens.extend(&sample.tokens[..context]);
        let counts = |i: usize| sample.loss_mask.as_ref().is_none_or(|mask| mask[i]);
        self.targets.extend((1..=context).map(|i| if counts(i) { sample.tokens[i] } else { IGNORE }));
        let starts = sample.document_starts.iter().map(|&start| start as usize);
        let ends = starts.clone().skip(1).chain([context]);
        self.documents.extend(starts.zip(ends).map(|(start, end)| end - start));
    }

    pub(crate) fn micro_batch(&self) -> MicroBatch<'_> {
        MicroBatch { tokens: &self.tokens, targets: &self.targets, documents: &self.documents }
    }
}

/// A sum of losses and how many there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    /// Adds the losses of a sample: one of each position, 0 where there is no target.
    pub(crate) fn add(&mut self, losses: &[f32], targets: usize) {
        self.sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        self.count += targets as u64;
    }

    /// The mean; nothing where there is nothing.
    pub fn get(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// How one layer's choices fall to its experts.
#[derive(Clone, Debug, Default)]
pub struct LayerLoad {
    /// Choices of each expert.
    pub choices: Vec<u64>,
    /// Choices that the experts had no room for.
    pub dropped: u64,
    /// Mean entropy of the router's probabilities, in nats.
    pub router_entropy: f64,
}

/// What a batch showed.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The cross-entropy of every target.
    pub loss: Mean,
    /// The same by source.
    pub sources: Vec<Mean>,
    /// The balance loss, coefficient apart.
    pub balance: f64,
    /// The router z-loss, coefficient apart.
    pub z: f64,
    /// Targets.
    pub targets: u64,
    /// Layers that have experts.
    pub layers: Vec<LayerLoad>,
}

impl Measured {
    fn add(&mut self, samples: &[Sample], losses: &Losses, share: f64) {
        let context = losses.tokens.len() / samples.len();
        for (sample, tokens) in samples.iter().zip(losses.tokens.chunks(context)) {
            self.loss.add(tokens, sample.targets());
            self.sources[sample.source].add(tokens, sample.targets());
        }
        self.balance += share * f64::from(losses.balance);
        self.z += share * f64::from(losses.z);
        self.layers.resize_with(losses.loads.len(), LayerLoad::default);
        for ((layer, load), &entropy) in self.layers.iter_mut().zip(&losses.loads).zip(&losses.entropies) {
            layer.choices.resize(load.len(), 0);
            layer.choices.iter_mut().zip(load).for_each(|(sum, &load)| *sum += u64::from(load));
            layer.router_entropy += share * f64::from(entropy);
        }
        self.layers.iter_mut().zip(&losses.dropped).for_each(|(layer, &dropped)| layer.dropped += u64::from(dropped));
    }
}

/// Adds the gradients of a batch to `gradients`, `micro_batch` samples at a time. The weight of every target is known beforehand: one over
/// the targets of the whole batch.
pub(crate) fn measure(
    decoder: &Decoder,
    device: &mut Device,
    samples: &[Sample],
    sources: usize,
    micro_batch: usize,
    objective: &Objective,
    gradients: &mut Decoder,
) -> Measured {
    let targets: usize = samples.iter().map(Sample::targets).sum();
    let scale = if targets > 0 { 1.0 / targets as f32 } else { 0.0 };
    let mut measured =
        Measured { sources: vec![Mean::default(); sources], targets: targets as u64, ..Measured::default() };
    for part in samples.chunks(micro_batch) {
        let share = part.len() as f64 / samples.len() as f64;
        let objective = Objective { scale, share: share as f32, ..*objective };
        let rows = Rows::new(part);
        let losses = decoder.loss_and_gradients(device, &rows.micro_batch(), &objective, gradients);
        measured.add(part, &losses, share);
        // A pause inside a step; it cannot fail.
        let _ = failpoint::pass("step");
    }
    measured
}
