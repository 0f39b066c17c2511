//! How much does a device hold while it trains?

use crate::layout::{Job, Layout};
use crate::practice::Recompute;
use mesh::schedule::Schedule;
use serde::Serialize;
use spec::{Ffn, Layer};

/// Bytes of a device that no tensor of the step takes: the driver's context, communication buffers, fragments. Assumed; published serving stacks leave
/// about as much.
pub const RESERVE: f64 = 2e9;

/// Bytes on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Weights that are computed with.
    pub weights: f64,
    /// Their gradients.
    pub gradients: f64,
    /// Master weights and moments.
    pub optimiser: f64,
    /// What the forward pass keeps for the backward pass, of all micro-batches in flight, and what one layer works in.
    pub activations: f64,
    /// [`RESERVE`].
    pub buffers: f64,
}

impl Memory {
    /// All of it.
    pub fn total(self) -> f64 {
        self.weights + self.gradients + self.optimiser + self.activations + self.buffers
    }

    /// The fullest device. It is one of the first, second or last stage: the first looks up embeddings, the last computes logits, and of those between
    /// none has more layers or more micro-batches in flight than the second.
    pub fn worst(job: &Job, layout: &Layout, schedule: &Schedule) -> Self {
        fullest(layout, |stage| Self::of_stage(job, layout, schedule, stage))
    }

    /// The same without activations, which no schedule changes.
    pub fn worst_state(job: &Job, layout: &Layout) -> Self {
        fullest(layout, |stage| Self::state(job, layout, stage))
    }

    /// A device of one stage.
    pub fn of_stage(job: &Job, layout: &Layout, schedule: &Schedule, stage: usize) -> Self {
        Self { activations: activations(job, layout, schedule, stage), ..Self::state(job, layout, stage) }
    }

    fn state(job: &Job, layout: &Layout, stage: usize) -> Self {
        let part = layout.part(job, stage);
        let held = job.held(&part);
        // Ranks that hold the same divide what is not computed with.
        let shares = [(held.shared, layout.data), (held.experts, layout.data / layout.recipe.expert)];
        let divided = shares.map(|(held, copies)| held as f64 / copies as f64).iter().sum::<f64>();
        let (whole, sharded) = (held.total() as f64, layout.recipe.sharded);
        let over = |is_divided: bool| if is_divided { divided } else { whole };
        // Fully sharded, weights are kept with the optimiser, and whole for the layers that are computed with: this one, the next, and what is outside.
        let at_hand = if sharded { job.bytes.weight * gathered(job, layout, stage) } else { 0.0 };
        let kept = if sharded { 0.0 } else { whole * job.bytes.weight };
        Self {
            weights: kept + at_hand,
            gradients: over(sharded) * job.bytes.gradient,
            optimiser: over(layout.recipe.zero || sharded) * job.bytes.optimiser,
            activations: 0.0,
            buffers: RESERVE,
        }
    }
}

/// Elements that are whole on a device while the rest is sharded: two layers, embedding and head.
fn gathered(job: &Job, layout: &Layout, stage: usize) -> f64 {
    let layers = layout.part(job, stage).layers.into_iter().flatten();
    let of_layer = |index: usize| job.layer_elements(&job.config.layers[index], layout.recipe.expert);
    let largest = layers.map(of_layer).fold(0.0, f64::max);
    let ends = usize::from(stage == 0) + usize::from(stage + 1 == layout.recipe.pipeline && !job.config.tie_embeddings);
    let outside = (ends * job.config.vocab_size * job.config.hidden_size) as f64;
    (2.0 * largest + outside) / layout.recipe.tensor as f64
}

fn fullest(layout: &Layout, of_stage: impl Fn(usize) -> Memory) -> Memory {
    let last = layout.recipe.pipeline - 1;
    let stages = [0, 1.min(last), last];
    let larger = |a: Memory, b: Memory| if b.total() > a.total() { b } else { a };
    stages.into_iter().map(of_stage).fold(Memory::default(), larger)
}

