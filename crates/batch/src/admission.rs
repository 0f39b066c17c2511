//! Waiting sequences become running ones: prefix hits, room, promises.

use crate::config::GroupKind;
use crate::plan::StepPlan;
use crate::planning::Step;
use crate::pool::NO_BLOCK;
use crate::prefix::Link;
use crate::scheduler::{Blocked, Scheduler};
use crate::sequence::State;

/// One block is kept free for so many running sequences, so that an admission is not undone by preemption a few steps later.
const RUNNING_PER_FREE_BLOCK: u32 = 4;

impl Scheduler {
    /// Admits waiting sequences in order of rank while budgets and blocks last. The order is strict: a sequence that does not fit is
    /// not overtaken, or it would starve.
    pub(crate) fn admit(&mut self, plan: &mut StepPlan, step: &mut Step) {
        while step.tokens.min(step.prompt_tokens) > 0
            && step.outputs > 0
            && self.running.len() < self.config.max_running as usize
        {
            let Some(&(_, slot)) = self.waiting.first() else { return };
            let same = |b: Blocked| b.slot == slot && self.pools[b.group].turnover() < b.until;
            if !self.running.is_empty() && self.blocked.is_some_and(same) {
                return;
            }
            self.blocked = None;
            let hits = self.hits(slot);
            if self.is_promised(slot, hits) {
                return;
            }
            let memory = self.memory_hit(slot);
            if let Some((group, missing)) = self.shortage(slot, hits, memory.as_deref()) {
                let until = self.pools[group].turnover() + u64::from(missing);
                self.blocked = Some(Blocked { slot, group, until });
                return;
            }
            self.enter(slot, hits, memory);
            let want = self.sequences[slot as usize].want(step.tokens.min(step.prompt_tokens), step.outputs);
            self.plan_chunk(slot, want, plan, step);
        }
    }

    /// How many blocks of its known tokens the cache holds, in every group as many as that group needs to go on from there.
    fn hits(&mut self, slot: u32) -> u32 {
        let block_tokens = self.config.block_tokens;
        let sequence = &mut self.sequences[slot as usize];
        sequence.extend_keys(sequence.known() / block_tokens, block_tokens, &mut self.scratch);
        // The position whose output is wanted next must be computed.
        let most = sequence.reported / block_tokens;
        let groups: Vec<_> = (0..self.pools.len()).filter(|&g| self.config.groups[g].kind.holds_tokens()).collect();
        let sequence = &self.sequences[slot as usize];
        // Of each group, how many blocks up to here are cached without a gap.
        let mut runs = vec![0; groups.len()];
        let mut hits = 0;
        for index in 0..most {
            let (key, link) = (sequence.keys[index as usize], sequence.link(index, block_tokens));
            let mut enough = true;
            for (run, &group) in runs.iter_mut().zip(&groups) {
                *run = if self.pools[group].find(key, link).is_some() { *run + 1 } else { 0 };
                let kind = self.config.groups[group].kind;
                let needed = index + 1 - kind.first_needed((index + 1) * block_tokens, block_tokens);
                enough &= *run >= needed;
                if kind == GroupKind::Full && *run == 0 {
                    return hits;
                }
            }
            if enough {
                hits = index + 1;
            }
        }
        hits
    }

    /// Whether the first block that it would compute is being computed by a running sequence.
    fn is_promised(&self, slot: u32, hits: u32) -> bool {
        let sequence = &self.sequences[slot as usize];
        hits < sequence.reported / self.config.block_tokens && self.promises.contains_key(&sequence.keys[hits as usize])
    }

    /// The blocks of its memory, if they are all cached.
    fn memory_hit(&mut self, slot: u32) -> Option<Vec<u32>> {
        let pool = &self.pools[self.memory_group?];
        let sequence = &self.sequences[slot as usize];
        let memory = sequence.memory?;
        let mut parent = sequence.memory_root;
        let blocks = 0..memory.positions.div_ceil(self.config.block_tokens);
        let find = |_| {
            let link = Link { parent, content: memory.content, tokens: &[] };
            parent = link.key(&mut self.scratch);
            pool.find(parent, link)
        };
        blocks.map(find).collect()
    }

