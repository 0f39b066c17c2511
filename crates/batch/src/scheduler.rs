//! The state of the scheduler, and what comes in: requests, cancellations, time.

use crate::config::{Config, ConfigError, GroupKind, Time};
use crate::pace::Pacer;
use crate::plan::{Chunk, StepId};
use crate::pool::{Occupancy, Pool};
use crate::prefix::Key;
use crate::request::{Ended, FinishReason, Rank, Refusal, Request, RequestId};
use crate::sequence::{Sequence, State};
use crate::speculation::Policy;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// A step that was planned and not committed.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    pub id: StepId,
    pub chunks: Vec<Chunk>,
    /// Drafted tokens that the plan holds, chunk after chunk (not a draft model's).
    pub drafts: Vec<u32>,
    pub rows: u32,
}

/// The first waiting sequence did not fit, and is not tried again before the pool of `group` has turned over so often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocked {
    pub slot: u32,
    pub group: usize,
    pub until: u64,
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Totals {
    /// Requests accepted.
    pub submitted: u64,
    /// Steps committed.
    pub steps: u64,
    /// Rows that committed steps computed, drafted ones among them.
    pub rows: u64,
    /// Tokens generated.
    pub generated: u64,
    /// Known tokens of sequences when they were admitted.
    pub looked_up: u64,
    /// How many of these the prefix cache held.
    pub found: u64,
    /// Times that a sequence gave up its blocks.
    pub preemptions: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens that were the target's own choice.
    pub accepted: u64,
}

/// What there is to do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Load {
    /// Requests that hold no blocks yet, or no longer.
    pub waiting: usize,
    /// Requests that hold blocks.
    pub running: usize,
    /// Steps planned and not committed.
    pub in_flight: usize,
}

/// Decides which sequences run next; see the crate's documentation for the life of a request.
pub struct Scheduler {
    pub(crate) config: Config,
    pub(crate) pools: Vec<Pool>,
    pub(crate) draft_group: Option<usize>,
    pub(crate) memory_group: Option<usize>,
    /// By slot.
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) free_slots: Vec<u32>,
    pub(crate) waiting: BTreeSet<(Rank, u32)>,
    /// Slots in order of rank.
    pub(crate) running: Vec<u32>,
    pub(crate) deadlines: BTreeSet<(Time, u32)>,
    /// Blocks that running sequences will publish: a waiting one that needs the same waits for it instead of computing it too.
    pub(crate) promises: HashMap<Key, u32>,
    /// Running sequences with [`Sequence::ready`].
    pub(crate) ready: u32,
    pub(crate) flights: VecDeque<Flight>,
    pub(crate) spare: Vec<Flight>,
    pub(crate) next_step: u64,
    pub(crate) now: Time,
    pub(crate) policy: Option<Policy>,
    pub(crate) pace: Option<Pacer>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) kept: Vec<u32>,
    pub(crate) blocked: Option<Blocked>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) totals: Totals,
}