fn activations(job: &Job, layout: &Layout, schedule: &Schedule, stage: usize) -> f64 {
    let (config, tokens) = (&job.config, layout.micro_batch_tokens(job));
    let tensor = layout.recipe.tensor as f64;
    let layers = |chunk| layout.chunk(job, stage, chunk);
    let of_layer = |index: usize| layer_bytes(job, layout, &config.layers[index]);
    let residual = config.hidden_size as f64 * job.bytes.weight / sequence(job, layout);
    let kept_of = |index: usize| match layout.recompute {
        Recompute::Layers => residual,
        Recompute::Alternate => residual + alternate_bytes(job, layout, &config.layers[index]),
        Recompute::Nothing | Recompute::Scores => of_layer(index),
    };
    // Chunks in flight are counted alike: the largest stands for all.
    let chunk = |chunk| layers(chunk).map(kept_of).sum::<f64>();
    let largest = (0..layout.recipe.interleave).map(chunk).fold(0.0, f64::max);
    let working = (0..layout.recipe.interleave).flat_map(layers).map(of_layer).fold(0.0, f64::max);
    let again = matches!(layout.recompute, Recompute::Layers | Recompute::Alternate);
    let working = if again { working } else { 0.0 };
    let last = stage + 1 == layout.recipe.pipeline;
    let logits = if last { (config.vocab_size * job.practice.logit_bytes) as f64 / tensor } else { 0.0 };
    tokens * (schedule.in_flight(stage) as f64 * largest + working + logits)
}

/// What the residual stream is divided by.
fn sequence(job: &Job, layout: &Layout) -> f64 {
    if job.practice.sequence { layout.recipe.tensor as f64 } else { 1.0 }
}

/// Widths, over tensor ranks, of queries, of keys with values, of attention's output and of what lies compressed before them.
fn attention_widths(job: &Job, layout: &Layout) -> [f64; 4] {
    let (config, tensor) = (&job.config, layout.recipe.tensor as f64);
    match &job.latent {
        Some(latent) => {
            let heads = config.heads as f64 / tensor;
            let [score, value] = [latent.score(), latent.value].map(|width| heads * width as f64);
            [score, score + value, value, (latent.q + latent.cached()) as f64]
        }
        None => {
            let query = config.q_size() as f64 / tensor;
            [query, 2.0 * config.kv_size() as f64 / tensor.min(config.kv_heads as f64), query, 0.0]
        }
    }
}

/// Bytes of activations of one token that the gradients of a layer need, on each rank of a tensor-parallel group: what spans the residual stream is
/// divided along the sequence if the trainer does so (Korthikanti 2022), and attention keeps no scores if it is written so (Dao 2022).
pub fn layer_bytes(job: &Job, layout: &Layout, layer: &Layer) -> f64 {
    let (config, practice) = (&job.config, &job.practice);
    let tensor = layout.recipe.tensor as f64;
    let hidden = config.hidden_size as f64 / sequence(job, layout);
    // Inputs and outputs of both norms; gate, up and their product.
    let residual = 4.0 * hidden;
    let attention: f64 = attention_widths(job, layout).iter().sum();
    let network = |size: usize| 3.0 * size as f64 / tensor;
    let ffn = match &layer.ffn {
        Ffn::Dense(dense) => network(dense.ffn_size),
        Ffn::Experts(experts) => {
            // Rows sent to experts and what comes back from them.
            let rows = 2.0 * hidden + network(experts.expert.ffn_size);
            experts.top_k as f64 * rows + experts.shared.as_ref().map_or(0.0, |shared| network(shared.ffn_size))
        }
    };
    let masks = if practice.dropout { 2.0 * hidden } else { 0.0 };
    (residual + attention + ffn) * job.bytes.weight + masks + score_bytes(job, layout)
}

/// The same of attention's scores: none but the softmax's sum, or softmax and what is left of it after dropout, with its mask.
fn score_bytes(job: &Job, layout: &Layout) -> f64 {
    let heads = job.config.heads as f64 / layout.recipe.tensor as f64;
    if job.practice.flash || layout.recompute == Recompute::Scores {
        return if job.practice.flash { 4.0 * heads } else { 0.0 };
    }
    let dropped = if job.practice.dropout { job.bytes.weight + 1.0 } else { 0.0 };
    heads * job.context as f64 * (job.bytes.weight + dropped)
}

/// Bytes of one token that are kept if every second product is computed again: what the others give (queries, keys and values counted as half), and attention.
fn alternate_bytes(job: &Job, layout: &Layout, layer: &Layer) -> f64 {
    let tensor = layout.recipe.tensor as f64;
    let [query, keys, output, _] = attention_widths(job, layout);
    let hidden = job.config.hidden_size as f64 / sequence(job, layout);
    let network = |size: usize| size as f64 / tensor;
    let ffn = match &layer.ffn {
        Ffn::Dense(dense) => network(dense.ffn_size) + hidden,
        Ffn::Experts(experts) => {
            experts.top_k as f64 * (network(experts.expert.ffn_size) + hidden)
                + experts.shared.as_ref().map_or(0.0, |shared| network(shared.ffn_size) + hidden)
        }
    };
    (query + keys / 2.0 + output + ffn) * job.bytes.weight + 4.0 * job.config.heads as f64 / tensor
}
