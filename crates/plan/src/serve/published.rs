//! Others' measurements beside what the planner predicts for them: facts are read, predictions computed.

use super::deployment::Deployment;
use super::layout::{KvSplit, LayoutError};
use super::report::Answers;
use super::roofline::Work;
use super::service::ServiceError;
use super::shape::{LayerShape, Shape};
use super::simulate::{Load, SimulationError, simulate};
use super::traffic::{Lengths, users};
use crate::efficiency::EfficiencyError;
use crate::hardware::{Catalogue, HardwareError, Precision};
use crate::latent::Latent;
use crate::profile::{Profile, ProfileError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

const EMBEDDED: &str = include_str!("../../figures/serving_runs.toml");
/// Requests of a simulation for each user.
const TURNS: usize = 5;

/// One number of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Which run.
    pub run: String,
    /// Which number, with its unit.
    pub metric: String,
    /// Users at once, where the run had several loads.
    pub users: Option<usize>,
    /// Whether efficiency constants were chosen by this run.
    pub fit: bool,
    /// As published.
    pub measured: f64,
    /// As computed.
    pub predicted: f64,
}

impl Entry {
    /// Predicted over measured, less 1.
    pub fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }
}

/// Runs that cannot be predicted.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum PublishedError {
    /// The file.
    #[error("{}", .0.to_string().trim_end())]
    Form(#[from] toml::de::Error),
    /// A run of a model that the file does not describe.
    #[error("run {run}: model `{model}` is not described")]
    Model {
        /// Which run.
        run: String,
        /// Of which model.
        model: String,
    },
    /// Hardware.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// Hardware.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Constants.
    #[error(transparent)]
    Efficiency(#[from] EfficiencyError),
    /// Layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Simulation.
    #[error(transparent)]
    Simulation(#[from] SimulationError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    run: Vec<Run>,
    model: BTreeMap<String, Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    id: String,
    #[serde(default)]
    fit: bool,
    #[serde(rename = "source")]
    _source: String,
    hardware: String,
    tensor: usize,
    #[serde(default = "one")]
    expert: usize,
    #[serde(default)]
    overlap: bool,
    #[serde(default)]
    plane: bool,
    #[serde(default)]
    kv_split: KvSplit,
    weights: Precision,
    arithmetic: Option<Precision>,
    model: String,
    prompt: u32,
    output: u32,
    batch: Option<u32>,
    #[serde(default)]
    users: Vec<usize>,
    measured: Measured,
}

fn one() -> usize {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    /// A step in which `batch` prompts are computed.
    prefill_ms: Option<f64>,
    /// A step in which `batch` sequences decode, in the middle of their answers.
    decode_ms: Option<f64>,
    /// By users.
    tpot_ms: Option<Vec<f64>>,
    /// By users.
    ttft_ms: Option<Vec<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    layers: usize,
    #[serde(default)]
    dense_layers: usize,
    hidden: f64,
    heads: usize,
    /// Heads that ranks divide, where some were added that nobody uses.
    padded_heads: Option<usize>,
    kv_heads: Option<usize>,
    head_dim: Option<f64>,
    latent: Option<Latent>,
    ffn: Option<f64>,
    /// Matrices of a feed-forward network: 3 if it is gated.
    matrices: f64,
    #[serde(default)]
    experts: usize,
    #[serde(default)]
    top_k: usize,
    #[serde(default)]
    shared_experts: usize,
    expert_ffn: Option<f64>,
    vocabulary: f64,
    #[serde(default)]
    parallel_block: bool,
}

/// Predicts every published run.
///
/// # Errors
/// Runs that contradict themselves.
pub fn ledger() -> Result<Vec<Entry>, PublishedError> {
    let facts: Facts = toml::from_str(EMBEDDED)?;
    let mut entries = Vec::new();
    for run in &facts.run {
        let unknown = || PublishedError::Model { run: run.id.clone(), model: run.model.clone() };
        run.predict(&facts.model.get(&run.model).ok_or_else(unknown)?.shape(), &mut entries)?;
    }
    Ok(entries)
}

impl Run {
    fn predict(&self, shape: &Shape, entries: &mut Vec<Entry>) -> Result<(), PublishedError> {
        let deployment = Deployment {
            tensor: self.tensor,
            expert: self.expert,
            overlap: self.overlap,
            plane: self.plane,
            kv_split: self.kv_split,
            weights: self.weights,
            arithmetic: self.arithmetic,
            step_tokens: 8192,
            ..Deployment::default()
        };
        let profile = Profile::of(&Catalogue::embedded()?, &self.hardware)?;
        let mut add = |metric: &str, users, measured, predicted| {
            let (run, metric) = (self.id.clone(), metric.to_owned());
            entries.push(Entry { run, metric, users, fit: self.fit, measured, predicted });
        };
        let roofline = deployment.roofline(shape, &profile)?;
        let batch = self.batch.unwrap_or(1);
        if let Some(measured) = self.measured.prefill_ms {
            let mut work = Work::empty(roofline.windows().len());
            (0..batch).for_each(|_| work.add(roofline.windows(), 0, self.prompt, 1));
            add("prefill ms", None, measured, 1e3 * roofline.price(&work).latency());
        }
        if let Some(measured) = self.measured.decode_ms {
            let context = f64::from(self.prompt) + f64::from(self.output) / 2.0;
            let work = Work::decode(roofline.windows(), batch.into(), context);
            add("decode ms", None, measured, 1e3 * roofline.price(&work).latency());
        }
        for (index, &many) in self.users.iter().enumerate() {
            let tokens = self.prompt + self.output;
            let service = deployment.service(shape, &profile, None, tokens, 0.0)?;
            // The first answers end one after the other, as those of users who did not all begin at once.
            let lengths =
                Lengths { prompt: self.prompt, output: self.output, spread: 0.0, shared: 0, most: shape.context };
            let mut requests = users(TURNS * many, &lengths, 1);
            for (index, request) in requests.iter_mut().take(many).enumerate() {
                request.output = (self.output as usize * (index + 1) / many) as u32;
            }
            let simulated = simulate(&[&service], &[], &Load::Closed { users: many, requests }, 1)?;
            let answers = Answers::of(&[&service], &simulated);
            let tpot = self.measured.tpot_ms.as_ref().and_then(|all| all.get(index));
            if let (Some(&measured), Some(predicted)) = (tpot, answers.itl.mean) {
                add("time per output token ms", Some(many), measured, 1e3 * predicted);
            }
            let ttft = self.measured.ttft_ms.as_ref().and_then(|all| all.get(index));
            // The median: the first ones all come at once.
            if let (Some(&measured), Some(predicted)) = (ttft, answers.ttft.p50) {
                add("time to first token ms", Some(many), measured, 1e3 * predicted);
            }
        }
        Ok(())
    }
}

impl Model {
    fn shape(&self) -> Shape {
        let sparse = self.layer(true);
        let dense = self.layer(false);
        let first = if self.experts > 0 { self.dense_layers } else { self.layers };
        let mut layers = vec![dense; first];
        layers.resize(self.layers, sparse);
        let head = self.vocabulary * self.hidden;
        Shape {
            hidden: self.hidden,
            head,
            heads: self.padded_heads.unwrap_or(self.heads),
            parameters: layers.iter().map(LayerShape::elements).sum::<f64>() + 2.0 * head,
            outside: 2.0 * head,
            layers,
            context: 1 << 17,
        }
    }

    fn layer(&self, sparse: bool) -> LayerShape {
        let (hidden, heads) = (self.hidden, self.heads as f64);
        let network = |wide: f64| self.matrices * hidden * wide;
        let kv_heads = self.kv_heads.unwrap_or(1);
        let (attention, kv, pair_flops, decode_pair_flops) = match &self.latent {
            Some(latent) => {
                let elements = latent.elements(self.hidden as usize, self.heads) as f64;
                let absorbed = latent.absorbed_pair_flops(self.heads) as f64;
                (elements, latent.cached() as f64, latent.pair_flops(self.heads) as f64, Some(absorbed))
            }
            None => {
                let width = self.head_dim.unwrap_or(hidden / heads);
                let (q, kv) = (heads * width, kv_heads as f64 * width);
                (2.0 * hidden * (q + kv), 2.0 * kv, 4.0 * q, None)
            }
        };
        let expert = self.expert_ffn.map_or(0.0, network);
        let shared = match sparse {
            true => self.shared_experts as f64 * expert + self.experts as f64 * hidden,
            false => self.ffn.map_or(0.0, network),
        };
        LayerShape {
            shared: attention + shared,
            expert: if sparse { expert } else { 0.0 },
            experts: if sparse { self.experts } else { 0 },
            top_k: if sparse { self.top_k } else { 0 },
            kv,
            kv_heads,
            pair_flops,
            decode_pair_flops,
            window: None,
            reductions: if self.parallel_block { 1 } else { 2 },
        }
    }
}
