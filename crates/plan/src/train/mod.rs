//! What does training cost? Memory, time, money, and what is lost on the way.

pub mod chart;
pub mod data;
pub mod failures;
mod layer;
pub mod memory;
pub mod products;
pub mod published;
pub mod search;
pub mod step;

pub use failures::{Failures, Storage};
pub use memory::Memory;
pub use search::{Candidate, search};
pub use step::{Step, Timing};

use crate::efficiency::Training;
use crate::hardware::Cluster;
use crate::layout::{Job, Layout, LayoutError};
use data::Data;
use mesh::schedule::Timeline;
use serde::Serialize;
use spec::recipe::{Batch, Recipe};
use thiserror::Error;

/// What is planned for, besides the recipe.
#[derive(Clone, Debug)]
pub struct Request {
    /// The devices.
    pub cluster: Cluster,
    /// Dollars for an hour of one device; the catalogue's if not given.
    pub price: Option<f64>,
    /// What they reach.
    pub efficiency: Training,
    /// What failing costs.
    pub storage: Storage,
}

/// A plan that cannot be made.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum TrainError {
    /// A layout that cannot be.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A layout whose state does not fit.
    #[error(
        "{layout} needs {needed:.1} GB on the fullest device, {over:.1} GB more than the {memory:.0} GB of {device}; {way_out}"
    )]
    TooLarge {
        /// The layout.
        layout: String,
        /// Gigabytes that it needs.
        needed: f64,
        /// Gigabytes that are lacking.
        over: f64,
        /// Gigabytes that there are.
        memory: f64,
        /// The device.
        device: String,
        /// The nearest layout that fits, or that none does.
        way_out: String,
    },
    /// Nothing fits.
    #[error("no layout of this model fits {devices} {device}: {best}")]
    NothingFits {
        /// How many devices.
        devices: usize,
        /// Which.
        device: String,
        /// How near the nearest comes.
        best: String,
    },
    /// A number that cannot be.
    #[error("{what} is {value}; {allowed}")]
    Value {
        /// Which.
        what: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        allowed: &'static str,
    },
}

/// One stage of the batch ramp.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Tokens seen before it.
    pub from: u64,
    /// Tokens of a batch.
    pub batch: u64,
    /// Steps.
    pub steps: u64,
    /// One of them.
    pub step: Step,
}

/// What a run costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The layout in words.
    pub layout: String,
    /// Devices that work, of those that are paid for.
    pub devices: usize,
    /// Devices that are paid for.
    pub paid: usize,
    /// The fullest device.
    pub memory: Memory,
    /// Bytes that a device has.
    pub memory_limit: f64,
    /// The batch ramp.
    pub stages: Vec<Stage>,
    /// Share of the peak over all steps, before failures.
    pub mfu: f64,
    /// Seconds of all steps.
    pub seconds: f64,
    /// Failures and checkpoints.
    pub failures: Failures,
    /// Days until it is done.
    pub days: f64,
    /// Dollars for an hour of a device, if anybody says.
    pub price: Option<f64>,
    /// Dollars for all of it.
    pub dollars: Option<f64>,
    /// Tokens, sources, the loader's bytes, Chinchilla's view.
    pub data: Data,
    /// When each stage of the pipeline does what, in a step of the last batch.
    #[serde(skip)]
    pub timeline: Timeline,
}

impl Request {
    /// Refuses numbers that cannot be.
    ///
    /// # Errors
    /// The first one.
    pub fn validate(&self) -> Result<(), TrainError> {
        let not_negative = "allowed is 0 or above";
        let positive = "allowed is a number above 0";
        let checks = [
            ("--price", self.price.unwrap_or(0.0), true, not_negative),
            ("--storage-bandwidth", self.storage.bandwidth, false, positive),
            ("--restart", self.storage.restart, true, not_negative),
        ];
        let wrong = |value: f64, zero: bool| !value.is_finite() || value < 0.0 || (value == 0.0 && !zero);
        match checks.into_iter().find(|(_, value, zero, _)| wrong(*value, *zero)) {
            Some((what, value, _, allowed)) => Err(TrainError::Value { what, value, allowed }),
            None => Ok(()),
        }
    }
}

