//! What are the claims computed from?

use super::{Facts, FiguresError};
use crate::hardware::{Accelerator, Catalogue, Cluster};
use crate::layout::{Job, Layout};
use crate::train::Memory;
use spec::ParameterCount;
use spec::recipe::{LayoutRecipe, PipelineSchedule, Recipe};

/// A recipe, the devices of the report, and the report's facts.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The report's facts.
    pub facts: Facts,
    pub(super) recipe: Recipe,
    pub(super) job: Job,
    pub(super) count: ParameterCount,
    /// The layout without expert parallelism and chunks: the report names neither.
    pub(super) layout: Layout,
    pub(super) cluster: Cluster,
    pub(super) h100: Accelerator,
}

impl Inputs {
    /// Gathers them.
    ///
    /// # Errors
    /// A recipe without devices or layout, or with ones that do not fit its model.
    pub fn new(recipe: &Recipe, catalogue: &Catalogue, facts: Facts) -> Result<Self, FiguresError> {
        let hardware = &recipe.hardware;
        let missing = |key: &str| FiguresError::Recipe(format!("{key} is missing; the report's figures need it"));
        let accelerator = hardware.accelerator.as_ref().ok_or_else(|| missing("hardware.accelerator"))?;
        let cluster = Cluster {
            accelerator: catalogue.get(accelerator)?.clone(),
            devices: hardware.devices.ok_or_else(|| missing("hardware.devices"))?,
        };
        let layout = hardware.layout.ok_or_else(|| missing("hardware.layout"))?;
        let job = Job::new(recipe)?;
        let schedule = PipelineSchedule::OneForwardOneBackward;
        let layout = LayoutRecipe { expert: 1, schedule, interleave: 1, ..layout };
        let layout = Layout::new(&job, &cluster, layout, recipe.train.micro_batch, recipe.train.recompute)?;
        let (h100, count) = (catalogue.get("h100")?.clone(), job.config.count_parameters());
        Ok(Self { facts, recipe: recipe.clone(), job, count, layout, cluster, h100 })
    }

    /// The report's device for training.
    pub(super) fn a100(&self) -> &Accelerator {
        &self.cluster.accelerator
    }

    pub(super) fn given(&self, name: &str) -> f64 {
        self.facts.given(name)
    }

    pub(super) fn reported(&self, id: &str) -> f64 {
        self.facts.reported(id)
    }

    pub(super) fn parameters(&self) -> f64 {
        self.count.total as f64
    }

    pub(super) fn active(&self) -> f64 {
        self.count.active as f64
    }

    pub(super) fn experts(&self) -> f64 {
        self.job.config.experts(0) as f64
    }

    /// Experts that a token visits.
    pub(super) fn visited(&self) -> f64 {
        match &self.job.config.layers[0].ffn {
            spec::Ffn::Experts(experts) => experts.top_k as f64,
            spec::Ffn::Dense(_) => 1.0,
        }
    }

    pub(super) fn tokens(&self) -> f64 {
        self.recipe.train.tokens as f64
    }

    /// Tokens of the last and largest batch.
    pub(super) fn batch(&self) -> f64 {
        self.recipe.train.batch.stages().last().map_or(f64::NAN, |[_, tokens]| *tokens as f64)
    }

    pub(super) fn context(&self) -> f64 {
        self.job.context as f64
    }

    pub(super) fn devices(&self) -> f64 {
        self.cluster.devices as f64
    }

    /// FLOPs of all training by the usual rule: 6 for each active parameter and token.
    pub(super) fn compute(&self) -> f64 {
        6.0 * self.active() * self.tokens()
    }

    /// Devices of one replica.
    pub(super) fn replica(&self) -> f64 {
        self.layout.recipe.model_ranks() as f64
    }

    /// Micro-batches of a replica in a full step, as a mean.
    pub(super) fn micro_batches(&self) -> f64 {
        self.batch() / self.context() / (self.layout.data * self.layout.micro_batch) as f64
    }

    /// The fullest device of the report's layout.
    pub(super) fn memory(&self) -> Memory {
        let micro_batches = self.layout.micro_batches(&self.job, self.batch() as u64);
        match self.layout.schedule(micro_batches) {
            Ok(schedule) => Memory::worst(&self.job, &self.layout, &schedule),
            Err(_) => Memory { weights: f64::NAN, ..Memory::default() },
        }
    }

    /// Gradient bytes of the fullest stage's device, which every replica's must be added to.
    pub(super) fn gradient_bytes(&self) -> f64 {
        let stages = 0..self.layout.recipe.pipeline;
        let held =
            stages.map(|stage| self.job.table.held(&self.job.config, &self.layout.part(&self.job, stage)).total());
        held.max().unwrap_or(0) as f64 * self.job.bytes.gradient
    }

    /// Bytes of K and V of one token, in 16 bits, over all layers.
    pub(super) fn kv_bytes(&self) -> f64 {
        self.job.config.kv_bytes_per_token(2, 0) as f64
    }

    /// Devices of the report's serving cluster.
    pub(super) fn serving(&self) -> f64 {
        self.given("serve_tensor") * self.given("serve_pipeline")
    }
}
