//! What must be true between any two calls.

use crate::scheduler::Scheduler;
use crate::sequence::{Sequence, State};

/// Says what is wrong, unless it holds.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Scheduler {
    /// Verifies every invariant, in time proportional to all blocks and sequences: for tests and for finding faults.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<(), String> {
        self.check_pools()?;
        self.check_lists()?;
        self.sequences.iter().enumerate().try_for_each(|(slot, sequence)| self.check_sequence(slot, sequence))
    }

    /// free + cached + owned = total, and every hold is counted.
    fn check_pools(&self) -> Result<(), String> {
        for (group, pool) in self.pools.iter().enumerate() {
            let mut counted = vec![0; pool.len() as usize];
            for held in self.sequences.iter().filter_map(|s| s.held.get(group)) {
                held.table[held.live_from as usize..].iter().for_each(|&block| counted[block as usize] += 1);
            }
            pool.check(&counted).map_err(|error| format!("group {group}: {error}"))?;
            let owned = counted.iter().filter(|&&holders| holders > 0).count() as u32;
            let used = pool.occupancy();
            ensure(used.owned == owned && used.free + used.cached + used.owned == pool.len(), || {
                format!("group {group}: {used:?} of {} blocks, {owned} of them held", pool.len())
            })?;
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<(), String> {
        let of = |state| self.sequences.iter().filter(move |s| s.state == state).count();
        ensure(of(State::Running) == self.running.len() && of(State::Waiting) == self.waiting.len(), || {
            "a list and the states of sequences differ".into()
        })?;
        ensure(of(State::Gone) == self.free_slots.len(), || "a slot is lost".into())?;
        ensure(self.running.len() <= self.config.max_running as usize, || "too many run".into())?;
        let rank = |slot: &u32| self.sequences[*slot as usize].rank;
        ensure(self.running.is_sorted_by_key(rank), || "running sequences are out of order".into())?;
        ensure(self.running.iter().all(|&s| self.sequences[s as usize].state == State::Running), || {
            "a sequence runs that should not".into()
        })?;
        let ready = self.running.iter().filter(|&&s| self.sequences[s as usize].ready).count();
        ensure(ready == self.ready as usize, || format!("{ready} sequences are ready, {} counted", self.ready))?;
        for (key, &slot) in &self.promises {
            let sequence = &self.sequences[slot as usize];
            let (from, to) = sequence.promised;
            let kept = sequence.state == State::Running && sequence.keys[from as usize..to as usize].contains(key);
            ensure(kept, || format!("slot {slot} does not know of its promise"))?;
        }
        Ok(())
    }

    fn check_sequence(&self, slot: usize, sequence: &Sequence) -> Result<(), String> {
        let wrong = |what: &str| format!("slot {slot}: {what}: {sequence:?}");
        if sequence.state == State::Gone {
            return Ok(());
        }
        let flights = self.flights.iter().flat_map(|f| &f.chunks).filter(|c| c.request == sequence.id).count();
        ensure(flights == sequence.in_flight as usize, || wrong("steps in flight"))?;
        if sequence.state == State::Waiting {
            return ensure(sequence.held.iter().all(|h| h.table.is_empty()), || wrong("waits with blocks"));
        }
        ensure(sequence.computed <= sequence.scheduled && sequence.scheduled <= sequence.known(), || {
            wrong("positions")
        })?;
        ensure(sequence.draft_computed <= sequence.draft_scheduled, || wrong("draft positions"))?;
        if sequence.state == State::Running {
            let needs_one = sequence.pending() == 1 && sequence.in_flight == 0;
            ensure(!sequence.ready || needs_one, || wrong("ready"))?;
        }
        for (held, group) in sequence.held.iter().zip(&self.config.groups) {
            let covered = held.table.len() as u32 * self.config.block_tokens;
            let positions = if group.kind.holds_tokens() { sequence.scheduled } else { 0 };
            ensure(covered >= positions && held.live_from <= held.table.len() as u32, || wrong("table"))?;
        }
        Ok(())
    }
}
