//! What a scheduler is told once: the room there is, the budgets of a step, how to speculate.

use serde::{Deserialize, Serialize};

/// Microseconds since any fixed moment. The scheduler has no clock: whoever calls it says what time it is.
pub type Time = u64;

/// What a group of cache blocks holds, and so how long a sequence keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupKind {
    /// Keys and values that every later token attends to: kept until the sequence ends or yields.
    Full,
    /// Layers whose queries at p see `p - window + 1 ..= p`: blocks that fell out of the window are given back.
    Sliding {
        /// Positions that a query sees, its own among them; at least 1.
        window: u32,
    },
    /// The draft model's cache. It has positions of its own: behind the target's after a prefix hit or a pause, never needed to go on.
    Draft,
    /// The memory of cross-attention (an image's encoding): filled once, before the sequence's first token, and then read.
    CrossAttention,
}

/// A pool of blocks of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What its blocks hold.
    pub kind: GroupKind,
    /// Blocks there are, numbered from 0.
    pub blocks: u32,
}

/// Where drafted tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proposer {
    /// What followed the last tokens when they stood earlier in the same sequence; see [`crate::ngram`].
    Ngram {
        /// Longest run of last tokens to look for.
        longest: u32,
        /// Shortest run that is trusted; at least 1.
        shortest: u32,
    },
    /// A draft model with the group [`GroupKind::Draft`].
    Draft,
}

/// How to speculate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speculation {
    /// Who proposes.
    pub proposer: Proposer,
    /// Tokens drafted for a sequence in one step at most.
    pub most: u32,
    /// Whether the number is chosen by what was measured (0 where speculation loses), or always `most`.
    pub adaptive: bool,
}

/// How long a step with sequences that decode may be made by the prompts beside them, as long as few prompts wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Time for prompts, in percent of what those that decode take alone; at least 1.
    pub percent: u32,
    /// Microseconds that a step may always last: nobody reads faster.
    pub step: Time,
}

/// The pace that a server keeps: 33.33 tokens a second, the faster of the reading speeds that the report names, or, where those that decode are
/// not so fast alone, nearly half of the time for prompts.
pub const PACE: Pace = Pace { percent: 80, step: 30_000 };

/// Everything that a scheduler is told once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Positions of a block, in every group.
    pub block_tokens: u32,
    /// The cache groups. At least one is `Full` or `Sliding`; at most one `Draft` and one `CrossAttention`.
    pub groups: Vec<Group>,
    /// Tokens (rows) of one step at most; the same bound holds for the tokens that the draft model catches up on.
    pub step_tokens: u32,
    /// Rows of one step whose outputs (logits or hidden states) are wanted, at most.
    pub step_outputs: u32,
    /// Sequences that hold blocks at once; at most `max_in_flight` times `step_tokens` and `step_outputs`, so that each can have its row
    /// in one of the steps that a pipeline holds.
    pub max_running: u32,
    /// Steps planned and not committed, at most.
    pub max_in_flight: u32,
    /// Positions that a sequence may reach.
    pub context: u32,
    /// Waiting this long is worth one level of priority.
    pub aging: Time,
    /// How many rows prompts get beside sequences that decode; `None`: as many as `step_tokens` allows. It bounds how unevenly tokens come, at
    /// some cost to the time until the first.
    pub pace: Option<Pace>,
    /// `None`: never.
    pub speculation: Option<Speculation>,
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number is too small.
    #[error("`{field}` is {value}, but it must be at least {least}")]
    TooSmall {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it must be at least.
        least: u64,
    },
    /// More sequences than rows.
    #[error(
        "`max_running` is {running}, but {steps} steps in flight have only {rows} rows each in `{field}`: each running sequence needs one"
    )]
    Running {
        /// Sequences.
        running: u32,
        /// Which budget.
        field: &'static str,
        /// Rows it allows.
        rows: u32,
        /// Steps in flight.
        steps: u32,
    },
    /// No group holds the tokens' keys and values.
    #[error("no cache group is `Full` or `Sliding`: there is nowhere to keep keys and values")]
    NoCache,
    /// Two groups of a kind that there may be one of.
    #[error("there are {count} cache groups of kind `{kind}`, but at most one makes sense")]
    Repeated {
        /// Which kind.
        kind: &'static str,
        /// How many there are.
        count: usize,
    },
    /// A draft model was asked to propose, but has no cache.
    #[error("the draft model is to propose tokens, but no cache group is `Draft`")]
    NoDraftCache,
}

impl Config {
    /// Checks that the numbers fit each other.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let least = |field, value: u64, least: u64| {
            if value < least { Err(ConfigError::TooSmall { field, value, least }) } else { Ok(()) }
        };
        least("block_tokens", self.block_tokens.into(), 1)?;
        least("max_running", self.max_running.into(), 1)?;
        least("max_in_flight", self.max_in_flight.into(), 1)?;
        least("context", self.context.into(), 1)?;
        least("aging", self.aging, 1)?;
        if let Some(pace) = self.pace {
            least("pace.percent", pace.percent.into(), 1)?;
        }
        for (field, rows) in [("step_tokens", self.step_tokens), ("step_outputs", self.step_outputs)] {
            let steps = self.max_in_flight;
            if u64::from(self.max_running) > u64::from(rows) * u64::from(steps) {
                return Err(ConfigError::Running { running: self.max_running, field, rows, steps });
            }
        }
        for group in &self.groups {
            least("groups.blocks", group.blocks.into(), 1)?;
            if let GroupKind::Sliding { window } = group.kind {
                least("groups.window", window.into(), 1)?;
            }
        }
        let count = |kind: GroupKind| self.groups.iter().filter(|g| g.kind == kind).count();
        for (kind, name) in [(GroupKind::Draft, "Draft"), (GroupKind::CrossAttention, "CrossAttention")] {
            if count(kind) > 1 {
                return Err(ConfigError::Repeated { kind: name, count: count(kind) });
            }
        }
        if !self.groups.iter().any(|g| g.kind.holds_tokens()) {
            return Err(ConfigError::NoCache);
        }
        if let Some(speculation) = &self.speculation {
            least("speculation.most", speculation.most.into(), 1)?;
            match speculation.proposer {
                Proposer::Ngram { longest, shortest } => {
                    least("speculation.shortest", shortest.into(), 1)?;
                    least("speculation.longest", longest.into(), shortest.into())?;
                }
                Proposer::Draft if count(GroupKind::Draft) == 0 => return Err(ConfigError::NoDraftCache),
                Proposer::Draft => {}
            }
        }
        Ok(())
    }
}

impl GroupKind {
    /// Whether the target model's keys and values of the sequence's own tokens lie here.
    pub fn holds_tokens(self) -> bool {
        matches!(self, GroupKind::Full | GroupKind::Sliding { .. })
    }

    /// Index of the first block that a query at `position` or later reads.
    pub(crate) fn first_needed(self, position: u32, block_tokens: u32) -> u32 {
        match self {
            GroupKind::Sliding { window } => (position + 1).saturating_sub(window) / block_tokens,
            _ => 0,
        }
    }

    /// Blocks that a sequence must be able to hold at once to compute `positions` positions one after the other.
    pub(crate) fn blocks_for(self, positions: u32, block_tokens: u32) -> u32 {
        let all = positions.div_ceil(block_tokens);
        match self {
            GroupKind::Sliding { window } => all.min((window - 1).div_ceil(block_tokens) + 1),
            _ => all,
        }
    }
}
