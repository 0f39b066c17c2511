//! A model, its devices and its scheduler: what serves.

use super::layout::LayoutError;
use super::roofline::{Price, Roofline, Work};
use super::shape::Shape;
use batch::{Group, GroupKind, Proposer, Speculation, StepPlan};
use thiserror::Error;

/// Positions of a cache block.
const BLOCK_TOKENS: u32 = 32;
/// Blocks of a group that are simulated, if running sequences can never hold more: beyond them the prefix cache alone would grow.
const CACHED_BLOCKS: u64 = 1 << 16;
/// Waiting so many microseconds is worth a level of priority; all requests of a simulation have the same.
const AGING: u64 = 1_000_000;

/// What a scheduler is told beside what follows from model and devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Rows of a step at most.
    pub step_tokens: u32,
    /// Sequences of a step at most; a pipeline has one such step per stage in flight.
    pub step_sequences: u32,
    /// Positions that a sequence may reach.
    pub context: u32,
    /// Tokens of a sequence when it is typical: what the cache is divided by between layers with and without a window.
    pub typical: u32,
}

/// A draft model and how good it is.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What its steps take, on the devices of the first stage.
    pub roofline: Roofline,
    /// Probability that a drafted token is the target's own choice, given that those before it were.
    pub acceptance: f64,
    /// Tokens drafted for a sequence in a step at most.
    pub most: u32,
    /// Whether the number is chosen by what is measured, or always `most`.
    pub adaptive: bool,
}

/// A copy of a model that serves.
#[derive(Clone, Debug)]
pub struct Service {
    /// What its steps take.
    pub roofline: Roofline,
    /// Who drafts.
    pub draft: Option<Draft>,
    /// US dollars for an hour of all its devices.
    pub dollars_per_hour: f64,
    scheduler: batch::Config,
    cache_tokens: u64,
}

/// A service that cannot be.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ServiceError {
    /// A layout that does not divide the model, or a model that does not fit.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Limits that do not fit each other.
    #[error(transparent)]
    Scheduler(#[from] batch::ConfigError),
    /// A number out of range.
    #[error("{field} is {value}; {allowed}")]
    Value {
        /// Which.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl Service {
    /// Sizes the cache by what the devices have left, and the scheduler by the limits.
    ///
    /// # Errors
    /// What does not fit or cannot be, by its field.
    pub fn new(
        roofline: Roofline,
        draft: Option<Draft>,
        limits: Limits,
        dollars_per_hour: f64,
    ) -> Result<Self, ServiceError> {
        if let Some(draft) = &draft
            && !(0.0..=1.0).contains(&draft.acceptance)
        {
            let value = draft.acceptance;
            return Err(ServiceError::Value { field: "acceptance", value, allowed: "allowed is 0 to 1" });
        }
        if !(dollars_per_hour.is_finite() && dollars_per_hour >= 0.0) {
            let allowed = "allowed is 0 dollars an hour or more";
            return Err(ServiceError::Value { field: "price", value: dollars_per_hour, allowed });
        }
        let guest = |draft: &Draft| {
            let Draft { roofline, .. } = draft;
            roofline.layout().as_guest(roofline.shape(), roofline.formats(), limits.typical)
        };
        let guest = draft.as_ref().map(guest).transpose()?;
        let (shape, layout) = (roofline.shape(), roofline.layout());
        let cache_tokens = layout.cache_tokens(shape, roofline.formats(), roofline.device(), limits.typical, guest)?;
        if cache_tokens < u64::from(limits.typical) {
            return Err(LayoutError::Cache { tokens: limits.typical, room: cache_tokens }.into());
        }
        let steps = layout.pipeline as u32;
        let speculation =
            draft.as_ref().map(|d| Speculation { proposer: Proposer::Draft, most: d.most, adaptive: d.adaptive });
        let scheduler = batch::Config {
            block_tokens: BLOCK_TOKENS,
            groups: groups(shape, cache_tokens, &limits, steps, draft.is_some()),
            step_tokens: limits.step_tokens,
            // Drafted rows need outputs too.
            step_outputs: limits.step_sequences * (1 + draft.as_ref().map_or(0, |d| d.most)),
            max_running: limits.step_sequences.saturating_mul(steps),
            max_in_flight: steps,
            context: limits.context,
            aging: AGING,
            pace: None,
            speculation,
        };
        scheduler.validate()?;
        Ok(Self { roofline, draft, dollars_per_hour, scheduler, cache_tokens })
    }

    /// What the scheduler is told.
    pub fn scheduler(&self) -> &batch::Config {
        &self.scheduler
    }

    /// Tokens whose keys and values the devices have room for.
    pub fn cache_tokens(&self) -> u64 {
        self.cache_tokens
    }

    /// What the draft model takes before a step, and the forms that its steps have.
    pub(super) fn price_draft(&self, plan: &StepPlan, work: &mut Work, price: &mut Price) -> f64 {
        let Some(Draft { roofline, .. }) = &self.draft else { return 0.0 };
        if plan.draft_tokens.is_empty() {
            return 0.0;
        }
        work.clear();
        for chunk in plan.chunks.iter().filter(|chunk| chunk.draft.len > 0) {
            work.add(roofline.windows(), chunk.draft.position, chunk.draft.len, u32::from(chunk.draft.propose > 0));
        }
        roofline.price_into(work, price);
        let mut seconds = price.latency();
        let most = plan.chunks.iter().map(|chunk| chunk.draft.propose).max().unwrap_or(0);
        for behind in 1..most {
            work.clear();
            for chunk in plan.chunks.iter().filter(|chunk| chunk.draft.propose > behind) {
                work.add(roofline.windows(), chunk.draft.position + chunk.draft.len + behind - 1, 1, 1);
            }
            roofline.price_into(work, price);
            seconds += price.latency();
        }
        seconds
    }
}

/// A group for each window, of as many blocks as belong to so many tokens.
fn groups(shape: &Shape, cache_tokens: u64, limits: &Limits, steps: u32, draft: bool) -> Vec<Group> {
    let running = u64::from(limits.step_sequences) * u64::from(steps);
    let most = running * u64::from(limits.context.div_ceil(BLOCK_TOKENS)) + CACHED_BLOCKS;
    let (blocks, typical) = ((cache_tokens / u64::from(BLOCK_TOKENS)).min(most), limits.typical);
    let count = |share: f64| (blocks as f64 * share).ceil().max(1.0) as u32;
    let group = |window: Option<u32>| match window {
        None => Group { kind: GroupKind::Full, blocks: count(1.0) },
        Some(window) => {
            // A window's beginning and end share blocks with what lies outside.
            let kept = f64::from(window.div_ceil(BLOCK_TOKENS) + 1) / f64::from(typical.div_ceil(BLOCK_TOKENS));
            Group { kind: GroupKind::Sliding { window }, blocks: count(kept.min(1.0)) }
        }
    };
    let mut groups: Vec<Group> = shape.windows().into_iter().map(group).collect();
    if draft {
        groups.push(Group { kind: GroupKind::Draft, blocks: count(1.0) });
    }
    groups
}
