//! What came of a step: tokens are kept, blocks published or given back, sequences ended.

use crate::config::GroupKind;
use crate::plan::{Chunk, ChunkEnd, ChunkResult, CommitError, StepId, StepResults};
use crate::prefix::Link;
use crate::request::FinishReason;
use crate::scheduler::{Flight, Scheduler};
use crate::sequence::State;

/// How many of a sequence's choices are kept: the drafts are the target's own choices up to the first that differs, and that choice is
/// itself the token after them.
pub fn accepted(drafts: &[u32], choices: &[u32]) -> u32 {
    let matching = drafts.iter().zip(choices).take_while(|(a, b)| a == b).count();
    (matching + 1).min(choices.len()) as u32
}

impl Scheduler {
    /// Takes in the results of the oldest step in flight. Returns for each of its chunks how many of the choices are kept: the first so
    /// many are the request's next tokens. Nothing is kept of a request that has ended meanwhile.
    ///
    /// # Errors
    /// Results that do not belong to that step; nothing has changed then.
    pub fn commit(&mut self, id: StepId, results: &StepResults) -> Result<&[u32], CommitError> {
        let expected = self.flights.front().map(|f| f.id);
        let Some(flight) = self.flights.pop_front_if(|f| f.id == id) else {
            return Err(CommitError::Order { given: id, expected });
        };
        if let Err(error) = validate(&flight, results) {
            self.flights.push_front(flight);
            return Err(error);
        }
        self.measure(&flight, results);
        self.kept.clear();
        self.totals.steps += 1;
        self.totals.rows += u64::from(flight.rows);
        let (mut choices, mut planned, mut proposed) =
            (&results.choices[..], &flight.drafts[..], &results.proposed[..]);
        for (chunk, result) in flight.chunks.iter().zip(&results.chunks) {
            let chosen = choices.split_off(..result.choices as usize).unwrap_or_default();
            let source = if chunk.draft.propose > 0 { &mut proposed } else { &mut planned };
            let drafts = source.split_off(..chunk.drafted as usize).unwrap_or_default();
            let kept = self.commit_chunk(chunk, *result, chosen, drafts);
            self.kept.push(kept);
        }
        self.spare.push(flight);
        Ok(&self.kept)
    }

    fn commit_chunk(&mut self, chunk: &Chunk, result: ChunkResult, chosen: &[u32], drafts: &[u32]) -> u32 {
        let slot = chunk.request.slot() as u32;
        let sequence = &mut self.sequences[slot as usize];
        sequence.in_flight -= 1;
        if sequence.state == State::Ended {
            if sequence.in_flight == 0 {
                self.vacate(slot);
            }
            return 0;
        }
        if result.end == ChunkEnd::Failed {
            self.end(slot, FinishReason::Failed);
            return 0;
        }
        let kept = accepted(drafts, chosen);
        // Drafts whose keys and values are those of the tokens kept.
        let matching = if kept == 0 {
            0
        } else {
            (drafts.iter().zip(chosen).take_while(|(a, b)| a == b).count() as u32).min(kept)
        };
        let end = chunk.position + chunk.len - chunk.drafted;
        sequence.tokens.extend(&chosen[..kept as usize]);
        sequence.computed = end + matching;
        sequence.scheduled += matching;
        sequence.reported =
            if chunk.samples > 0 { sequence.known() - 1 } else { sequence.reported.max(end.min(sequence.known() - 1)) };
        let drafted = matching.min(chunk.draft.propose.saturating_sub(1));
        sequence.draft_computed += chunk.draft.len + drafted;
        sequence.draft_scheduled += drafted;
        sequence.drafted += chunk.drafted;
        sequence.accepted += matching;
        sequence.memory_computed |= sequence.memory.is_some();
        self.totals.generated += u64::from(kept);
        self.totals.drafted += u64::from(chunk.drafted);
        self.totals.accepted += u64::from(matching);
        if let (Some(policy), true) = (&mut self.policy, chunk.samples > 0) {
            policy.verified(&mut sequence.record, chunk.drafted, matching);
        }
        if chunk.encode_memory {
            self.publish_memory(slot);
        }
        self.publish(slot);
        self.give_back(slot);
        self.finish_or_go_on(slot, result.end == ChunkEnd::Stop && kept == result.choices);
        kept
    }

