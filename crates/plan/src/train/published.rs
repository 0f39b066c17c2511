//! Are plans right about others' runs? Published step times and memory beside what is planned for them.

use super::{Memory, Timing, TrainError};
use crate::efficiency::{Efficiency, Training};
use crate::hardware::{Catalogue, Cluster, HardwareError, Precision};
use crate::latent::Latent;
use crate::layout::{Job, Layout, LayoutError, StateBytes};
use crate::practice::{Practice, Recompute};
use serde::{Deserialize, Serialize};
use spec::recipe::{LayoutRecipe, ModelRecipe, PipelineSchedule};
use spec::{DecoderConfig, DenseFfn, Ffn};
use thiserror::Error;

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// A published run: facts, with their source.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its name here.
    pub id: String,
    /// Where it is published.
    pub source: String,
    hardware: String,
    devices: usize,
    model: Model,
    work: Division,
    /// How its trainer is written; ours where the publication says nothing.
    #[serde(default)]
    practice: Practice,
    /// Seconds of a step, as measured.
    pub step_seconds: Option<f64>,
    /// GiB on a device.
    pub memory: Option<Gib>,
    /// What is assumed of it, and how the figure follows from what was published.
    #[serde(default)]
    pub note: String,
    /// Whether constants may be fitted on it. The others only score.
    pub fit: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    layers: usize,
    hidden_size: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    latent: Option<Latent>,
    /// Of each expert, where there are some.
    ffn_size: usize,
    vocab_size: usize,
    #[serde(default)]
    tied: bool,
    experts: Option<usize>,
    top_k: Option<usize>,
    /// Width of the network that every token visits beside its experts.
    shared_ffn_size: Option<usize>,
    /// Layers at the beginning without experts, and how wide their network is.
    dense: Option<[usize; 2]>,
    /// Window of every second layer.
    window: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Division {
    context: usize,
    tensor: usize,
    pipeline: usize,
    #[serde(default = "one")]
    expert: usize,
    #[serde(default = "one")]
    interleave: usize,
    #[serde(default)]
    zero_bubble: bool,
    /// ZeRO-1.
    #[serde(default = "yes")]
    zero: bool,
    #[serde(default)]
    sharded: bool,
    micro_batch: usize,
    #[serde(default)]
    recompute: Recompute,
    sequences: u64,
    /// Of products; bf16 if not given.
    precision: Option<Precision>,
    /// Bytes of a gradient; as wide as the weight if not given.
    gradient_bytes: Option<usize>,
}

/// What a device was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gib {
    /// Weights, gradients and optimiser of a stage's layers.
    pub state: Option<f64>,
    /// Activations of the first stage.
    pub activations: Option<f64>,
    /// All that the allocator took from the device, at most.
    pub reserved: Option<f64>,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