    /// A group that lacks blocks for all known tokens of a sequence and the next, and how many.
    fn shortage(&self, slot: u32, hits: u32, memory: Option<&[u32]>) -> Option<(usize, u32)> {
        let block_tokens = self.config.block_tokens;
        let sequence = &self.sequences[slot as usize];
        let positions = (sequence.known() + 1).min(sequence.final_positions());
        let spare = self.running.len() as u32 / RUNNING_PER_FREE_BLOCK;
        (0..self.pools.len()).find_map(|group| {
            let (kind, pool) = (self.config.groups[group].kind, &self.pools[group]);
            let idle = |ids: &mut dyn Iterator<Item = u32>| ids.filter(|&id| pool.is_idle(id)).count() as u32;
            let needed = match kind {
                GroupKind::Draft => 0,
                GroupKind::CrossAttention => match memory {
                    Some(blocks) => idle(&mut blocks.iter().copied()),
                    None => sequence.memory.map_or(0, |m| m.positions.div_ceil(block_tokens)),
                },
                kind => {
                    let first = kind.first_needed(hits * block_tokens, block_tokens);
                    let find = |i| pool.find(sequence.keys[i as usize], sequence.link(i, block_tokens));
                    // Blocks that it shares and that nobody else holds count as taken, too.
                    let shared = idle(&mut (first..hits).filter_map(find));
                    shared + kind.blocks_for(positions, block_tokens).saturating_sub(hits - first).max(1) + spare
                }
            };
            needed.checked_sub(pool.available()).filter(|&missing| missing > 0).map(|missing| (group, missing))
        })
    }

    /// Moves a waiting sequence among the running ones, with the blocks that it shares.
    fn enter(&mut self, slot: u32, hits: u32, memory: Option<Vec<u32>>) {
        self.share_prefix(slot, hits);
        self.hold_memory(slot, memory);
        let block_tokens = self.config.block_tokens;
        let sequence = &mut self.sequences[slot as usize];
        self.waiting.remove(&(sequence.rank, slot));
        sequence.state = State::Running;
        let found = hits * block_tokens;
        (sequence.computed, sequence.scheduled) = (found, found);
        sequence.cached.get_or_insert(found.min(sequence.prompt));
        self.totals.looked_up += u64::from(sequence.known());
        self.totals.found += u64::from(found);
        let full = sequence.known() / block_tokens;
        sequence.promised = (hits, full);
        for &key in &sequence.keys[hits as usize..full as usize] {
            self.promises.entry(key).or_insert(slot);
        }
        let place = self.place(slot);
        self.running.insert(place, slot);
    }

    /// Takes hold of the first `hits` blocks in each group as far as they are still needed; of the draft's, as far as they go.
    fn share_prefix(&mut self, slot: u32, hits: u32) {
        let block_tokens = self.config.block_tokens;
        for (group, pool) in self.pools.iter_mut().enumerate() {
            let kind = self.config.groups[group].kind;
            let sequence = &self.sequences[slot as usize];
            let find = |i: u32| pool.find(sequence.keys[i as usize], sequence.link(i, block_tokens));
            let (first, table) = match kind {
                GroupKind::CrossAttention => continue,
                GroupKind::Draft => (0, (0..(sequence.known() - 1) / block_tokens).map_while(find).collect::<Vec<_>>()),
                kind => {
                    let first = kind.first_needed(hits * block_tokens, block_tokens);
                    let found = (first..hits).map(|i| find(i).expect("a hit stays in the cache until it is shared"));
                    (first, std::iter::repeat_n(NO_BLOCK, first as usize).chain(found).collect())
                }
            };
            table[first as usize..].iter().for_each(|&block| pool.share(block));
            let sequence = &mut self.sequences[slot as usize];
            let count = table.len() as u32;
            if kind == GroupKind::Draft {
                (sequence.draft_computed, sequence.draft_scheduled) = (count * block_tokens, count * block_tokens);
            }
            let held = &mut sequence.held[group];
            (held.table, held.live_from, held.published) = (table, first, count);
        }
    }

    fn hold_memory(&mut self, slot: u32, cached: Option<Vec<u32>>) {
        let (Some(group), Some(memory)) = (self.memory_group, self.sequences[slot as usize].memory) else { return };
        match cached {
            Some(blocks) => {
                blocks.iter().for_each(|&block| self.pools[group].share(block));
                let sequence = &mut self.sequences[slot as usize];
                sequence.held[group].table = blocks;
                sequence.memory_computed = true;
            }
            None => self.grow_group(slot, group, memory.positions),
        }
    }
}
