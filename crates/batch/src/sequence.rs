//! A request as the scheduler sees it: tokens, how far they are computed, and the blocks that hold what was computed.

use crate::config::Time;
use crate::prefix::{self, Key, Link};
use crate::request::{Image, Memory, Rank, Request, RequestId};
use crate::speculation::Record;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Holds no blocks.
    Waiting,
    Running,
    /// Over; if a step is in flight its blocks are still written to.
    Ended,
    /// The slot is free.
    Gone,
}

impl State {
    pub fn is_alive(self) -> bool {
        matches!(self, State::Waiting | State::Running)
    }
}

/// The blocks of one group.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// By position / block_tokens; [`crate::NO_BLOCK`] before `live_from`.
    pub table: Vec<u32>,
    pub live_from: u32,
    /// Blocks before this index are published or never will be.
    pub published: u32,
    /// How much of the table plans have told of.
    pub sent: u32,
}

/// Positions that a request computes: the last token generated never is.
pub(crate) fn final_positions(prompt: u32, max_tokens: u32) -> u32 {
    prompt + max_tokens.saturating_sub(1)
}

/// What a step wants of one sequence's target tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub len: u32,
    pub outputs: u32,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub id: RequestId,
    pub state: State,
    pub rank: Rank,
    pub deadline: Option<Time>,

    pub tokens: Vec<u32>,
    pub prompt: u32,
    pub max_tokens: u32,
    /// Positions whose keys and values are in blocks, by a committed step.
    pub computed: u32,
    /// The same once the steps in flight are committed; drafts apart.
    pub scheduled: u32,
    /// The first position whose output was not yet wanted by a committed step.
    pub reported: u32,
    /// The two for the draft model.
    pub draft_computed: u32,
    pub draft_scheduled: u32,

    /// Steps in flight that compute for it.
    pub in_flight: u32,
    /// Counted among the running sequences that need just one row and are not in flight.
    pub ready: bool,
    /// Nothing of it was planned since it was admitted.
    pub fresh: bool,
    /// The memory is in its blocks by a committed step.
    pub memory_computed: bool,
    /// Blocks of known tokens that it has promised to publish: `promised.0..promised.1`.
    pub promised: (u32, u32),

    /// One per group.
    pub held: Vec<Held>,
    root: Key,
    pub memory_root: Key,
    /// Of each full block of `tokens`, as far as they were asked for.
    pub keys: Vec<Key>,
    images: Vec<Image>,
    pub memory: Option<Memory>,

    pub record: Record,
    /// As in [`crate::Ended`].
    pub cached: Option<u32>,
    pub drafted: u32,
    pub accepted: u32,
    pub preemptions: u32,
}

impl Sequence {
    pub fn new(id: RequestId, rank: Rank, request: Request, groups: usize) -> Self {
        let prompt = request.prompt.len() as u32;
        Self {
            id,
            state: State::Waiting,
            rank,
            deadline: request.deadline,
            prompt,
            max_tokens: request.max_tokens,
            tokens: request.prompt,
            computed: 0,
            scheduled: 0,
            reported: if request.prompt_outputs { 0 } else { prompt - 1 },
            draft_computed: 0,
            draft_scheduled: 0,
            in_flight: 0,
            ready: false,
            fresh: true,
            memory_computed: false,
            promised: (0, 0),
            held: (0..groups).map(|_| Held::default()).collect(),
            root: prefix::root(request.salt),
            memory_root: prefix::memory_root(request.salt),
            keys: Vec::new(),
            images: request.images,
            memory: request.memory,
            record: Record::default(),
            cached: None,
            drafted: 0,
            accepted: 0,
            preemptions: 0,
        }
    }

    pub fn known(&self) -> u32 {
        self.tokens.len() as u32
    }

    pub fn generated(&self) -> u32 {
        self.known() - self.prompt
    }

    /// Positions that are computed at its end.
    pub fn final_positions(&self) -> u32 {
        final_positions(self.prompt, self.max_tokens)
    }

    /// Known tokens that no step computes yet.
    pub fn pending(&self) -> u32 {
        self.known() - self.scheduled
    }

    /// As many of the pending tokens as these budgets allow.
    pub fn want(&self, tokens: u32, outputs: u32) -> Want {
        // Outputs begin at `first`; the rows before it cost none.
        let first = self.reported.max(self.scheduled);
        let len = self.pending().min(tokens).min((first - self.scheduled).saturating_add(outputs));
        Want { len, outputs: (self.scheduled + len).saturating_sub(first) }
    }

    /// Extends the keys to `blocks` blocks, which must be full of known tokens.
    pub fn extend_keys(&mut self, blocks: u32, block_tokens: u32, scratch: &mut Vec<u8>) {
        while (self.keys.len() as u32) < blocks {
            let key = self.link(self.keys.len() as u32, block_tokens).key(scratch);
            self.keys.push(key);
        }
    }

    /// What block `index` holds; the keys before it must be known.
    pub fn link(&self, index: u32, block_tokens: u32) -> Link<'_> {
        let parent = index.checked_sub(1).map_or(self.root, |before| self.keys[before as usize]);
        let positions = index * block_tokens..(index + 1) * block_tokens;
        let tokens = &self.tokens[positions.start as usize..positions.end as usize];
        let content = if self.images.is_empty() { 0 } else { prefix::content(&self.images, positions) };
        Link { parent, content, tokens }
    }

    /// Forgets what was computed; the blocks must have been released.
    pub fn restart(&mut self) {
        (self.computed, self.scheduled) = (0, 0);
        (self.draft_computed, self.draft_scheduled) = (0, 0);
        (self.fresh, self.memory_computed) = (true, false);
        for held in &mut self.held {
            debug_assert!(held.table.is_empty());
            (held.live_from, held.published, held.sent) = (0, 0, 0);
        }
    }
}
