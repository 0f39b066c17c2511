//! One step: running sequences in order of rank, then waiting ones, under the budgets.

use crate::config::{Proposer, Time};
use crate::ngram;
use crate::plan::{Chunk, DraftChunk, StepId, StepPlan, TableUpdate};
use crate::scheduler::{Flight, Scheduler};
use crate::sequence::{State, Want};
use crate::speculation::Drafts;
use std::cmp::Reverse;

/// The step being planned.
pub(crate) struct Step {
    /// What is left of the budgets.
    pub tokens: u32,
    pub outputs: u32,
    /// Those of `tokens` that sequences may take which do not decode.
    pub prompt_tokens: u32,
    pub draft_tokens: u32,
    pub drafts: Drafts,
    /// Running sequences not yet visited that need one row (and their drafts): rows are kept for them, so that a long prompt
    /// before them does not make them wait.
    pub ready_left: u32,
    /// Blocks were missing: nothing is admitted.
    pub short: bool,
    pub flight: Flight,
}

/// What became of a running sequence.
enum Visit {
    /// It has a chunk, or needs none, or has to wait.
    Done,
    /// It gave up its blocks.
    Yielded,
}

/// Who gives blocks to a sequence that needs one.
enum Giver {
    Other(u32),
    Itself,
    /// Those who would are in flight: it waits until they are not.
    Nobody,
}

impl Scheduler {
    /// The next step, or `None` if there is nothing to compute now: no sequences, all waiting for results, or too many steps in flight.
    /// With no step in flight there is a step as long as there are sequences.
    pub fn plan(&mut self, now: Time) -> Option<StepPlan> {
        let mut plan = StepPlan::default();
        self.plan_into(now, &mut plan).then_some(plan)
    }

    /// As [`Scheduler::plan`], into a plan whose memory is used again. Returns false, with an empty plan, where `plan` returns `None`.
    pub fn plan_into(&mut self, now: Time, plan: &mut StepPlan) -> bool {
        self.pass(now);
        plan.clear();
        if self.flights.len() >= self.config.max_in_flight as usize {
            return false;
        }
        let mut step = self.open_step();
        let mut running = self.running.len();
        self.plan_running(plan, &mut step);
        // Rows may have been kept for a sequence that then yielded its blocks: those that are left can have both.
        while plan.chunks.is_empty() && self.running.len() < running {
            running = self.running.len();
            step.ready_left = self.ready;
            step.prompt_tokens = u32::MAX;
            self.plan_running(plan, &mut step);
        }
        if !step.short {
            self.admit(plan, &mut step);
        }
        let mut flight = step.flight;
        if plan.chunks.is_empty() {
            self.spare.push(flight);
            return false;
        }
        plan.id = StepId(self.next_step);
        self.next_step += 1;
        flight.id = plan.id;
        flight.rows = plan.tokens.len() as u32;
        flight.chunks.clone_from(&plan.chunks);
        self.flights.push_back(flight);
        true
    }

    fn open_step(&mut self) -> Step {
        let mut flight = self.spare.pop().unwrap_or_default();
        flight.drafts.clear();
        let (tokens, outputs) = (self.config.step_tokens, self.config.step_outputs);
        // Drafts take at most half of what decoding leaves: prompts must not starve.
        let fits = tokens.min(outputs).saturating_sub(self.ready) / (2 * self.ready.max(1));
        let ready = self.ready;
        let drafts = self.policy.as_mut().map_or(Drafts { most: 0, worth: 0.0 }, |policy| policy.choose(ready, fits));
        let prompt_tokens = self.prompt_rows();
        // Those that decode may have the draft model compute two tokens each.
        let draft_tokens = tokens.min(prompt_tokens.saturating_add(2 * ready));
        Step { tokens, outputs, prompt_tokens, draft_tokens, drafts, ready_left: ready, short: false, flight }
    }

    /// Rows that keep the pace.
    fn prompt_rows(&mut self) -> u32 {
        let Some(pacer) = &mut self.pace else { return u32::MAX };
        let sequences = &self.sequences;
        let running = self.running.iter().filter(|&&slot| !sequences[slot as usize].ready);
        let waiting = self.waiting.iter().map(|(_, slot)| slot);
        let lacking =
            running.chain(waiting).map(|&slot| sequences[slot as usize].pending()).filter(|&tokens| tokens > 0);
        pacer.rows(self.ready, lacking)
    }

    fn plan_running(&mut self, plan: &mut StepPlan, step: &mut Step) {
        let mut at = 0;
        while at < self.running.len() && step.tokens > 0 {
            let slot = self.running[at];
            match self.plan_sequence(slot, plan, step) {
                // Preemption may have moved it.
                Visit::Done if step.short => at = self.place(slot) + 1,
                Visit::Done => at += 1,
                Visit::Yielded => at = self.place(slot),
            }
        }
    }