/// A run that cannot be predicted.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum PublishedError {
    /// Facts that are damaged.
    #[error("published runs: {}", .0.to_string().trim_end())]
    Form(#[from] toml::de::Error),
    /// An unknown device.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// A layout that cannot be.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A plan that cannot be made.
    #[error(transparent)]
    Plan(#[from] TrainError),
}

/// A line of a ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predicted {
    /// The run.
    pub id: String,
    /// The device.
    pub hardware: String,
    /// What is predicted, with its unit.
    pub what: &'static str,
    /// As planned.
    pub predicted: f64,
    /// As measured.
    pub measured: f64,
    /// Predicted over measured, less one.
    pub error: f64,
    /// Whether constants were fitted on it.
    pub fit: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Runs {
    run: Vec<Run>,
}

/// The runs that ship with the program.
///
/// # Errors
/// None, unless they are damaged.
pub fn runs() -> Result<Vec<Run>, PublishedError> {
    let runs: Runs = toml::from_str(include_str!("../../figures/training_runs.toml"))?;
    Ok(runs.run)
}

impl Model {
    fn decoder(&self, context: usize) -> Result<DecoderConfig, LayoutError> {
        let model = ModelRecipe {
            family: Some(if self.experts.is_some() { "mixtral" } else { "llama" }.to_owned()),
            vocab_size: Some(self.vocab_size),
            hidden_size: Some(self.hidden_size),
            layers: Some(self.layers),
            heads: Some(self.heads),
            kv_heads: Some(self.kv_heads),
            head_dim: Some(self.head_dim),
            ffn_size: Some(self.ffn_size),
            experts: self.experts,
            top_k: self.top_k,
            tie_embeddings: Some(self.tied),
            ..ModelRecipe::default()
        };
        let mut config = model.decoder(self.vocab_size, context)?;
        for (index, layer) in config.layers.iter_mut().enumerate() {
            layer.attention.window = self.window.filter(|_| index % 2 == 0);
            let Ffn::Experts(experts) = &mut layer.ffn else { continue };
            let of = |ffn_size: usize| DenseFfn { ffn_size, ..experts.expert.clone() };
            if let Some([_, ffn_size]) = self.dense.filter(|[first, _]| index < *first) {
                layer.ffn = Ffn::Dense(of(ffn_size));
            } else {
                experts.shared = self.shared_ffn_size.map(of);
            }
        }
        Ok(config)
    }
}

impl Run {
    /// The device that it ran on, by its name in the catalogue.
    pub fn hardware(&self) -> &str {
        &self.hardware
    }

    fn job(&self) -> Result<Job, LayoutError> {
        let gradient = self.work.gradient_bytes.map_or(StateBytes::BF16.gradient, |bytes| bytes as f64);
        let bytes = StateBytes { gradient, ..StateBytes::BF16 };
        let job = Job::of(self.model.decoder(self.work.context)?, self.work.context, bytes);
        let job = self.model.latent.map_or(job.clone(), |latent| job.with_latent(latent));
        Ok(Job { precision: self.work.precision.unwrap_or(Precision::Bf16), practice: self.practice, ..job })
    }

    fn layout(&self, job: &Job, cluster: &Cluster) -> Result<Layout, LayoutError> {
        let work = &self.work;
        let schedule = match work.interleave {
            _ if work.zero_bubble => PipelineSchedule::ZeroBubble,
            1 => PipelineSchedule::OneForwardOneBackward,
            _ => PipelineSchedule::Interleaved,
        };
        let recipe = LayoutRecipe {
            tensor: work.tensor,
            pipeline: work.pipeline,
            expert: work.expert,
            schedule,
            interleave: work.interleave,
            zero: work.zero,
            sharded: work.sharded,
        };
        Layout::new(job, cluster, recipe, work.micro_batch, work.recompute)
    }

    fn line(&self, what: &'static str, predicted: f64, measured: f64) -> Predicted {
        let (id, hardware) = (self.id.clone(), self.hardware.clone());
        Predicted { id, hardware, what, predicted, measured, error: predicted / measured - 1.0, fit: self.fit }
    }

    /// Seconds of a step with these constants, where it was timed.
    ///
    /// # Errors
    /// A device that is unknown, a model or layout that cannot be.
    pub fn predict(&self, catalogue: &Catalogue, efficiency: Training) -> Result<Option<Predicted>, PublishedError> {
        let Some(measured) = self.step_seconds else { return Ok(None) };
        let cluster = Cluster { accelerator: catalogue.get(&self.hardware)?.clone(), devices: self.devices };
        let job = self.job()?;
        let layout = self.layout(&job, &cluster)?;
        let tokens = self.work.sequences * self.work.context as u64;
        let (step, _) = Timing::new(&job, &cluster, &layout, efficiency).step(tokens)?;
        Ok(Some(self.line("step s", step.seconds, measured)))
    }

    /// The parts of its step with these constants.
    ///
    /// # Errors
    /// As [`Run::predict`].
    pub fn step(&self, catalogue: &Catalogue, efficiency: Training) -> Result<super::Step, PublishedError> {
        let cluster = Cluster { accelerator: catalogue.get(&self.hardware)?.clone(), devices: self.devices };
        let job = self.job()?;
        let layout = self.layout(&job, &cluster)?;
        let tokens = self.work.sequences * self.work.context as u64;
        Ok(Timing::new(&job, &cluster, &layout, efficiency).step(tokens)?.0)
    }

    /// GiB on a device, for each kind that was found. Nothing is fitted for them.
    ///
    /// # Errors
    /// As [`Run::predict`].
    pub fn predict_memory(&self, catalogue: &Catalogue) -> Result<Vec<Predicted>, PublishedError> {
        let Some(found) = self.memory else { return Ok(Vec::new()) };
        let cluster = Cluster { accelerator: catalogue.get(&self.hardware)?.clone(), devices: self.devices };
        let job = self.job()?;
        let layout = self.layout(&job, &cluster)?;
        let tokens = self.work.sequences * self.work.context as u64;
        let schedule = layout.schedule(layout.micro_batches(&job, tokens))?;
        // A stage of layers alone, if there is one; activations of the first one, which has most in flight.
        let (layers, first) = (layout.recipe.pipeline / 2, 0);
        let of = |stage| Memory::of_stage(&job, &layout, &schedule, stage);
        let state = of(layers);
        let worst = Memory::worst(&job, &layout, &schedule);
        let all = [
            ("state GiB", found.state, state.weights + state.gradients + state.optimiser),
            ("activations GiB", found.activations, of(first).activations),
            // The allocator knows nothing of the driver's context and of communication buffers.
            ("reserved GiB", found.reserved, worst.total() - worst.buffers),
        ];
        let line = |(what, measured, predicted): (_, Option<f64>, f64)| {
            Some(Predicted { fit: false, ..self.line(what, predicted / GIB, measured?) })
        };
        Ok(all.into_iter().filter_map(line).collect())
    }
}

/// The step time of every run with the constants of its device.
///
/// # Errors
/// A run that cannot be predicted.
pub fn ledger(catalogue: &Catalogue) -> Result<Vec<Predicted>, PublishedError> {
    let of = |run: &Run| {
        // A device without constants has the defaults; damaged constants are found by their own test.
        run.predict(catalogue, Efficiency::of(run.hardware()).unwrap_or_default().training).transpose()
    };
    runs()?.iter().filter_map(of).collect()
}

/// The memory of every run.
///
/// # Errors
/// A run that cannot be predicted.
pub fn memory_ledger(catalogue: &Catalogue) -> Result<Vec<Predicted>, PublishedError> {
    let mut all = Vec::new();
    for run in runs()? {
        all.extend(run.predict_memory(catalogue)?);
    }
    Ok(all)
}