/// The plan of a recipe in a layout.
///
/// # Errors
/// A layout that cannot be, or does not fit the devices' memory; with the nearest that does.
pub fn plan(recipe: &Recipe, job: &Job, layout: &Layout, request: &Request) -> Result<Plan, TrainError> {
    request.validate()?;
    let timing = Timing::new(job, &request.cluster, layout, request.efficiency);
    let mut stages = Vec::new();
    let mut timeline = Timeline { stages: Vec::new(), seconds: 0.0 };
    let mut memory = Memory::default();
    for (from, batch, steps) in ramp(&recipe.train.batch, recipe.train.tokens) {
        let schedule = layout.schedule(layout.micro_batches(job, batch))?;
        let here = Memory::worst(job, layout, &schedule);
        memory = if here.total() > memory.total() { here } else { memory };
        let (step, times) = timing.step_with(batch, &schedule)?;
        timeline = times;
        stages.push(Stage { from, batch, steps, step });
    }
    let limit = request.cluster.accelerator.memory.value;
    if memory.total() > limit {
        return Err(too_large(job, layout, request, &recipe.train.batch, memory));
    }
    // The last step of a stage may be cut short: time goes by tokens.
    let share = |index: usize| {
        let end = stages.get(index + 1).map_or(recipe.train.tokens, |next: &Stage| next.from);
        (end - stages[index].from) as f64 / stages[index].batch as f64
    };
    let sum = |part: fn(&Step) -> f64| (0..stages.len()).map(|i| share(i) * part(&stages[i].step)).sum::<f64>();
    let (seconds, peak) = (sum(|step| step.seconds), sum(|step| step.peak));
    let parameters = job.config.count_parameters().total as f64;
    let per_day = request.cluster.accelerator.failures_per_day.as_ref().map(|figure| figure.value);
    let failures = Failures::new(parameters, layout.devices(), per_day, request.storage);
    let days = seconds / failures.goodput / 86_400.0;
    let price = request.price.or(request.cluster.accelerator.price_per_hour.as_ref().map(|figure| figure.value));
    let rate = recipe.train.tokens as f64 / seconds;
    Ok(Plan {
        layout: layout.to_string(),
        devices: layout.devices(),
        paid: request.cluster.devices,
        memory,
        memory_limit: limit,
        stages,
        mfu: peak / seconds,
        seconds,
        failures,
        days,
        price,
        dollars: price.map(|price| price * 24.0 * days * request.cluster.devices as f64),
        data: Data::new(recipe, job, rate),
        timeline,
    })
}

fn too_large(job: &Job, layout: &Layout, request: &Request, batch: &Batch, memory: Memory) -> TrainError {
    let limit = request.cluster.accelerator.memory.value;
    let nearest = search(job, request, batch).ok().and_then(|found| {
        let changes = |candidate: &Candidate| {
            let (a, b) = (candidate.layout.recipe, layout.recipe);
            [a.tensor != b.tensor, a.pipeline != b.pipeline, a.expert != b.expert, a.schedule != b.schedule]
                .into_iter()
                .filter(|changed| *changed)
                .count()
        };
        found.into_iter().min_by_key(changes)
    });
    let way_out = match nearest {
        Some(candidate) => {
            let needs = candidate.memory.total() / 1e9;
            format!("the nearest that fits is {} ({needs:.1} GB); --search ranks all", candidate.layout)
        }
        None => "no layout fits: take more devices, or larger ones".to_owned(),
    };
    TrainError::TooLarge {
        layout: layout.to_string(),
        needed: memory.total() / 1e9,
        over: (memory.total() - limit) / 1e9,
        memory: limit / 1e9,
        device: request.cluster.accelerator.id.clone(),
        way_out,
    }
}

/// Tokens of the last and largest batch.
pub fn last(batch: &Batch) -> u64 {
    batch.stages().last().map_or(1, |[_, tokens]| *tokens)
}

/// The stages that a run of `tokens` reaches: tokens seen before, tokens of a batch, steps.
fn ramp(batch: &Batch, tokens: u64) -> Vec<(u64, u64, u64)> {
    let stages: Vec<_> = batch.stages().into_iter().filter(|[from, _]| *from < tokens).collect();
    let end = |index: usize| stages.get(index + 1).map_or(tokens, |[from, _]| *from);
    let each = |(index, [from, batch]): (usize, &[u64; 2])| (*from, *batch, (end(index) - from).div_ceil(*batch));
    stages.iter().enumerate().map(each).collect()
}
