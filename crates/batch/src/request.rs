//! What is asked of the scheduler, and how it ends.

use crate::config::{Config, GroupKind, Time};
use crate::sequence::final_positions;
use serde::{Deserialize, Serialize};

/// Names a request from its submission to its end. No two requests that are alive at the same time have the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(u64);

impl RequestId {
    /// The first request in a slot.
    pub(crate) fn first(slot: u32) -> Self {
        Self(u64::from(slot))
    }

    /// The next request in the same slot.
    pub(crate) fn successor(self) -> Self {
        Self(self.0.wrapping_add(1 << 32))
    }

    /// A small number by which per-request state may be indexed; used again after the request has left its last step.
    pub fn slot(self) -> usize {
        self.0 as u32 as usize
    }
}

/// An image (or the like) that the tokens from `position` on depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// First position that depends on it.
    pub position: u32,
    /// A collision-resistant hash of its content.
    pub content: u128,
}

/// What a sequence cross-attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Positions of the encoding.
    pub positions: u32,
    /// A collision-resistant hash of what is encoded: equal contents of one tenant share blocks.
    pub content: u128,
}

/// One completion of one prompt. Several choices of a prompt are several requests: they share its full blocks through the prefix
/// cache, and the later ones wait until the first has computed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most. 0: only the outputs of the prompt are wanted.
    pub max_tokens: u32,
    /// Higher goes first. A level is worth [`crate::Config::aging`] of waiting.
    pub priority: i32,
    /// When it ends whether or not it is done.
    pub deadline: Option<Time>,
    /// The outputs of every prompt position are wanted (prompt logprobs, pooled embeddings), not only the last one's: it takes no
    /// prefix from the cache.
    pub prompt_outputs: bool,
    /// Whose it is: blocks are shared only among requests of the same salt.
    pub salt: u128,
    /// Images that the prompt's tokens depend on.
    pub images: Vec<Image>,
    /// What it cross-attends to.
    pub memory: Option<Memory>,
}

impl Request {
    /// A plain request: the prompt, tokens to generate, and no wishes.
    pub fn new(prompt: Vec<u32>, max_tokens: u32) -> Self {
        Self {
            prompt,
            max_tokens,
            priority: 0,
            deadline: None,
            prompt_outputs: false,
            salt: 0,
            images: Vec::new(),
            memory: None,
        }
    }

    /// Whether a scheduler of this configuration accepts it at this time; what it holds already does not matter.
    ///
    /// # Errors
    /// Why it can never be served.
    pub fn check(&self, config: &Config, now: Time) -> Result<(), Refusal> {
        if self.prompt.is_empty() {
            return Err(Refusal::Empty);
        }
        let (prompt, new, context) = (self.prompt.len(), self.max_tokens, config.context);
        if prompt.saturating_add(new as usize) > context as usize {
            return Err(Refusal::Context { prompt, new, context });
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Refusal::Late);
        }
        if self.memory.is_some() && !config.groups.iter().any(|g| g.kind == GroupKind::CrossAttention) {
            return Err(Refusal::NoMemory);
        }
        let positions = final_positions(prompt as u32, new);
        for (group, described) in config.groups.iter().enumerate() {
            let needed = match described.kind {
                // Without blocks for the draft model nothing is drafted.
                GroupKind::Draft => 0,
                GroupKind::CrossAttention => self.memory.map_or(0, |m| m.positions.div_ceil(config.block_tokens)),
                kind => kind.blocks_for(positions, config.block_tokens),
            };
            if needed > described.blocks {
                return Err(Refusal::Cache { group, needed, blocks: described.blocks });
            }
        }
        Ok(())
    }
}

/// Why a request is refused at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A prompt of no tokens.
    #[error("the prompt has no tokens; there is nothing to continue from")]
    Empty,
    /// More positions than the model serves.
    #[error(
        "{prompt} prompt tokens and {new} new ones are more than the context of {context}; shorten the prompt or ask for less"
    )]
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to generate.
        new: u32,
        /// Positions there are.
        context: u32,
    },
    /// It would not fit the cache even if it were alone.
    #[error(
        "the request needs {needed} cache blocks of group {group}, which has {blocks}; shorten it or give the cache more memory"
    )]
    Cache {
        /// Index of the group.
        group: usize,
        /// Blocks it would hold at its end.
        needed: u32,
        /// Blocks there are.
        blocks: u32,
    },
    /// It has a memory, but there is no group for memories.
    #[error("the request cross-attends to a memory, but the cache has no group for it")]
    NoMemory,
    /// Its deadline has passed.
    #[error("the deadline has already passed")]
    Late,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FinishReason {
    /// The engine said so: an end-of-text token, a stop string, a grammar that is complete.
    Stop,
    /// It has `max_tokens` tokens.
    Length,
    /// Its client left or asked for it.
    Cancelled,
    /// Its deadline passed.
    Deadline,
    /// The engine could not go on with it.
    Failed,
}

/// The end of a request; each request has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which.
    pub request: RequestId,
    /// How.
    pub reason: FinishReason,
    /// Tokens generated.
    pub generated: u32,
    /// Prompt tokens that were found in the prefix cache when it was first admitted.
    pub cached: u32,
    /// Tokens drafted for it.
    pub drafted: u32,
    /// Drafted tokens that were the target's own choice.
    pub accepted: u32,
    /// Times it gave up its blocks for another.
    pub preemptions: u32,
}

/// Order in which requests are served: less is more urgent.
///
/// The effective priority is `priority + now / aging - arrival / aging`. All requests age at the same rate, so their order never
/// changes and nothing needs to be sorted again as time passes: `class` is the effective priority without `now`, negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub class: i64,
    pub number: u64,
}

impl Rank {
    pub fn new(priority: i32, arrival: Time, aging: Time, number: u64) -> Self {
        Self { class: (arrival / aging) as i64 - i64::from(priority), number }
    }
}
