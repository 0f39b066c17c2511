//! How long is a step? Every part of it, from the peak of the devices down to what is left.

use super::memory::layer_bytes;
use crate::efficiency::Efficiency;
use crate::hardware::{Cluster, Precision};
use crate::layout::{Job, Layout, LayoutError, StateBytes};
use crate::link::Group;
use mesh::schedule::{Costs, Schedule, Timeline};
use serde::Serialize;
use spec::{Ffn, Layer};

/// Seconds of one step, part by part; the parts add up to [`Step::seconds`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Step {
    /// From one step to the next.
    pub seconds: f64,
    /// Micro-batches of the busiest replica.
    pub micro_batches: usize,
    /// What the model's FLOPs take at the peak of all devices that work.
    pub peak: f64,
    /// What kernels take beyond it.
    pub kernels: f64,
    /// Activations computed again.
    pub recomputation: f64,
    /// Exchanges of tensor and expert parallelism that nothing hides.
    pub communication: f64,
    /// Waiting for other stages, hops between them, and micro-batches that do not come out even.
    pub bubble: f64,
    /// Gradients added up over replicas, as far as nothing hides it.
    pub exchange: f64,
    /// The optimiser.
    pub optimiser: f64,
}

impl Step {
    /// Share of the peak that goes into the model's FLOPs.
    pub fn mfu(&self) -> f64 {
        self.peak / self.seconds
    }

    /// The parts with their names, in the order of a waterfall.
    pub fn parts(&self) -> [(&'static str, f64); 7] {
        [
            ("peak", self.peak),
            ("kernels", self.kernels),
            ("recomputation", self.recomputation),
            ("communication", self.communication),
            ("bubble", self.bubble),
            ("data-parallel exchange", self.exchange),
            ("optimiser", self.optimiser),
        ]
    }
}

/// What a layout computes, timed.
pub struct Timing<'a> {
    job: &'a Job,
    cluster: &'a Cluster,
    layout: &'a Layout,
    efficiency: Efficiency,
}

/// Seconds of one micro-batch in some layers.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    forward: f64,
    backward_input: f64,
    backward_weight: f64,
    recomputed: f64,
    /// Exchanges of the forward pass; the backward pass has as many.
    exchanged: f64,
}

impl Work {
    fn add(self, other: Self) -> Self {
        Self {
            forward: self.forward + other.forward,
            backward_input: self.backward_input + other.backward_input,
            backward_weight: self.backward_weight + other.backward_weight,
            recomputed: self.recomputed + other.recomputed,
            exchanged: self.exchanged + other.exchanged,
        }
    }

    fn computed(self) -> f64 {
        self.forward + self.backward_input + self.backward_weight
    }
}

impl<'a> Timing<'a> {
    /// Of a job in a layout on a cluster.
    pub fn new(job: &'a Job, cluster: &'a Cluster, layout: &'a Layout, efficiency: Efficiency) -> Self {
        Self { job, cluster, layout, efficiency }
    }

    /// A step of `tokens`, and when each stage does what.
    ///
    /// # Errors
    /// A schedule that cannot be followed.
    pub fn step(&self, tokens: u64) -> Result<(Step, Timeline), LayoutError> {
        let micro_batches = self.layout.micro_batches(self.job, tokens);
        let schedule = self.layout.schedule(micro_batches)?;
        self.step_with(tokens, &schedule)
    }

