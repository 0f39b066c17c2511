//! How much does a device hold while it trains?

use crate::layout::{Job, Layout};
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
        let held = job.table.held(&job.config, &part);
        let total = held.total() as f64;
        let over = |copies: usize| if layout.recipe.zero { copies as f64 } else { 1.0 };
        let optimiser =
            held.shared as f64 / over(layout.data) + held.experts as f64 / over(layout.data / layout.recipe.expert);
        Self {
            weights: total * job.bytes.weight,
            gradients: total * job.bytes.gradient,
            optimiser: optimiser * job.bytes.optimiser,
            activations: 0.0,
            buffers: RESERVE,
        }
    }
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
    let kept_of = |index: usize| match layout.recompute {
        true => config.hidden_size as f64 * job.bytes.weight / tensor,
        false => of_layer(index),
    };
    // Chunks in flight are counted alike: the largest stands for all.
    let chunk = |chunk| layers(chunk).map(kept_of).sum::<f64>();
    let largest = (0..layout.recipe.interleave).map(chunk).fold(0.0, f64::max);
    let working = (0..layout.recipe.interleave).flat_map(layers).map(of_layer).fold(0.0, f64::max);
    let working = if layout.recompute { working } else { 0.0 };
    // Logits as computed, and in f32 with their gradient in place.
    let last = stage + 1 == layout.recipe.pipeline;
    let logits = if last { config.vocab_size as f64 / tensor * (job.bytes.weight + 4.0) } else { 0.0 };
    tokens * (schedule.in_flight(stage) as f64 * largest + working + logits)
}

/// Bytes of activations of one token that the gradients of a layer need, on each rank of a tensor-parallel group: what spans the residual stream is
/// divided along the sequence (Korthikanti 2022), and attention keeps no scores (Dao 2022).
pub fn layer_bytes(job: &Job, layout: &Layout, layer: &Layer) -> f64 {
    let config = &job.config;
    let tensor = layout.recipe.tensor as f64;
    let hidden = config.hidden_size as f64;
    let keys = config.kv_size() as f64 / (layout.recipe.tensor.min(config.kv_heads)) as f64;
    // Input and output of the norm; Q, attention's output, K and V.
    let attention = 2.0 * hidden / tensor + 2.0 * config.q_size() as f64 / tensor + 2.0 * keys;
    let statistics = 4.0 * config.heads as f64 / tensor;
    // Gate, up and their product.
    let network = |size: usize| 3.0 * size as f64 / tensor;
    let ffn = match &layer.ffn {
        Ffn::Dense(dense) => network(dense.ffn_size),
        Ffn::Experts(experts) => {
            // Rows sent to experts and what comes back from them.
            let rows = 2.0 * hidden / tensor + network(experts.expert.ffn_size);
            experts.top_k as f64 * rows + experts.shared.as_ref().map_or(0.0, |shared| network(shared.ffn_size))
        }
    };
    (attention + 2.0 * hidden / tensor + ffn) * job.bytes.weight + statistics
}
