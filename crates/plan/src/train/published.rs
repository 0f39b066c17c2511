//! Are plans right about others' runs? Published step times beside what is planned for them.

use super::{Timing, TrainError};
use crate::efficiency::{Efficiency, EfficiencyError};
use crate::hardware::{Catalogue, Cluster, HardwareError};
use crate::layout::{Job, Layout, LayoutError, StateBytes};
use serde::{Deserialize, Serialize};
use spec::recipe::{LayoutRecipe, ModelRecipe, PipelineSchedule};
use thiserror::Error;

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
    layers: usize,
    hidden_size: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn_size: usize,
    vocab_size: usize,
    #[serde(default)]
    tied: bool,
    experts: Option<usize>,
    top_k: Option<usize>,
    context: usize,
    tensor: usize,
    pipeline: usize,
    expert: usize,
    interleave: usize,
    micro_batch: usize,
    recompute: bool,
    sequences: u64,
    /// What was measured.
    pub step_seconds: f64,
    /// What is assumed of it, and how the figure follows from what was published.
    #[serde(default)]
    pub note: String,
    /// Whether constants may be fitted on it. The others only score.
    pub fit: bool,
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
    /// Constants that cannot be.
    #[error(transparent)]
    Efficiency(#[from] EfficiencyError),
    /// A plan that cannot be made.
    #[error(transparent)]
    Plan(#[from] TrainError),
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predicted {
    /// The run.
    pub id: String,
    /// The device.
    pub hardware: String,
    /// Seconds of a step, as planned.
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

impl Run {
    /// The device that it ran on, by its name in the catalogue.
    pub fn hardware(&self) -> &str {
        &self.hardware
    }

    /// The run with these constants.
    ///
    /// # Errors
    /// A device that is unknown, a model or layout that cannot be.
    pub fn predict(&self, catalogue: &Catalogue, efficiency: Efficiency) -> Result<Predicted, PublishedError> {
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
        let config = model.decoder(self.vocab_size, self.context).map_err(LayoutError::from)?;
        let job = Job::of(config, self.context, StateBytes::BF16);
        let cluster = Cluster { accelerator: catalogue.get(&self.hardware)?.clone(), devices: self.devices };
        let schedule = match self.interleave {
            1 => PipelineSchedule::OneForwardOneBackward,
            _ => PipelineSchedule::Interleaved,
        };
        let recipe = LayoutRecipe {
            tensor: self.tensor,
            pipeline: self.pipeline,
            expert: self.expert,
            schedule,
            interleave: self.interleave,
            zero: true,
        };
        let layout = Layout::new(&job, &cluster, recipe, self.micro_batch, self.recompute)?;
        let tokens = self.sequences * self.context as u64;
        let (step, _) = Timing::new(&job, &cluster, &layout, efficiency).step(tokens)?;
        Ok(Predicted {
            id: self.id.clone(),
            hardware: self.hardware.clone(),
            predicted: step.seconds,
            measured: self.step_seconds,
            error: step.seconds / self.step_seconds - 1.0,
            fit: self.fit,
        })
    }
}

/// Every run with the constants of its device.
///
/// # Errors
/// A run that cannot be predicted.
pub fn ledger(catalogue: &Catalogue) -> Result<Vec<Predicted>, PublishedError> {
    runs()?.iter().map(|run| run.predict(catalogue, Efficiency::of(run.hardware())?)).collect()
}
