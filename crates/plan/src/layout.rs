//! Who does what? A recipe's decoder on a cluster: the ranks, what each holds, and in which order stages work.

use crate::hardware::{Cluster, Precision};
use crate::latent::Latent;
use crate::practice::{Practice, Recompute};
use mesh::Share;
use mesh::schedule::{Schedule, ScheduleError};
use spec::recipe::{LayoutRecipe, PipelineSchedule, Precision as TrainPrecision, Recipe, RecipeError};
use spec::{DecoderConfig, Ffn, Held, Layer, ParameterTable, Part, Slot, TokenFlops};
use std::fmt;
use thiserror::Error;

/// A layout that cannot be.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum LayoutError {
    /// A degree that does not divide what it should.
    #[error("{key} is {degree}, which does not divide {what} ({of}); {allowed}")]
    Uneven {
        /// The key in the recipe.
        key: &'static str,
        /// Its value.
        degree: usize,
        /// What should be divided.
        what: String,
        /// How many there are.
        of: usize,
        /// What would do.
        allowed: String,
    },
    /// More ranks than devices, or more stages than layers.
    #[error("{key} is {value}; {allowed}")]
    TooMany {
        /// The key in the recipe.
        key: &'static str,
        /// Its value.
        value: usize,
        /// What would do.
        allowed: String,
    },
    /// Stages that would wait for ever.
    #[error(
        "hardware.layout.interleave is {chunks}: with {micro_batches} micro-batches on {stages} stages, {source}; choose another schedule, or a batch \
             whose micro-batches per replica are a multiple of hardware.layout.pipeline"
    )]
    Schedule {
        /// Chunks of each stage.
        chunks: usize,
        /// Micro-batches of a replica.
        micro_batches: usize,
        /// Stages.
        stages: usize,
        /// What happens.
        source: ScheduleError,
    },
    /// A recipe whose model is a folder, which a plan does not open.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
}

/// What is trained, apart from how the work is shared.
#[derive(Clone, Debug)]
pub struct Job {
    /// The decoder.
    pub config: DecoderConfig,
    /// Its parameters.
    pub table: ParameterTable,
    /// Tokens of a sample.
    pub context: usize,
    /// FLOPs of a token.
    pub flops: TokenFlops,
    /// Bytes of numbers, by the precision that is trained in.
    pub bytes: StateBytes,
    /// What products are multiplied in.
    pub precision: Precision,
    /// Latent attention in place of the decoder's, which no recipe describes yet.
    pub latent: Option<Latent>,
    /// How the trainer is written.
    pub practice: Practice,
}

/// Bytes that one parameter takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateBytes {
    /// The weight that is computed with, and each activation.
    pub weight: f64,
    /// Its gradient.
    pub gradient: f64,
    /// Master weight, where it is another, and two moments.
    pub optimiser: f64,
}

impl StateBytes {
    /// bf16 weights and gradients beside f32 master weights and moments.
    pub const BF16: Self = Self { weight: 2.0, gradient: 2.0, optimiser: 12.0 };
    /// All f32.
    pub const F32: Self = Self { weight: 4.0, gradient: 4.0, optimiser: 8.0 };
}

impl Job {
    /// What a recipe with a new model trains.
    ///
    /// # Errors
    /// A model that is not described by sizes.
    pub fn new(recipe: &Recipe) -> Result<Self, LayoutError> {
        let model = &recipe.model;
        if model.from.is_some() || model.upcycle.is_some() {
            let allowed = "a plan needs the model by its sizes (hidden_size, layers ...)";
            let key = if model.from.is_some() { "model.from" } else { "model.upcycle" };
            return Err(RecipeError::value(key, "a folder", allowed).into());
        }
        if model.vocab_size.is_none() && recipe.data.corpus.as_ref().and_then(|corpus| corpus.vocab_size).is_none() {
            let (key, needed_by) = ("model.vocab_size".into(), "a plan, which opens no tokenizer,".into());
            return Err(RecipeError::Missing { key, needed_by }.into());
        }
        let vocabulary = recipe.data.corpus.as_ref().and_then(|corpus| corpus.vocab_size).unwrap_or(0);
        let config = model.decoder(vocabulary, recipe.data.context)?;
        config.validate().map_err(RecipeError::from)?;
        let bytes = match recipe.train.precision {
            TrainPrecision::F32 => StateBytes::F32,
            TrainPrecision::Bf16 => StateBytes::BF16,
        };
        Ok(Self::of(config, recipe.data.context, bytes))
    }

    /// A decoder trained on samples of `context` tokens.
    pub fn of(config: DecoderConfig, context: usize, bytes: StateBytes) -> Self {
        let (table, flops) = (ParameterTable::new(&config), config.token_flops(context));
        let precision = if bytes == StateBytes::F32 { Precision::F32 } else { Precision::Bf16 };
        Self { config, table, context, flops, bytes, precision, latent: None, practice: Practice::default() }
    }

