//! How it learns: the `train` section of a recipe.

use super::RecipeError;
use serde::{Deserialize, Serialize};

/// Everything that steers a run. Whatever counts progress counts tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// Decides the first weights and the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// Tokens to see in all. The last batch is cut to what is left.
    pub tokens: u64,
    /// Tokens of a batch.
    pub batch: Batch,
    /// Samples that are computed at once.
    pub micro_batch: usize,
    /// The highest learning rate.
    pub lr: f64,
    /// Tokens over which the learning rate rises to it.
    #[serde(default)]
    pub warmup_tokens: u64,
    /// What the learning rate does then.
    #[serde(default)]
    pub schedule: Schedule,
    /// Tokens over which it falls: for `cosine` all that come after the warm-up if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_tokens: Option<u64>,
    /// What it falls to; a tenth of the highest if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_lr: Option<f64>,
    /// The rule that turns gradients into weights.
    #[serde(default)]
    pub optimiser: OptimiserKind,
    /// Decay of the first and the second moment.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Decoupled weight decay, on matrices.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// The global norm that gradients are scaled down to; 0: never.
    #[serde(default = "clip")]
    pub clip: f64,
    /// Muon's momentum, 0.95 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Coefficient of the experts' balance loss; 0.01 if not given, 0 beside `bias_rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<f64>,
    /// How the balance loss is formed.
    #[serde(default)]
    pub balance_form: BalanceForm,
    /// Balance experts without a loss: by how much each step moves the bias on the choice of an expert, up where it was chosen too seldom and down
    /// where too often (Wang 2024; DeepSeek-V3, with 0.001). No layout of transformers holds that bias: the model is written as
    /// `LyceumMixtralForCausalLM` or `LyceumQwen3MoeForCausalLM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_rate: Option<f64>,
    /// How many tokens of a micro-batch an expert takes at most, as a multiple of its even share (1.25, say); in the order of tokens, those that
    /// come after pass it by. Experts take all if not given, and in inference always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
    /// Coefficient of the router z-loss.
    #[serde(default)]
    pub z: f64,
    /// Compute the activations of a layer again for its gradients instead of keeping them.
    #[serde(default)]
    pub recompute: bool,
    /// What weights and gradients are computed in.
    #[serde(default)]
    pub precision: Precision,
    /// Steps from one checkpoint to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
    /// Seconds after which there is one anyway; 600 if neither is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_seconds: Option<f64>,
    /// How many of the newest checkpoints are kept.
    #[serde(default = "keep_last")]
    pub keep_last: usize,
    /// Checkpoints of steps that are a multiple of this are kept for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<u64>,
    /// Steps from one measurement on held-out text to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Held-out samples of each source that are measured.
    #[serde(default = "eval_samples")]
    pub eval_samples: u64,
    /// How many standard deviations above its running mean the loss or the gradient's norm makes a step be skipped; 0: none.
    #[serde(default = "spike_sigma")]
    pub spike_sigma: f64,
    /// Steps skipped in a row that end the run.
    #[serde(default = "max_skips")]
    pub max_skips: u64,
    /// What the finished model's weights are written as.
    #[serde(default)]
    pub export: Export,
}

/// Tokens of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of tokens, or a list of [tokens seen, tokens of a batch from then on]")]
pub enum Batch {
    /// Always the same.
    Fixed(u64),
    /// From so many tokens seen on, so many.
    Ramp(Vec<[u64; 2]>),
}

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Falls along half a cosine.
    #[default]
    Cosine,
    /// Warm-up, stable, decay (Hu 2024): stays, and falls in a straight line at the end.
    Wsd,
    /// Stays.
    Constant,
}

/// The rule of the matrices of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimiserKind {
    /// AdamW.
    #[default]
    Adamw,
    /// Muon; embedding, head and vectors follow AdamW.
    Muon,
}

/// How the balance loss is formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceForm {
    /// Each layer on its own.
    #[default]
    PerLayer,
    /// All layers' routers together, as transformers does.
    Pooled,
}

/// What weights and gradients are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16, beside master weights and optimiser state of 32-bit floats. Planned for; the trainer refuses it so far.
    Bf16,
}

/// What a finished model's weights are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Export {
    /// bfloat16.
    #[default]
    Bf16,
    /// 32-bit floats, as trained.
    F32,
}

/// The most samples that are computed at once.
const MOST_MICRO_BATCH: f64 = (1 << 20) as f64;

fn betas() -> [f64; 2] {
    [0.9, 0.95]
}
fn eps() -> f64 {
    1e-8
}
fn weight_decay() -> f64 {
    0.1
}
fn clip() -> f64 {
    1.0
}
fn keep_last() -> usize {
    2
}
fn eval_samples() -> u64 {
    32
}
fn spike_sigma() -> f64 {
    6.0
}
fn max_skips() -> u64 {
    10
}

impl Batch {
    /// The stages: tokens seen, and tokens of a batch from then on.
    pub fn stages(&self) -> Vec<[u64; 2]> {
        match self {
            Self::Fixed(tokens) => vec![[0, *tokens]],
            Self::Ramp(stages) => stages.clone(),
        }
    }
}

impl TrainRecipe {
    /// What the learning rate falls to.
    pub fn final_lr(&self) -> f64 {
        self.final_lr.unwrap_or(self.lr / 10.0)
    }

    /// Coefficient of the balance loss.
    pub fn balance(&self) -> f64 {
        self.balance.unwrap_or(if self.bias_rate.is_some() { 0.0 } else { 0.01 })
    }

    /// The first key, with its value, that has no meaning for a model without experts.
    pub fn needs_experts(&self) -> Option<(&'static str, f64)> {
        let keys = [
            ("train.balance", self.balance.filter(|balance| *balance > 0.0)),
            ("train.bias_rate", self.bias_rate),
            ("train.capacity", self.capacity),
        ];
        keys.into_iter().find_map(|(key, value)| Some((key, value?)))
    }

