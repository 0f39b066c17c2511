//! A model that shows every fault of a plan: its next token is a hash of the whole prefix, read back from the blocks that the plan's
//! tables name.

#![allow(dead_code)]

use batch::*;
use std::collections::{HashMap, HashSet, VecDeque};

/// Ends a sequence.
pub const EOS: u32 = 0;

pub fn mix(a: u64, b: u64) -> u64 {
    let mut x = (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x632b_e59b_d9b4_e019);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// How often the draft model is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draft {
    Never,
    Always,
    Sometimes,
}

/// What stands for the keys and values of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    token: u32,
    position: u32,
    /// Images and memory that they depend on.
    context: u64,
    salt: u128,
}

/// A request as the test knows it.
#[derive(Clone, Debug)]
pub struct Known {
    pub request: Request,
    pub arrival: Time,
    pub number: usize,
    pub generated: Vec<u32>,
    pub ended: Option<Ended>,
    pub lives: u32,
    /// How often each position's output was wanted.
    pub outputs: Vec<u32>,
    /// Rows computed for it, and how often its memory was.
    pub rows: u32,
    pub encoded: u32,
}

/// Scheduler, blocks and everything that is asserted about them.
pub struct World {
    pub scheduler: Scheduler,
    pub config: Config,
    pub draft: Draft,
    pub vocab: u64,
    pub now: Time,
    pub requests: HashMap<RequestId, Known>,
    pub order: Vec<RequestId>,
    pub in_flight: VecDeque<(StepPlan, Option<StepResults>)>,
    pub plans: Vec<String>,
    pub record: bool,
    pub fail: Option<usize>,
    pub eager: bool,
    /// Whether choices behind the first that differs from its draft are reported, too.
    pub all_choices: bool,
    /// Seconds of a target step of so many rows, and of a draft proposal.
    pub cost: fn(u32) -> f64,
    pub draft_cost: f64,
    tables: BlockTables,
    /// Requests that failed or were skipped.
    broken: HashSet<RequestId>,
    /// By group, block and slot in the block.
    blocks: Vec<Vec<Option<Entry>>>,
}

impl World {
    pub fn new(config: Config, draft: Draft) -> Self {
        let room = |group: &Group| (group.blocks * config.block_tokens) as usize;
        Self {
            scheduler: Scheduler::new(config.clone()).unwrap(),
            draft,
            vocab: 11,
            now: 0,
            requests: HashMap::new(),
            order: Vec::new(),
            in_flight: VecDeque::new(),
            plans: Vec::new(),
            record: false,
            fail: None,
            eager: false,
            all_choices: false,
            cost: |_| 0.01,
            draft_cost: 0.001,
            broken: HashSet::new(),
            tables: BlockTables::new(config.groups.len()),
            blocks: config.groups.iter().map(|g| vec![None; room(g)]).collect(),
            config,
        }
    }

    pub fn submit(&mut self, request: Request) -> Result<RequestId, Refusal> {
        let id = self.scheduler.submit(request.clone(), self.now)?;
        let outputs = vec![0; request.prompt.len() + request.max_tokens as usize];
        let known = Known {
            request,
            arrival: self.now,
            number: self.order.len(),
            generated: Vec::new(),
            ended: None,
            lives: 0,
            outputs,
            rows: 0,
            encoded: 0,
        };
        assert!(self.requests.insert(id, known).is_none(), "an id was given twice");
        self.order.push(id);
        Ok(id)
    }

    pub fn cancel(&mut self, id: RequestId) {
        let alive = self.requests[&id].ended.is_none();
        assert_eq!(self.scheduler.cancel(id), alive);
        self.collect();
        assert!(self.requests[&id].ended.is_some());
    }

    pub fn alive(&self) -> usize {
        self.requests.values().filter(|k| k.ended.is_none()).count()
    }