    /// Plans a chunk of a running sequence.
    fn plan_sequence(&mut self, slot: u32, plan: &mut StepPlan, step: &mut Step) -> Visit {
        let sequence = &self.sequences[slot as usize];
        if sequence.pending() == 0 {
            return Visit::Done;
        }
        step.ready_left -= u32::from(sequence.ready);
        // No more rows than the step can serve: in a pipeline the others have theirs in the steps after it.
        let kept = step.ready_left.min(step.outputs).saturating_mul(1 + step.drafts.most);
        let most = if sequence.ready { u32::MAX } else { step.prompt_tokens };
        let want = sequence.want(step.tokens.saturating_sub(kept).min(most), step.outputs.saturating_sub(kept));
        if want.len == 0 {
            return Visit::Done;
        }
        let in_flight = sequence.in_flight > 0;
        while self.room(slot, want.len) == 0 {
            step.short = true;
            if in_flight {
                return Visit::Done;
            }
            match self.giver(slot) {
                Giver::Other(other) => {
                    step.ready_left -= u32::from(self.sequences[other as usize].ready);
                    self.preempt(other);
                }
                Giver::Itself => {
                    self.preempt(slot);
                    return Visit::Yielded;
                }
                Giver::Nobody => return Visit::Done,
            }
        }
        self.plan_chunk(slot, want, plan, step);
        Visit::Done
    }

    /// Plans a chunk that wants at most `want` and has room for at least one token.
    pub(crate) fn plan_chunk(&mut self, slot: u32, want: Want, plan: &mut StepPlan, step: &mut Step) {
        let len = self.room(slot, want.len);
        let sequence = &self.sequences[slot as usize];
        let Want { len, outputs } = sequence.want(len, want.outputs);
        let (position, ends) = (sequence.scheduled, len == sequence.pending());
        let row = plan.tokens.len() as u32;
        plan.tokens.extend(&sequence.tokens[position as usize..][..len as usize]);
        let (draft, drafted) = self.plan_drafts(slot, len, plan, step);
        let generates = ends && self.sequences[slot as usize].max_tokens > 0;
        self.grow(slot, position + len + drafted);
        self.tell_tables(slot, plan);

        let sequence = &mut self.sequences[slot as usize];
        plan.chunks.push(Chunk {
            request: sequence.id,
            row,
            len: len + drafted,
            position,
            outputs: outputs + drafted,
            samples: if generates { 1 + drafted } else { 0 },
            drafted,
            fresh: sequence.fresh,
            encode_memory: sequence.fresh && sequence.memory.is_some() && !sequence.memory_computed,
            draft,
        });
        sequence.fresh = false;
        sequence.scheduled += len;
        sequence.draft_scheduled += draft.len;
        sequence.in_flight += 1;
        let decoded = std::mem::take(&mut sequence.ready);
        self.ready -= u32::from(decoded);
        step.prompt_tokens = step.prompt_tokens.saturating_sub(if decoded { 0 } else { len });
        step.tokens -= len + drafted;
        step.outputs -= outputs + drafted;
        step.draft_tokens -= draft.len;
    }

    /// Chooses the drafts that follow a chunk of `len` known tokens, and what the draft model computes meanwhile.
    fn plan_drafts(&mut self, slot: u32, len: u32, plan: &mut StepPlan, step: &mut Step) -> (DraftChunk, u32) {
        let (Some(policy), sequence) = (&self.policy, &self.sequences[slot as usize]) else {
            return Default::default();
        };
        if step.drafts.most == 0 {
            return Default::default();
        }
        let mut most = 0;
        if sequence.ready {
            let left = sequence.max_tokens - sequence.generated();
            most = policy.share(step.drafts, &sequence.record).min(left.saturating_sub(1));
            most = most.min((step.tokens.min(step.outputs) - 1).saturating_sub(step.ready_left));
            most = self.room(slot, 1 + most) - 1;
        }
        match policy.proposer() {
            Proposer::Ngram { longest, shortest } => {
                let from = plan.tokens.len();
                let drafted = ngram::propose(&sequence.tokens, longest, shortest, most, &mut plan.tokens);
                step.flight.drafts.extend(&plan.tokens[from..]);
                (DraftChunk::default(), drafted)
            }
            Proposer::Draft => {
                let resting = sequence.ready && most == 0;
                let draft = if resting { DraftChunk::default() } else { self.plan_draft_model(slot, most, plan, step) };
                plan.tokens.resize(plan.tokens.len() + draft.propose as usize, 0);
                debug_assert!(draft.propose == 0 || len == 1);
                (draft, draft.propose)
            }
        }
    }