    /// The same with a schedule that was made before.
    ///
    /// # Errors
    /// A schedule that cannot be followed.
    pub fn step_with(&self, tokens: u64, schedule: &Schedule) -> Result<(Step, Timeline), LayoutError> {
        let (stages, chunks) = (self.layout.recipe.pipeline, self.layout.recipe.interleave);
        let work: Vec<_> =
            (0..chunks).flat_map(|c| (0..stages).map(move |s| (s, c))).map(|(s, c)| self.chunk(s, c)).collect();
        let exposed = 1.0 - self.efficiency.overlap;
        let costs = Costs {
            forward: work.iter().map(|w| w.forward + exposed * w.exchanged).collect(),
            backward_input: work
                .iter()
                .map(|w| w.backward_input + w.recomputed + exposed * w.exchanged * self.backward_exchanges())
                .collect(),
            backward_weight: work.iter().map(|w| w.backward_weight).collect(),
            hop: self.hop(),
        };
        let stuck = |source| LayoutError::Schedule { chunks, micro_batches: schedule.micro_batches, stages, source };
        let timeline = schedule.timeline(&costs).map_err(stuck)?;

        // Of a stage in the mean, and of as many micro-batches as replicas have in the mean.
        let mean = tokens as f64 / (self.layout.micro_batch_tokens(self.job) * self.layout.data as f64);
        let all = work.iter().fold(Work::default(), |sum, work| sum.add(*work));
        let each = |seconds: f64| seconds * mean / stages as f64;
        let computed = each(all.computed());
        let recomputation = each(all.recomputed);
        let communication = each(exposed * all.exchanged * (1.0 + self.backward_exchanges()));
        let flops = self.job.flops.training() as f64 * tokens as f64;
        let peak = flops / (self.layout.devices() as f64 * self.peak());
        let (exchange, optimiser) = self.update(&costs);
        let step = Step {
            seconds: timeline.seconds + exchange + optimiser,
            micro_batches: schedule.micro_batches,
            peak,
            kernels: computed - peak,
            recomputation,
            communication,
            bubble: timeline.seconds - computed - recomputation - communication,
            exchange,
            optimiser,
        };
        Ok((step, timeline))
    }

    /// FLOP per second of a device at its peak.
    pub fn peak(&self) -> f64 {
        let precision = if self.job.bytes == StateBytes::F32 { Precision::F32 } else { Precision::Bf16 };
        self.cluster.accelerator.peak(precision)
    }

    /// How often the backward pass exchanges what the forward pass does: once, and once more for what is computed again.
    fn backward_exchanges(&self) -> f64 {
        if self.layout.recompute { 2.0 } else { 1.0 }
    }

    fn hop(&self) -> f64 {
        if self.layout.recipe.pipeline == 1 {
            return 0.0;
        }
        let stride = self.layout.recipe.tensor * self.layout.data;
        let bytes = self.residual_bytes() / self.layout.recipe.tensor as f64;
        Group::new(&self.cluster.accelerator, 2, stride, self.efficiency.links).send(bytes)
    }

    /// Bytes of the residual stream of a micro-batch.
    fn residual_bytes(&self) -> f64 {
        self.layout.micro_batch_tokens(self.job) * self.job.config.hidden_size as f64 * self.job.bytes.weight
    }

    fn chunk(&self, stage: usize, chunk: usize) -> Work {
        let layers = &self.job.config.layers[self.layout.chunk(self.job, stage, chunk)];
        let work = layers.iter().map(|layer| self.layer(layer)).fold(Work::default(), Work::add);
        let is_last = stage + 1 == self.layout.recipe.pipeline && chunk + 1 == self.layout.recipe.interleave;
        if is_last { work.add(self.head()) } else { work }
    }

    fn head(&self) -> Work {
        let tokens = self.layout.micro_batch_tokens(self.job) / self.layout.recipe.tensor as f64;
        let seconds = self.job.flops.head as f64 * tokens / (self.peak() * self.efficiency.training_products());
        Work { forward: seconds, backward_input: seconds, backward_weight: seconds, ..Work::default() }
    }