    /// The same with latent attention in every layer.
    pub fn with_latent(self, latent: Latent) -> Self {
        let (config, layers) = (&self.config, self.config.layers.len() as u64);
        let matrices = self.attention_elements() - latent.elements(config.hidden_size, config.heads) as i64;
        let products = self.flops.layers.saturating_add_signed(-2 * layers as i64 * matrices);
        let seen = self.flops.attention / (4 * config.q_size() as u64).max(1);
        let attention = seen * latent.pair_flops(config.heads) as u64;
        let flops = TokenFlops { layers: products, attention, ..self.flops };
        Self { flops, latent: Some(latent), ..self }
    }

    /// Elements of the matrices of a layer's attention, by the table.
    fn attention_elements(&self) -> i64 {
        (2 * self.config.hidden_size * (self.config.q_size() + self.config.kv_size())) as i64
    }

    /// What a rank holds.
    pub fn held(&self, part: &Part) -> Held {
        let held = self.table.held(&self.config, part);
        let Some(latent) = &self.latent else { return held };
        let layers = part.layers.iter().map(ExactSizeIterator::len).sum::<usize>() as i64;
        let more = latent.elements(self.config.hidden_size, self.config.heads) as i64 - self.attention_elements();
        Held { shared: held.shared.saturating_add_signed(layers * more / part.tensor.of as i64), ..held }
    }

    /// FLOPs of scores and weighted sum for one query and one key, over all heads.
    pub fn pair_flops(&self) -> f64 {
        self.latent.map_or(4 * self.config.q_size(), |latent| latent.pair_flops(self.config.heads)) as f64
    }

    /// Widths of queries and of keys that are turned by position, over all heads.
    pub fn rotated(&self) -> [usize; 2] {
        match self.latent {
            Some(latent) => [self.config.heads * latent.rope, latent.rope],
            None => [self.config.q_size(), self.config.kv_size()],
        }
    }

    /// Elements of a layer whose experts are divided by `expert`.
    pub fn layer_elements(&self, layer: &Layer, expert: usize) -> f64 {
        let attention = self.latent.map_or(self.attention_elements(), |latent| {
            latent.elements(self.config.hidden_size, self.config.heads) as i64
        });
        let network = |size: usize| (3 * self.config.hidden_size * size) as f64;
        let ffn = match &layer.ffn {
            Ffn::Dense(dense) => network(dense.ffn_size),
            Ffn::Experts(experts) => {
                let shared = experts.shared.as_ref().map_or(0.0, |shared| network(shared.ffn_size));
                shared + (experts.experts / expert) as f64 * network(experts.expert.ffn_size)
            }
        };
        attention as f64 + ffn
    }

    /// What scores are multiplied in: 16 bits also where matrices have 8.
    pub fn sixteen_bits(&self) -> Precision {
        if self.precision == Precision::F32 { Precision::F32 } else { Precision::Bf16 }
    }
}

/// How ranks share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Degrees that the recipe chooses.
    pub recipe: LayoutRecipe,
    /// Replicas.
    pub data: usize,
    /// Samples that are computed at once.
    pub micro_batch: usize,
    /// What is computed again for the gradients.
    pub recompute: Recompute,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayoutRecipe { tensor, pipeline, expert, schedule, interleave, zero, sharded } = self.recipe;
        write!(f, "tensor {tensor} x pipeline {pipeline} x data {}", self.data)?;
        if expert > 1 {
            write!(f, ", expert {expert}")?;
        }
        if pipeline > 1 {
            match schedule {
                PipelineSchedule::OneForwardOneBackward => write!(f, ", 1F1B")?,
                PipelineSchedule::Interleaved => write!(f, ", interleaved x{interleave}")?,
                PipelineSchedule::ZeroBubble => write!(f, ", zero-bubble")?,
            }
        }
        write!(f, ", micro-batch {}", self.micro_batch)?;
        if self.recompute != Recompute::Nothing {
            write!(f, ", {}", self.recompute)?;
        }
        match (sharded, zero) {
            _ if self.data == 1 => Ok(()),
            (true, _) => write!(f, ", fully sharded"),
            (false, true) => write!(f, ", ZeRO-1"),
            (false, false) => Ok(()),
        }
    }
}

impl Layout {
    /// As many replicas as the cluster has room for.
    ///
    /// # Errors
    /// Degrees that do not divide the decoder, or need more devices than there are.
    pub fn new(
        job: &Job,
        cluster: &Cluster,
        recipe: LayoutRecipe,
        micro_batch: usize,
        recompute: impl Into<Recompute>,
    ) -> Result<Self, LayoutError> {
        let data = cluster.devices / recipe.model_ranks();
        let layout = Self { recipe, data, micro_batch, recompute: recompute.into() };
        if layout.data == 0 {
            let allowed = format!(
                "tensor {} x pipeline {} needs {} devices and the cluster has {}",
                recipe.tensor,
                recipe.pipeline,
                recipe.model_ranks(),
                cluster.devices
            );
            return Err(LayoutError::TooMany { key: "hardware.layout.tensor", value: recipe.tensor, allowed });
        }
        layout.check_tensor(job)?;
        layout.check_pipeline(job)?;
        layout.with_experts(job)
    }

