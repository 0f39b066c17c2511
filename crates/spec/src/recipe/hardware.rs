//! What it runs on: the `hardware` section of a recipe.

use super::RecipeError;
use serde::{Deserialize, Serialize};

/// What a recipe runs on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardwareRecipe {
    /// Threads; all that the machine runs at once if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// 10^9 f32 operations per second that all of them reach, for the share of it that training uses; measured if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_gflops: Option<f64>,
    /// The device that a plan is made for, by its name in the planner's catalogue. The machine at hand needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// How many of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<usize>,
    /// How they share the work; one rank does all of it if not given, and a plan searches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<LayoutRecipe>,
}

/// How many ranks divide each kind of work; all that is left divides the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LayoutRecipe {
    /// Ranks that share every matrix.
    pub tensor: usize,
    /// Stages of the pipeline.
    pub pipeline: usize,
    /// Groups of data-parallel ranks that hold different experts.
    pub expert: usize,
    /// In which order stages work.
    pub schedule: PipelineSchedule,
    /// Chunks of layers on each stage; more than 1 is for `interleaved` alone.
    pub interleave: usize,
    /// Whether optimiser state is divided over the data-parallel ranks (ZeRO-1).
    pub zero: bool,
    /// Whether weights and gradients are divided over them too (ZeRO-3, fully sharded).
    pub sharded: bool,
}

impl Default for LayoutRecipe {
    fn default() -> Self {
        Self {
            tensor: 1,
            pipeline: 1,
            expert: 1,
            schedule: PipelineSchedule::OneForwardOneBackward,
            interleave: 1,
            zero: true,
            sharded: false,
        }
    }
}

/// In which order the stages of a pipeline work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PipelineSchedule {
    /// One forward, one backward (PipeDream-Flush, Narayanan 2021).
    #[default]
    #[serde(rename = "1f1b")]
    OneForwardOneBackward,
    /// The same with several chunks of layers on each stage (Narayanan 2021).
    #[serde(rename = "interleaved")]
    Interleaved,
    /// Weight gradients fill the bubble, with no more memory than 1F1B (ZB-H1, Qi 2023).
    #[serde(rename = "zero_bubble")]
    ZeroBubble,
}

impl HardwareRecipe {
    pub(super) fn validate(&self) -> Result<(), RecipeError> {
        if let Some(threads) = self.threads.filter(|threads| !(1..=1024).contains(threads)) {
            return Err(RecipeError::value("hardware.threads", threads, "allowed is 1 to 1024"));
        }
        if let Some(devices) = self.devices.filter(|devices| *devices == 0) {
            return Err(RecipeError::value("hardware.devices", devices, "allowed is 1 or more"));
        }
        self.layout.as_ref().map_or(Ok(()), LayoutRecipe::validate)?;
        match self.peak_gflops.filter(|peak| !(peak.is_finite() && *peak > 0.0)) {
            Some(peak) => Err(RecipeError::value("hardware.peak_gflops", peak, "allowed is a number above 0")),
            None => Ok(()),
        }
    }
}

impl LayoutRecipe {
    /// Ranks of one replica. Expert parallelism divides replicas and adds none.
    pub fn model_ranks(&self) -> usize {
        self.tensor * self.pipeline
    }

    fn validate(&self) -> Result<(), RecipeError> {
        let degrees = [
            ("tensor", self.tensor),
            ("pipeline", self.pipeline),
            ("expert", self.expert),
            ("interleave", self.interleave),
        ];
        if let Some((key, degree)) = degrees.into_iter().find(|(_, degree)| !(1..=65_536).contains(degree)) {
            return Err(RecipeError::value(&format!("hardware.layout.{key}"), degree, "allowed is 1 to 65536"));
        }
        match (self.schedule, self.interleave) {
            (PipelineSchedule::Interleaved, 1) => {
                let allowed = "2 or more chunks on each stage for schedule = \"interleaved\"";
                Err(RecipeError::value("hardware.layout.interleave", 1, allowed))
            }
            (PipelineSchedule::Interleaved, _) | (_, 1) => Ok(()),
            (_, chunks) => {
                let allowed = "allowed is 1, or schedule = \"interleaved\"";
                Err(RecipeError::value("hardware.layout.interleave", chunks, allowed))
            }
        }
    }
}
