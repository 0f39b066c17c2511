//! How long is a step? Every part of it, from the peak of the devices down to what is left.

use super::layer::{Kernels, Work};
use crate::efficiency::Training;
use crate::hardware::Cluster;
use crate::layout::{Job, Layout, LayoutError};
use crate::link::Group;
use mesh::schedule::{Costs, Schedule, Timeline};
use serde::Serialize;

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
    efficiency: Training,
}

impl<'a> Timing<'a> {
    /// Of a job in a layout on a cluster.
    pub fn new(job: &'a Job, cluster: &'a Cluster, layout: &'a Layout, efficiency: Training) -> Self {
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
        let costs = Costs {
            forward: work.iter().map(|w| w.forward + w.exchanged).collect(),
            backward_input: work.iter().map(|w| w.backward_input + w.recomputed + w.exchanged_back).collect(),
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
        let communication = each(all.exchanged + all.exchanged_back);
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
        self.cluster.accelerator.peak(self.job.precision)
    }

    fn hop(&self) -> f64 {
        if self.layout.recipe.pipeline == 1 {
            return 0.0;
        }
        let stride = self.layout.recipe.tensor * self.layout.data;
        let bytes = self.kernels().residual_bytes() / self.layout.recipe.tensor as f64;
        Group::new(&self.cluster.accelerator, 2, stride, self.efficiency.links).send(bytes)
    }

    fn kernels(&self) -> Kernels<'_> {
        Kernels {
            job: self.job,
            layout: self.layout,
            accelerator: &self.cluster.accelerator,
            efficiency: self.efficiency,
        }
    }

    fn chunk(&self, stage: usize, chunk: usize) -> Work {
        let kernels = self.kernels();
        let layers = &self.job.config.layers[self.layout.chunk(self.job, stage, chunk)];
        let work = layers.iter().map(|layer| kernels.layer(layer)).fold(Work::default(), Work::add);
        let is_last = stage + 1 == self.layout.recipe.pipeline && chunk + 1 == self.layout.recipe.interleave;
        if is_last { work.add(kernels.head()) } else { work }
    }

    /// Seconds of adding up gradients that no work hides, and of the optimiser, on the fullest stage. Gradients are exchanged behind the last
    /// backward passes, weights behind the first forward passes.
    fn update(&self, costs: &Costs) -> (f64, f64) {
        let layout = self.layout;
        let held = [0, layout.recipe.pipeline - 1].map(|stage| self.job.held(&layout.part(self.job, stage)));
        let (shared, experts) =
            (held[0].shared.max(held[1].shared) as f64, held[0].experts.max(held[1].experts) as f64);
        let copies = layout.data / layout.recipe.expert;
        let exchange = |bytes: f64| {
            let group = |ranks, stride| Group::new(&self.cluster.accelerator, ranks, stride, self.efficiency.links);
            let dense = group(layout.data, layout.recipe.tensor).reduce_scatter(shared * bytes);
            dense + group(copies, layout.recipe.tensor * layout.recipe.expert).reduce_scatter(experts * bytes)
        };
        // Of one micro-batch on the busiest stage, all of its chunks.
        let stages = layout.recipe.pipeline;
        let busiest = |costs: &[f64]| {
            let stage = |stage: usize| costs.iter().skip(stage).step_by(stages).sum::<f64>();
            (0..stages).map(stage).fold(0.0, f64::max)
        };
        // A chunk's gradients are done when the others still have theirs of a group of micro-batches to come; its weights are needed as late.
        let (chunks, group) = (layout.recipe.interleave as f64, if layout.recipe.interleave > 1 { stages } else { 1 });
        let left = |of_one: f64| of_one * (group as f64 * (chunks - 1.0) + 1.0) / chunks;
        let backward = left(busiest(&costs.backward_input) + busiest(&costs.backward_weight));
        let forward = left(busiest(&costs.forward));
        let beside = if self.job.practice.gradient_overlap { 1.0 } else { 0.0 };
        let hidden = |seconds: f64, behind: f64| (seconds - beside * behind).max(0.0);
        let exchanged =
            hidden(exchange(self.job.bytes.gradient), backward) + hidden(exchange(self.job.bytes.weight), forward);
        // Fully sharded, both were exchanged layer by layer.
        let exposed = if layout.recipe.sharded { 0.0 } else { exchanged };
        // Read gradients and state, write state and weights.
        let state = self.job.bytes.gradient + 2.0 * self.job.bytes.optimiser + self.job.bytes.weight;
        let over = |count: usize| if layout.recipe.zero || layout.recipe.sharded { count as f64 } else { 1.0 };
        let updated = shared / over(layout.data) + experts / over(copies);
        let rate = self.cluster.accelerator.bandwidth.value * self.efficiency.bandwidth;
        (exposed, updated * state / rate)
    }
}