    fn check_tensor(&self, job: &Job) -> Result<(), LayoutError> {
        let config = &job.config;
        let networks = config.layers.iter().map(|layer| match &layer.ffn {
            spec::Ffn::Dense(dense) => dense.ffn_size,
            spec::Ffn::Experts(experts) => experts.expert.ffn_size,
        });
        let tensor = self.recipe.tensor;
        let mut divided = vec![("model.heads".to_owned(), config.heads)];
        divided.extend(networks.map(|size| ("model.ffn_size".to_owned(), size)));
        match divided.into_iter().find(|(_, of)| !of.is_multiple_of(tensor)) {
            Some((what, of)) => Err(uneven("hardware.layout.tensor", tensor, what, of)),
            None => Ok(()),
        }
    }

    fn check_pipeline(&self, job: &Job) -> Result<(), LayoutError> {
        let (layers, chunks) = (job.config.layers.len(), self.recipe.interleave);
        if self.recipe.pipeline > layers {
            let allowed = format!("model.layers is {layers}, and every stage needs one");
            let value = self.recipe.pipeline;
            return Err(LayoutError::TooMany { key: "hardware.layout.pipeline", value, allowed });
        }
        let most = layers.div_ceil(self.recipe.pipeline);
        if chunks > most {
            let allowed = format!("a stage has {most} of the {layers} layers, and every chunk needs one");
            return Err(LayoutError::TooMany { key: "hardware.layout.interleave", value: chunks, allowed });
        }
        Ok(())
    }

    /// Replicas are divided by groups of experts: as many remain as come out even.
    fn with_experts(self, job: &Job) -> Result<Self, LayoutError> {
        let expert = self.recipe.expert;
        let each = (0..job.config.layers.len()).map(|layer| job.config.experts(layer));
        // Dense layers stay whole, but without any experts there is nothing to divide.
        let mut divided: Vec<_> = each.filter(|experts| *experts > 0).collect();
        divided.extend(divided.is_empty().then_some(1));
        if let Some(experts) = divided.into_iter().find(|experts| !experts.is_multiple_of(expert)) {
            return Err(uneven("hardware.layout.expert", expert, "model.experts".into(), experts));
        }
        match self.data / expert * expert {
            0 => {
                let allowed = format!("it divides the {} data-parallel replicas, so there can be no more", self.data);
                Err(LayoutError::TooMany { key: "hardware.layout.expert", value: expert, allowed })
            }
            data => Ok(Self { data, ..self }),
        }
    }

    /// Devices that work.
    pub fn devices(&self) -> usize {
        self.data * self.recipe.model_ranks()
    }

    /// Micro-batches that the busiest replica computes for a batch of `tokens`.
    pub fn micro_batches(&self, job: &Job, tokens: u64) -> usize {
        let samples = tokens.div_ceil(job.context as u64) as usize;
        samples.div_ceil(self.data * self.micro_batch).max(1)
    }

    /// Tokens that are computed at once.
    pub fn micro_batch_tokens(&self, job: &Job) -> f64 {
        (self.micro_batch * job.context) as f64
    }

    /// The layers of chunk `chunk` of stage `stage`.
    pub fn chunk(&self, job: &Job, stage: usize, chunk: usize) -> std::ops::Range<usize> {
        let of = self.recipe.pipeline * self.recipe.interleave;
        Share { index: chunk * self.recipe.pipeline + stage, of }.range(job.config.layers.len())
    }

    /// What the first rank of a stage holds; no rank of the stage holds more.
    pub fn part(&self, job: &Job, stage: usize) -> Part {
        Part {
            layers: (0..self.recipe.interleave).map(|chunk| self.chunk(job, stage, chunk)).collect(),
            first: stage == 0,
            last: stage + 1 == self.recipe.pipeline,
            tensor: Slot { index: 0, of: self.recipe.tensor },
            expert: Slot { index: 0, of: self.recipe.expert },
        }
    }

    /// The order of work for `micro_batches`.
    ///
    /// # Errors
    /// Stages that would wait for ever.
    pub fn schedule(&self, micro_batches: usize) -> Result<Schedule, LayoutError> {
        let (stages, chunks) = (self.recipe.pipeline, self.recipe.interleave);
        let schedule = match self.recipe.schedule {
            PipelineSchedule::OneForwardOneBackward => Schedule::one_forward_one_backward(stages, micro_batches),
            PipelineSchedule::Interleaved => Schedule::interleaved(stages, micro_batches, chunks),
            PipelineSchedule::ZeroBubble => Schedule::zero_bubble(stages, micro_batches),
        };
        schedule.map_err(|source| LayoutError::Schedule { chunks, micro_batches, stages, source })
    }
}

fn uneven(key: &'static str, degree: usize, what: String, of: usize) -> LayoutError {
    let divisors: Vec<_> = (1..=of.min(4096)).filter(|d| of.is_multiple_of(*d)).map(|d| d.to_string()).collect();
    let allowed = format!("its divisors are {}", divisors.join(", "));
    LayoutError::Uneven { key, degree, what, of, allowed }
}