impl Scheduler {
    /// A scheduler without requests.
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let group = |kind: GroupKind| config.groups.iter().position(|g| g.kind == kind);
        Ok(Self {
            pools: config.groups.iter().map(|g| Pool::new(g.blocks, config.block_tokens)).collect(),
            draft_group: group(GroupKind::Draft),
            memory_group: group(GroupKind::CrossAttention),
            sequences: Vec::new(),
            free_slots: Vec::new(),
            waiting: BTreeSet::new(),
            running: Vec::new(),
            deadlines: BTreeSet::new(),
            promises: HashMap::new(),
            ready: 0,
            flights: VecDeque::new(),
            spare: Vec::new(),
            next_step: 0,
            now: 0,
            policy: config.speculation.map(Policy::new),
            pace: config.pace.map(Pacer::new),
            ended: Vec::new(),
            kept: Vec::new(),
            blocked: None,
            scratch: Vec::new(),
            totals: Totals::default(),
            config,
        })
    }

    /// What it was told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Accepts a request; it will be in [`Scheduler::take_ended`] exactly once.
    ///
    /// # Errors
    /// A request that can never be served.
    pub fn submit(&mut self, request: Request, now: Time) -> Result<RequestId, Refusal> {
        self.now = self.now.max(now);
        request.check(&self.config, self.now)?;
        let rank = Rank::new(request.priority, self.now, self.config.aging, self.totals.submitted);
        self.totals.submitted += 1;
        let (slot, id) = match self.free_slots.pop() {
            Some(slot) => (slot, self.sequences[slot as usize].id.successor()),
            None => (self.sequences.len() as u32, RequestId::first(self.sequences.len() as u32)),
        };
        let sequence = Sequence::new(id, rank, request, self.pools.len());
        if let Some(deadline) = sequence.deadline {
            self.deadlines.insert((deadline, slot));
        }
        if slot as usize == self.sequences.len() {
            self.sequences.push(sequence);
        } else {
            self.sequences[slot as usize] = sequence;
        }
        self.waiting.insert((rank, slot));
        Ok(id)
    }

    /// Ends a request, also while a step computes for it. Returns false if it has already ended.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        let alive = self.sequences.get(request.slot()).is_some_and(|s| s.id == request && s.state.is_alive());
        if alive {
            self.end(request.slot() as u32, FinishReason::Cancelled);
        }
        alive
    }

    /// The requests that ended since the last call, in the order in which they did.
    pub fn take_ended(&mut self) -> std::vec::Drain<'_, Ended> {
        self.ended.drain(..)
    }

    /// What there is to do.
    pub fn load(&self) -> Load {
        Load { waiting: self.waiting.len(), running: self.running.len(), in_flight: self.flights.len() }
    }

    /// How the blocks of a cache group are used.
    pub fn occupancy(&self, group: usize) -> Occupancy {
        self.pools[group].occupancy()
    }

    /// Sums since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The known tokens of a request: its prompt, and what was generated. `None` once it has ended.
    pub fn tokens(&self, request: RequestId) -> Option<&[u32]> {
        self.sequences.get(request.slot()).filter(|s| s.id == request && s.state.is_alive()).map(|s| &s.tokens[..])
    }

    /// Moves time on and ends what is late.
    pub(crate) fn pass(&mut self, now: Time) {
        self.now = self.now.max(now);
        while let Some(&(deadline, slot)) = self.deadlines.first()
            && deadline <= self.now
        {
            self.end(slot, FinishReason::Deadline);
        }
    }

    /// Ends a waiting or running sequence. Its blocks are given back now, or with the last step in flight that writes to them.
    pub(crate) fn end(&mut self, slot: u32, reason: FinishReason) {
        self.leave(slot);
        let sequence = &mut self.sequences[slot as usize];
        sequence.state = State::Ended;
        if let Some(deadline) = sequence.deadline {
            self.deadlines.remove(&(deadline, slot));
        }
        self.ended.push(Ended {
            request: sequence.id,
            reason,
            generated: sequence.generated(),
            cached: sequence.cached.unwrap_or(0),
            drafted: sequence.drafted,
            accepted: sequence.accepted,
            preemptions: sequence.preemptions,
        });
        if sequence.in_flight == 0 {
            self.vacate(slot);
        }
    }

    /// Takes a sequence out of the waiting or the running ones.
    pub(crate) fn leave(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        if sequence.state == State::Waiting {
            self.waiting.remove(&(sequence.rank, slot));
            return;
        }
        self.ready -= u32::from(std::mem::take(&mut sequence.ready));
        let (from, to) = std::mem::take(&mut sequence.promised);
        for key in &sequence.keys[from as usize..to as usize] {
            if self.promises.get(key) == Some(&slot) {
                self.promises.remove(key);
            }
        }
        let at = self.place(slot);
        self.running.remove(at);
    }

    /// Where in `running` a sequence is, or would be.
    pub(crate) fn place(&self, slot: u32) -> usize {
        let rank = self.sequences[slot as usize].rank;
        self.running.partition_point(|&s| self.sequences[s as usize].rank < rank)
    }

    /// Frees the slot of a sequence that has ended and that no step computes for.
    pub(crate) fn vacate(&mut self, slot: u32) {
        self.release_blocks(slot);
        let sequence = &mut self.sequences[slot as usize];
        sequence.state = State::Gone;
        (sequence.tokens, sequence.keys, sequence.held) = Default::default();
        self.free_slots.push(slot);
    }

    /// Gives back all blocks of a sequence, the last first: what is evicted first then is the end of a prefix, not its beginning.
    pub(crate) fn release_blocks(&mut self, slot: u32) {
        for (held, pool) in self.sequences[slot as usize].held.iter_mut().zip(&mut self.pools) {
            held.table.drain(..).skip(held.live_from as usize).rev().for_each(|block| pool.release(block));
        }
    }
}