    /// Lets the draft model compute known tokens that it has not, and, if it then knows them all, propose `most`.
    fn plan_draft_model(&mut self, slot: u32, most: u32, plan: &mut StepPlan, step: &Step) -> DraftChunk {
        let Some(group) = self.draft_group else { return DraftChunk::default() };
        let sequence = &self.sequences[slot as usize];
        let (position, known) = (sequence.draft_scheduled, sequence.known());
        let blocks = sequence.held[group].table.len() as u32 + self.pools[group].available();
        let capacity = blocks.saturating_mul(self.config.block_tokens);
        // The last known token is left for when it proposes: it needs the output there. Those yet to come catch up on two each.
        let end = if most > 0 { known } else { known - 1 };
        let budget = step.draft_tokens.saturating_sub(2 * step.ready_left);
        let len = end.saturating_sub(position).min(budget).min(capacity - position);
        let propose = if position + len == known { most.min(capacity - known + 1) } else { 0 };
        if len == 0 {
            return DraftChunk::default();
        }
        let row = plan.draft_tokens.len() as u32;
        plan.draft_tokens.extend(&sequence.tokens[position as usize..][..len as usize]);
        self.grow_group(slot, group, position + len + propose.saturating_sub(1));
        DraftChunk { row, len, position, propose }
    }

    /// How many of `len` positions after the scheduled ones have blocks, or would get them.
    pub(crate) fn room(&self, slot: u32, len: u32) -> u32 {
        let sequence = &self.sequences[slot as usize];
        let groups = self.config.groups.iter().zip(&self.pools).zip(&sequence.held);
        groups.filter(|((group, _), _)| group.kind.holds_tokens()).fold(len, |len, ((_, pool), held)| {
            let blocks = held.table.len() as u64 + u64::from(pool.available());
            let positions = blocks * u64::from(self.config.block_tokens) - u64::from(sequence.scheduled);
            u64::from(len).min(positions) as u32
        })
    }

    /// Takes blocks for all positions below `positions`; there must be room.
    fn grow(&mut self, slot: u32, positions: u32) {
        for group in 0..self.pools.len() {
            if self.config.groups[group].kind.holds_tokens() {
                self.grow_group(slot, group, positions);
            }
        }
    }

    pub(crate) fn grow_group(&mut self, slot: u32, group: usize, positions: u32) {
        let table = &mut self.sequences[slot as usize].held[group].table;
        while (table.len() as u32) < positions.div_ceil(self.config.block_tokens) {
            table.push(self.pools[group].take().expect("room was made before blocks are taken"));
        }
    }

    /// Writes into the plan what tables have gained.
    fn tell_tables(&mut self, slot: u32, plan: &mut StepPlan) {
        let sequence = &mut self.sequences[slot as usize];
        for (group, held) in sequence.held.iter_mut().enumerate() {
            let (from, to) = (held.sent, held.table.len() as u32);
            if from < to {
                plan.updates.push(TableUpdate {
                    request: sequence.id,
                    group: group as u32,
                    from,
                    start: plan.blocks.len() as u32,
                    count: to - from,
                    live_from: held.live_from,
                });
                plan.blocks.extend(&held.table[from as usize..]);
                held.sent = to;
            }
        }
    }

    /// Who gives up its blocks for `slot`: the lowest effective priority, then the least computed, then the latest. Whoever asks is
    /// among the candidates, so blocks never go from a more to a less deserving sequence.
    fn giver(&self, slot: u32) -> Giver {
        let order = |slot: u32| {
            let sequence = &self.sequences[slot as usize];
            (Reverse(sequence.rank.class), sequence.computed, Reverse(sequence.rank.number))
        };
        let asker = order(slot);
        let mut least = (asker, slot);
        let mut busy = false;
        for &other in self.running.iter().rev() {
            let key = order(other);
            if key.0 > least.0.0 {
                break;
            }
            if key >= asker {
                continue;
            }
            if self.sequences[other as usize].in_flight > 0 {
                busy = true;
            } else if key < least.0 && self.sequences[other as usize].held.iter().any(|h| !h.table.is_empty()) {
                least = (key, other);
            }
        }
        match least.1 {
            other if other != slot => Giver::Other(other),
            _ if busy => Giver::Nobody,
            _ => Giver::Itself,
        }
    }

    /// Takes all blocks from a running sequence that is not in flight. It waits again and will compute its tokens anew, as far as they
    /// are not found in the prefix cache by then.
    fn preempt(&mut self, slot: u32) {
        self.leave(slot);
        self.release_blocks(slot);
        let sequence = &mut self.sequences[slot as usize];
        sequence.restart();
        sequence.state = State::Waiting;
        sequence.preemptions += 1;
        self.totals.preemptions += 1;
        self.waiting.insert((sequence.rank, slot));
    }
}