    /// Refuses contradictions; `context` are the tokens of a sample.
    pub(super) fn validate(&self, context: usize) -> Result<(), RecipeError> {
        at_least_one("tokens", self.tokens)?;
        within("micro_batch", self.micro_batch as f64, |n| (1.0..=MOST_MICRO_BATCH).contains(&n), "1 to 1048576")?;
        at_least_one("keep_last", self.keep_last as u64)?;
        at_least_one("eval_samples", self.eval_samples)?;
        at_least_one("max_skips", self.max_skips)?;
        for (key, every) in [
            ("checkpoint_every", self.checkpoint_every),
            ("keep_every", self.keep_every),
            ("eval_every", self.eval_every),
        ] {
            every.map_or(Ok(()), |every| at_least_one(key, every))?;
        }
        let not_negative = |x: f64| x >= 0.0;
        let below_one = |x: f64| (0.0..1.0).contains(&x);
        within("lr", self.lr, |lr| lr > 0.0, "a number above 0")?;
        within("bias_rate", self.bias_rate.unwrap_or(0.001), |rate| rate > 0.0 && rate <= 1.0, "above 0 to 1")?;
        within("capacity", self.capacity.unwrap_or(1.0), |factor| factor > 0.0, "a number above 0")?;
        within("betas[0]", self.betas[0], below_one, "0 to below 1")?;
        within("betas[1]", self.betas[1], below_one, "0 to below 1")?;
        within("eps", self.eps, |eps| eps > 0.0, "a number above 0")?;
        for (key, value) in [
            ("weight_decay", self.weight_decay),
            ("clip", self.clip),
            ("z", self.z),
            ("spike_sigma", self.spike_sigma),
            ("balance", self.balance.unwrap_or(0.0)),
            ("final_lr", self.final_lr()),
        ] {
            within(key, value, not_negative, "0 or above")?;
        }
        within("final_lr", self.final_lr(), |lr| lr <= self.lr, &format!("at most train.lr ({})", self.lr))?;
        within("checkpoint_seconds", self.checkpoint_seconds.unwrap_or(1.0), |s| s > 0.0, "a number above 0")?;
        self.validate_optimiser()?;
        self.validate_schedule()?;
        self.validate_batch(context)
    }

    fn validate_optimiser(&self) -> Result<(), RecipeError> {
        match (self.optimiser, self.momentum) {
            (OptimiserKind::Adamw, Some(_)) => {
                Err(RecipeError::meaningless("train.momentum", "beside train.optimiser = \"adamw\""))
            }
            (_, momentum) => within("momentum", momentum.unwrap_or(0.0), |m| (0.0..1.0).contains(&m), "0 to below 1"),
        }
    }

    fn validate_schedule(&self) -> Result<(), RecipeError> {
        let tokens = self.tokens;
        if self.warmup_tokens > tokens {
            let allowed = format!("allowed is at most train.tokens ({tokens})");
            return Err(RecipeError::value("train.warmup_tokens", self.warmup_tokens, allowed));
        }
        let left = tokens - self.warmup_tokens;
        match (self.schedule, self.decay_tokens) {
            (Schedule::Constant, decay) => {
                let given = [("decay_tokens", decay.is_some()), ("final_lr", self.final_lr.is_some())];
                match given.into_iter().find(|(_, given)| *given) {
                    Some((key, _)) => {
                        let beside = "beside train.schedule = \"constant\"";
                        Err(RecipeError::meaningless(format!("train.{key}"), beside))
                    }
                    None => Ok(()),
                }
            }
            (Schedule::Wsd, None) => Err(RecipeError::Missing {
                key: "train.decay_tokens".into(),
                needed_by: "train.schedule = \"wsd\"".into(),
            }),
            (_, Some(decay)) if decay == 0 || decay > left => {
                let allowed = format!("allowed is 1 to the {left} tokens after the warm-up");
                Err(RecipeError::value("train.decay_tokens", decay, allowed))
            }
            _ => Ok(()),
        }
    }

    fn validate_batch(&self, context: usize) -> Result<(), RecipeError> {
        let stages = self.batch.stages();
        let Some([0, _]) = stages.first() else {
            let allowed = "its first entry must be [0, tokens of the first batches]";
            return Err(RecipeError::value("train.batch", format!("{stages:?}"), allowed));
        };
        if let Some(pair) = stages.windows(2).find(|pair| pair[0][0] >= pair[1][0]) {
            let allowed = "the tokens seen must rise from entry to entry";
            return Err(RecipeError::value("train.batch", format!("{pair:?}"), allowed));
        }
        let unit = context as u64 * self.micro_batch as u64;
        match stages.iter().find(|[_, tokens]| *tokens == 0 || !tokens.is_multiple_of(unit)) {
            Some([_, tokens]) => {
                let allowed = format!(
                    "allowed are multiples of {unit}: data.context ({context}) times train.micro_batch ({})",
                    self.micro_batch
                );
                Err(RecipeError::value("train.batch", tokens, allowed))
            }
            None => Ok(()),
        }
    }
}

fn at_least_one(key: &str, value: u64) -> Result<(), RecipeError> {
    match value {
        0 => Err(RecipeError::value(&format!("train.{key}"), value, "allowed is 1 or more")),
        _ => Ok(()),
    }
}

fn within(key: &str, value: f64, allowed: impl Fn(f64) -> bool, range: &str) -> Result<(), RecipeError> {
    if value.is_finite() && allowed(value) {
        return Ok(());
    }
    Err(RecipeError::value(&format!("train.{key}"), value, format!("allowed is {range}")))
}