    /// Plans a step if there is one. Returns whether there was.
    pub fn plan(&mut self) -> bool {
        let preemptions = self.scheduler.totals().preemptions;
        let plan = self.scheduler.plan(self.now);
        self.scheduler.check().unwrap();
        if self.scheduler.totals().preemptions > preemptions {
            let admitted = plan.iter().flat_map(|p| &p.chunks).any(|c| c.fresh);
            assert!(!admitted, "one sequence was admitted while another gave up its blocks");
        }
        self.collect();
        let Some(plan) = plan else {
            assert!(
                !self.in_flight.is_empty() || self.alive() == 0,
                "nothing is planned and nothing in flight, but requests are alive"
            );
            return false;
        };
        self.check_plan(&plan);
        let sent = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<StepPlan>(&sent).unwrap(), plan);
        if self.record {
            self.plans.push(sent);
        }
        self.in_flight.push_back((plan, None));
        if self.eager {
            self.run_up_to(self.in_flight.len());
        }
        true
    }

    /// Commits the oldest step in flight, if any.
    pub fn commit(&mut self) {
        self.run_up_to(1);
        let Some((plan, results)) = self.in_flight.pop_front() else { return };
        let results = results.unwrap();
        let sent = serde_json::to_string(&results).unwrap();
        assert_eq!(serde_json::from_str::<StepResults>(&sent).unwrap(), results);
        let kept = self.scheduler.commit(plan.id, &results).unwrap().to_vec();
        self.scheduler.check().unwrap();
        let (mut choices, mut at) = (&results.choices[..], 0);
        for ((chunk, result), kept) in plan.chunks.iter().zip(&results.chunks).zip(kept) {
            let chosen = choices.split_off(..result.choices as usize).unwrap();
            let known = self.requests.get_mut(&chunk.request).unwrap();
            if known.ended.is_some() || result.end == ChunkEnd::Failed {
                assert_eq!(kept, 0, "tokens were kept of a request that had ended");
            } else {
                assert!(kept >= chunk.samples.min(1));
                known.generated.extend(&chosen[..kept as usize]);
            }
            at += 1;
        }
        assert_eq!(at, plan.chunks.len());
        self.collect();
    }

    /// Plans and commits until nothing is left to do; returns the steps taken.
    pub fn drain(&mut self) -> usize {
        let mut steps = 0;
        while self.alive() > 0 || !self.in_flight.is_empty() {
            steps += usize::from(self.plan());
            if !self.in_flight.is_empty() {
                self.commit();
            }
            self.now += 1_000;
            assert!(steps < 100_000, "it does not end");
        }
        for group in 0..self.config.groups.len() {
            assert_eq!(self.scheduler.occupancy(group).owned, 0, "blocks leaked");
        }
        let load = self.scheduler.load();
        assert_eq!((load.waiting, load.running, load.in_flight), (0, 0, 0));
        steps
    }

    fn collect(&mut self) {
        let ended: Vec<Ended> = self.scheduler.take_ended().collect();
        for end in ended {
            let known = self.requests.get_mut(&end.request).unwrap();
            assert!(known.ended.replace(end).is_none(), "a request ended twice");
            self.check_end(end);
        }
    }

    fn check_end(&self, end: Ended) {
        let known = &self.requests[&end.request];
        let expected = self.plain_decoding(&known.request);
        let got = &known.generated;
        assert_eq!(end.generated as usize, got.len());
        match end.reason {
            FinishReason::Stop | FinishReason::Length => {
                assert_eq!(
                    *got, expected,
                    "speculated, batched, preempted or cached output differs from plain decoding"
                );
                let stopped = expected.last() == Some(&EOS);
                assert_eq!(end.reason == FinishReason::Stop, stopped);
                let wanted = if known.request.prompt_outputs { 0 } else { known.request.prompt.len() - 1 };
                for (position, &times) in known.outputs.iter().enumerate() {
                    let last = known.request.prompt.len() + got.len().saturating_sub(1);
                    let once = position >= wanted && position < last;
                    assert_eq!(times, u32::from(once), "output of position {position}");
                }
            }
            _ => assert!(expected.starts_with(got), "{got:?} is not how {expected:?} begins"),
        }
    }

    /// What must hold of a plan before it runs.
    fn check_plan(&mut self, plan: &StepPlan) {
        assert!(plan.tokens.len() <= self.config.step_tokens as usize, "rows");
        assert!(plan.draft_tokens.len() <= self.config.step_tokens as usize, "draft rows");
        assert!(plan.chunks.iter().map(|c| c.outputs).sum::<u32>() <= self.config.step_outputs, "outputs");
        assert!(plan.chunks.len() <= self.config.max_running as usize);
        assert!(self.in_flight.len() < self.config.max_in_flight as usize);
        let mut row = 0;
        let mut seen = HashSet::new();
        for chunk in &plan.chunks {
            assert!(seen.insert(chunk.request) && chunk.row == row && chunk.len > 0);
            assert!(chunk.drafted < chunk.len && chunk.samples <= chunk.outputs && chunk.outputs <= chunk.len);
            row += chunk.len;
            let class = |k: &Known| (k.arrival / self.config.aging) as i64 - i64::from(k.request.priority);
            let first = self.requests[&chunk.request].lives == 0;
            if chunk.fresh && first {
                let (class_here, number) =
                    (class(&self.requests[&chunk.request]), self.requests[&chunk.request].number);
                for other in self.requests.values().filter(|k| k.lives == 0 && k.ended.is_none()) {
                    assert!((class_here, number) <= (class(other), other.number), "a waiting request was overtaken");
                }
            }
            if chunk.fresh {
                self.requests.get_mut(&chunk.request).unwrap().lives += 1;
            }
        }
        assert_eq!(row as usize, plan.tokens.len());
    }

    fn run_up_to(&mut self, count: usize) {
        for at in 0..count.min(self.in_flight.len()) {
            if self.in_flight[at].1.is_none() {
                let plan = self.in_flight[at].0.clone();
                let results = self.run(&plan);
                self.in_flight[at].1 = Some(results);
            }
        }
    }

    fn run(&mut self, plan: &StepPlan) -> StepResults {
        self.tables.apply(plan);
        self.check_writes(plan);
        let mut results = StepResults { seconds: (self.cost)(plan.tokens.len() as u32), ..StepResults::default() };
        let failing = self.fail.take();
        for (index, chunk) in plan.chunks.iter().enumerate() {
            // Nothing is written for what failed, nor for what has ended before its step runs.
            if failing == Some(index)
                || self.requests[&chunk.request].ended.is_some()
                || self.broken.contains(&chunk.request)
            {
                self.broken.insert(chunk.request);
                results.proposed.extend((0..chunk.draft.propose).map(|_| 0));
                results.chunks.push(ChunkResult { choices: 0, end: ChunkEnd::Failed });
                continue;
            }
            let proposed = self.run_draft(plan, chunk);
            results.draft_seconds = results.draft_seconds.max(f64::from(chunk.draft.propose) * self.draft_cost);
            let chosen = self.run_target(plan, chunk, &proposed);
            results.proposed.extend(&proposed);
            // Of a choice that is not kept the scheduler must not believe that it ends anything.
            let end = match chosen.last() {
                Some(&EOS) => ChunkEnd::Stop,
                _ => ChunkEnd::Continue,
            };
            results.chunks.push(ChunkResult { choices: chosen.len() as u32, end });
            results.choices.extend(chosen);
        }
        results
    }

    /// No block that a chunk writes to is read by another sequence of the step.
    fn check_writes(&self, plan: &StepPlan) {
        let size = self.config.block_tokens;
        for (group, kind) in self.config.groups.iter().map(|g| g.kind).enumerate() {
            let mut readers: HashMap<u32, Vec<RequestId>> = HashMap::new();
            for chunk in &plan.chunks {
                let first = match kind {
                    GroupKind::Sliding { window } => (chunk.position + 1).saturating_sub(window) / size,
                    _ => 0,
                };
                let table = self.tables.table(chunk.request, group);
                table.iter().skip(first as usize).for_each(|&b| readers.entry(b).or_default().push(chunk.request));
            }
            for chunk in &plan.chunks {
                let written = match kind {
                    GroupKind::CrossAttention => continue,
                    GroupKind::Draft => {
                        let end = chunk.draft.position + chunk.draft.len + chunk.draft.propose.saturating_sub(1);
                        chunk.draft.position..end
                    }
                    _ => chunk.position..chunk.position + chunk.len,
                };
                for position in written {
                    let block = self.tables.table(chunk.request, group)[(position / size) as usize];
                    assert_eq!(readers[&block], [chunk.request], "a block is shared while it is written");
                }
            }
        }
    }

    fn run_target(&mut self, plan: &StepPlan, chunk: &Chunk, proposed: &[u32]) -> Vec<u32> {
        let request = self.requests[&chunk.request].request.clone();
        let mut tokens = plan.tokens[chunk.row as usize..][..chunk.len as usize].to_vec();
        if chunk.draft.propose > 0 {
            assert_eq!(chunk.drafted, chunk.draft.propose);
            let at = tokens.len() - proposed.len();
            tokens[at..].copy_from_slice(proposed);
        }
        if chunk.encode_memory {
            self.encode_memory(chunk, &request);
        }
        let drafts = tokens[tokens.len() - chunk.drafted as usize..].to_vec();
        let (mut chosen, mut matching, mut ended_at_eos) = (Vec::new(), true, false);
        for (row, &token) in (0..chunk.len).zip(&tokens) {
            let position = chunk.position + row;
            let entry = entry(&request, token, position);
            for group in self.token_groups() {
                self.write(chunk.request, group, position, entry);
            }
            let known = self.requests.get_mut(&chunk.request).unwrap();
            known.rows += 1;
            if row >= chunk.len - chunk.outputs && row < chunk.len - chunk.drafted && known.ended.is_none() {
                known.outputs[position as usize] += 1;
            }
            let next = self.read_next(chunk.request, &request, position);
            if row >= chunk.len - chunk.samples && !matching && self.all_choices && !ended_at_eos {
                chosen.push(next);
            }
            if row >= chunk.len - chunk.samples && matching {
                chosen.push(next);
                ended_at_eos = next == EOS;
                let draft = drafts.get((row - (chunk.len - chunk.samples)) as usize);
                matching = draft == Some(&next) && next != EOS;
                let generated = position as usize + 1 - request.prompt.len();
                if draft.is_some() && draft == Some(&next) && self.requests[&chunk.request].ended.is_none() {
                    let known = self.requests.get_mut(&chunk.request).unwrap();
                    // The output of a draft that was accepted is the output of a known position.
                    if next != EOS && generated + 1 < request.max_tokens as usize + 1 {
                        known.outputs[position as usize + 1] += 1;
                    }
                }
            }
        }
        if self.draft == Draft::Always && chunk.draft.propose > 0 && !chosen.contains(&EOS) {
            assert_eq!(
                chosen[..drafts.len()],
                drafts,
                "a draft model that is always right was not: its cache was wrong"
            );
        }
        chosen
    }

    fn run_draft(&mut self, plan: &StepPlan, chunk: &Chunk) -> Vec<u32> {
        let draft = chunk.draft;
        let Some(group) = self.config.groups.iter().position(|g| g.kind == GroupKind::Draft) else {
            assert_eq!(draft, DraftChunk::default());
            return Vec::new();
        };
        let request = self.requests[&chunk.request].request.clone();
        let mut proposed = Vec::new();
        let mut tokens = plan.draft_tokens[draft.row as usize..][..draft.len as usize].to_vec();
        for step in 0..(draft.len + draft.propose).saturating_sub(1) + u32::from(draft.propose == 0) {
            let Some(&token) = tokens.get(step as usize) else { break };
            let position = draft.position + step;
            self.write(chunk.request, group, position, entry(&request, token, position));
            if step + 1 >= draft.len && (proposed.len() as u32) < draft.propose {
                let prefix = self.read(chunk.request, &request, group, 0..position + 1);
                let right = self.next_token(&request, &prefix);
                let wrong = (right + 1) % self.vocab as u32;
                let next = match self.draft {
                    Draft::Always => right,
                    Draft::Never => wrong,
                    Draft::Sometimes if !mix(u64::from(right), u64::from(position)).is_multiple_of(3) => right,
                    Draft::Sometimes => wrong,
                };
                proposed.push(next);
                tokens.push(next);
            }
        }
        assert_eq!(proposed.len() as u32, draft.propose);
        proposed
    }

    fn token_groups(&self) -> Vec<usize> {
        (0..self.config.groups.len()).filter(|&g| self.config.groups[g].kind.holds_tokens()).collect()
    }

    fn write(&mut self, request: RequestId, group: usize, position: u32, entry: Entry) {
        let size = self.config.block_tokens;
        let block = self.tables.table(request, group)[(position / size) as usize];
        assert_ne!(block, NO_BLOCK);
        self.blocks[group][(block * size + position % size) as usize] = Some(entry);
    }

    /// The tokens at these positions, each of them as it was written for just this prefix.
    fn read(&self, id: RequestId, request: &Request, group: usize, positions: std::ops::Range<u32>) -> Vec<u32> {
        let size = self.config.block_tokens;
        let table = self.tables.table(id, group);
        let mut tokens = Vec::new();
        for position in positions {
            let block = table[(position / size) as usize];
            assert_ne!(block, NO_BLOCK, "position {position} was given back");
            let found =
                self.blocks[group][(block * size + position % size) as usize].expect("a block that was never written");
            assert_eq!(
                found,
                entry(request, found.token, position),
                "what is read at {position} was written for another prefix"
            );
            tokens.push(found.token);
        }
        tokens
    }

    /// The model: from what its caches hold up to `position`.
    fn read_next(&self, id: RequestId, request: &Request, position: u32) -> u32 {
        if let (Some(memory), Some(group)) = (request.memory, self.memory_group()) {
            for block in self.tables.table(id, group) {
                let found = self.blocks[group][(block * self.config.block_tokens) as usize].expect("memory");
                assert_eq!((found.context, found.salt), (memory.content as u64, request.salt));
            }
        }
        let mut state = 0;
        for group in self.token_groups() {
            let from = match self.config.groups[group].kind {
                GroupKind::Sliding { window } => (position + 1).saturating_sub(window),
                _ => 0,
            };
            let seen = self.read(id, request, group, from..position + 1);
            state = seen.iter().fold(mix(state, 1), |state, &t| mix(state, u64::from(t)));
        }
        self.token_of(state, request, position)
    }

    fn token_of(&self, state: u64, request: &Request, position: u32) -> u32 {
        (mix(state, entry(request, 0, position).context) % self.vocab) as u32
    }

    fn next_token(&self, request: &Request, prefix: &[u32]) -> u32 {
        let mut state = 0;
        for group in self.token_groups() {
            let from = match self.config.groups[group].kind {
                GroupKind::Sliding { window } => prefix.len().saturating_sub(window as usize),
                _ => 0,
            };
            state = prefix[from..].iter().fold(mix(state, 1), |state, &t| mix(state, u64::from(t)));
        }
        self.token_of(state, request, prefix.len() as u32 - 1)
    }

    /// One token after the other, alone, without a cache.
    pub fn plain_decoding(&self, request: &Request) -> Vec<u32> {
        let mut tokens = request.prompt.clone();
        while tokens.len() < request.prompt.len() + request.max_tokens as usize {
            tokens.push(self.next_token(request, &tokens));
            if tokens.last() == Some(&EOS) {
                break;
            }
        }
        tokens.split_off(request.prompt.len())
    }

    fn memory_group(&self) -> Option<usize> {
        self.config.groups.iter().position(|g| g.kind == GroupKind::CrossAttention)
    }

    fn encode_memory(&mut self, chunk: &Chunk, request: &Request) {
        let (group, memory) = (self.memory_group().unwrap(), request.memory.unwrap());
        let size = self.config.block_tokens;
        self.requests.get_mut(&chunk.request).unwrap().encoded += 1;
        let table = self.tables.table(chunk.request, group).to_vec();
        assert_eq!(table.len() as u32, memory.positions.div_ceil(size));
        for block in table {
            let entry = Entry { token: 0, position: 0, context: memory.content as u64, salt: request.salt };
            self.blocks[group][(block * size) as usize] = Some(entry);
        }
    }
}

fn entry(request: &Request, token: u32, position: u32) -> Entry {
    let images = request.images.iter().filter(|i| i.position <= position);
    let context = images.fold(0, |context, i| mix(context, i.content as u64));
    Entry { token, position, context, salt: request.salt }
}

/// A cache of full attention, and nothing special.
pub fn plain(blocks: u32) -> Config {
    Config {
        block_tokens: 4,
        groups: vec![Group { kind: GroupKind::Full, blocks }],
        step_tokens: 16,
        step_outputs: 16,
        max_running: 8,
        max_in_flight: 1,
        context: 256,
        aging: 10_000,
        pace: None,
        speculation: None,
    }
}