    fn layer(&self, layer: &Layer) -> Work {
        let (config, accelerator) = (&self.job.config, &self.cluster.accelerator);
        let tensor = self.layout.recipe.tensor;
        let tokens = self.layout.micro_batch_tokens(self.job);
        let one = spec::DecoderConfig { layers: vec![layer.clone()], ..config.clone() };
        let flops = one.token_flops(self.job.context);
        let seconds = |flops: u64, share: f64| flops as f64 * tokens / tensor as f64 / (self.peak() * share);
        let products = seconds(flops.layers, self.efficiency.training_products());
        let attention = seconds(flops.attention, self.efficiency.attention);
        // What lies between products is written once and read once; so are the weights, and their gradients read and written.
        let rate = accelerator.bandwidth.value * self.efficiency.activations;
        let weights = self.weights(&one) * self.job.bytes.weight / rate;
        let gradients = 2.0 * self.weights(&one) * self.job.bytes.gradient / rate;
        let moving = 2.0 * tokens * layer_bytes(self.job, self.layout, layer) / rate + weights;
        let forward = products + attention + moving;
        // Gradients of attention compute its scores again: five products for two.
        let backward_input = products + 2.5 * attention + moving;
        let sums = 2.0 * Group::new(accelerator, tensor, 1, self.efficiency.links).all_reduce(self.residual_bytes());
        Work {
            forward,
            backward_input,
            backward_weight: products + gradients,
            recomputed: if self.layout.recompute { forward } else { 0.0 },
            exchanged: sums + self.routing(layer),
        }
    }

    /// Elements of a layer on one device; `one` is the decoder with that layer alone.
    fn weights(&self, one: &spec::DecoderConfig) -> f64 {
        let layer = &one.count_parameters().layers[0];
        let experts = (one.experts(0) as u64 * layer.expert) as f64;
        let shared = (layer.attention + layer.ffn) as f64 - experts;
        (shared + experts / self.layout.recipe.expert as f64) / self.layout.recipe.tensor as f64
    }

    /// Seconds in which rows go to their experts and come back.
    fn routing(&self, layer: &Layer) -> f64 {
        let Ffn::Experts(experts) = &layer.ffn else { return 0.0 };
        let tensor = self.layout.recipe.tensor;
        let group = Group::new(&self.cluster.accelerator, self.layout.recipe.expert, tensor, self.efficiency.links);
        2.0 * group.all_to_all(experts.top_k as f64 * self.residual_bytes() / tensor as f64)
    }

    /// Seconds of adding up gradients that no work hides, and of the optimiser, on the fullest stage. Gradients of all but the last micro-batch's backward pass, and
    /// weights of the first forward pass, have to wait for nothing else.
    fn update(&self, costs: &Costs) -> (f64, f64) {
        let layout = self.layout;
        let held = [0, layout.recipe.pipeline - 1]
            .map(|stage| self.job.table.held(&self.job.config, &layout.part(self.job, stage)));
        let (shared, experts) =
            (held[0].shared.max(held[1].shared) as f64, held[0].experts.max(held[1].experts) as f64);
        let copies = layout.data / layout.recipe.expert;
        let exchange = |bytes: f64| {
            let group = |ranks, stride| Group::new(&self.cluster.accelerator, ranks, stride, self.efficiency.links);
            let dense = group(layout.data, layout.recipe.tensor).reduce_scatter(shared * bytes);
            dense + group(copies, layout.recipe.tensor * layout.recipe.expert).reduce_scatter(experts * bytes)
        };
        let longest = |costs: &[f64]| costs.iter().copied().fold(0.0, f64::max);
        let backward = longest(&costs.backward_input) + longest(&costs.backward_weight);
        let hidden = |seconds: f64, behind: f64| (seconds - behind).max(0.0);
        let exposed = hidden(exchange(self.job.bytes.gradient), backward)
            + hidden(exchange(self.job.bytes.weight), longest(&costs.forward));
        // Read gradients and state, write state and weights.
        let state = self.job.bytes.gradient + 2.0 * self.job.bytes.optimiser + self.job.bytes.weight;
        let over = |count: usize| if layout.recipe.zero { count as f64 } else { 1.0 };
        let updated = shared / over(layout.data) + experts / over(copies);
        let rate = self.cluster.accelerator.bandwidth.value * self.efficiency.activations;
        (exposed, updated * state / rate)
    }
}