    fn finish_or_go_on(&mut self, slot: u32, stopped: bool) {
        let sequence = &mut self.sequences[slot as usize];
        let done = match sequence.max_tokens {
            0 => sequence.computed == sequence.known(),
            most => sequence.generated() >= most,
        };
        if stopped {
            self.end(slot, FinishReason::Stop);
        } else if done {
            self.end(slot, FinishReason::Length);
        } else if sequence.pending() == 1 && sequence.in_flight == 0 && !sequence.ready {
            sequence.ready = true;
            self.ready += 1;
        }
    }

    /// Makes findable what is full and committed.
    fn publish(&mut self, slot: u32) {
        let block_tokens = self.config.block_tokens;
        let sequence = &mut self.sequences[slot as usize];
        for (group, pool) in self.pools.iter_mut().enumerate() {
            let computed = match self.config.groups[group].kind {
                GroupKind::CrossAttention => continue,
                GroupKind::Draft => sequence.draft_computed,
                _ => sequence.computed,
            };
            let full = computed / block_tokens;
            if sequence.held[group].published >= full {
                continue;
            }
            sequence.extend_keys(full, block_tokens, &mut self.scratch);
            for index in sequence.held[group].published..full {
                let block = sequence.held[group].table[index as usize];
                pool.publish(block, sequence.keys[index as usize], sequence.link(index, block_tokens));
            }
            sequence.held[group].published = full;
        }
        while sequence.promised.0 < sequence.promised.1.min(sequence.computed / block_tokens) {
            let key = &sequence.keys[sequence.promised.0 as usize];
            if self.promises.get(key) == Some(&slot) {
                self.promises.remove(key);
            }
            sequence.promised.0 += 1;
        }
    }

    fn publish_memory(&mut self, slot: u32) {
        let sequence = &self.sequences[slot as usize];
        let (Some(group), Some(memory)) = (self.memory_group, sequence.memory) else { return };
        let mut parent = sequence.memory_root;
        for &block in &sequence.held[group].table {
            let link = Link { parent, content: memory.content, tokens: &[] };
            parent = link.key(&mut self.scratch);
            self.pools[group].publish(block, parent, link);
        }
    }

    /// Gives back what no query to come, nor one in flight, can see.
    fn give_back(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        for ((described, held), pool) in self.config.groups.iter().zip(&mut sequence.held).zip(&mut self.pools) {
            let live_from = described.kind.first_needed(sequence.computed, self.config.block_tokens);
            if !described.kind.holds_tokens() || live_from <= held.live_from {
                continue;
            }
            for entry in &mut held.table[held.live_from as usize..live_from as usize] {
                pool.release(std::mem::replace(entry, crate::pool::NO_BLOCK));
            }
            held.live_from = live_from;
        }
    }

    /// Learns from how long a step took.
    fn measure(&mut self, flight: &Flight, results: &StepResults) {
        let decodes = |c: &&Chunk| c.samples > 0 && c.len == c.samples;
        let (mut sequences, mut rows) = (0, 0);
        for chunk in flight.chunks.iter().filter(decodes) {
            (sequences, rows) = (sequences + 1, rows + chunk.len);
        }
        if let Some(pace) = &mut self.pace {
            pace.measured(sequences, flight.rows - rows, results.seconds + results.draft_seconds);
        }
        // Where prompts are computed too, the rows are not of one kind.
        if let (Some(policy), true) = (&mut self.policy, flight.rows == rows) {
            let proposals = flight.chunks.iter().map(|c| c.draft.propose).max().unwrap_or(0);
            policy.measured(rows, results.seconds, sequences, proposals, results.draft_seconds);
        }
    }
}

/// Whether the results have the shape of the step.
fn validate(flight: &Flight, results: &StepResults) -> Result<(), CommitError> {
    let same = |what, given: usize, expected: usize| {
        if given == expected { Ok(()) } else { Err(CommitError::Length { what, given, expected }) }
    };
    same("chunks", results.chunks.len(), flight.chunks.len())?;
    let (mut choices, mut proposed) = (0, 0);
    for (index, (chunk, result)) in flight.chunks.iter().zip(&results.chunks).enumerate() {
        let least = u32::from(chunk.samples > 0 && result.end != ChunkEnd::Failed);
        if !(least..=chunk.samples).contains(&result.choices) {
            return Err(CommitError::Choices { chunk: index, given: result.choices, least, most: chunk.samples });
        }
        choices += result.choices as usize;
        proposed += chunk.draft.propose as usize;
    }
    same("choices", results.choices.len(), choices)?;
    same("proposed tokens", results.proposed.len(), proposed)
}
