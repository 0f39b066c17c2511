//! What a step computes and what came of it: plain data, made to be sent to ranks that decide nothing.

use crate::pool::NO_BLOCK;
use crate::request::RequestId;
use serde::{Deserialize, Serialize};

/// Names a planned step; steps are executed and committed in the order of their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepId(pub u64);

/// What the draft model does for a sequence, before the target runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftChunk {
    /// Where in [`StepPlan::draft_tokens`] the known tokens begin that it computes first.
    pub row: u32,
    /// How many these are.
    pub len: u32,
    /// Position of the first.
    pub position: u32,
    /// Tokens that it then proposes, one after the other, for the positions after `position + len`: the chunk's drafted rows. The last
    /// proposal is not computed by the draft model.
    pub propose: u32,
}

/// Consecutive rows of a step that belong to one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Whose.
    pub request: RequestId,
    /// First row in [`StepPlan::tokens`].
    pub row: u32,
    /// Rows.
    pub len: u32,
    /// Position of the first row's token.
    pub position: u32,
    /// How many of the last rows have outputs that are wanted. Each known position's output is asked for exactly once in a request's life.
    pub outputs: u32,
    /// How many of the last rows a token is chosen for: `drafted + 1`, or 0 while known tokens are left or when none is to be generated.
    pub samples: u32,
    /// How many of the last rows hold drafted tokens, which count only if the target chooses the same. A draft model's are not known
    /// yet: their rows hold 0 and whoever runs the draft model fills them.
    pub drafted: u32,
    /// The sequence starts anew: what was held of its slot (tables, memory) is to be forgotten.
    pub fresh: bool,
    /// The blocks of the cross-attention group are to be filled before this chunk.
    pub encode_memory: bool,
    /// The draft model's part.
    pub draft: DraftChunk,
}

/// Blocks added to a sequence's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUpdate {
    /// Whose.
    pub request: RequestId,
    /// Which cache group.
    pub group: u32,
    /// Index in the table of the first added block; the table then ends behind the last.
    pub from: u32,
    /// Where in [`StepPlan::blocks`] they are.
    pub start: u32,
    /// How many they are.
    pub count: u32,
    /// Entries before this index have been given back and must not be read.
    pub live_from: u32,
}

/// One step. All indices are into the vectors beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPlan {
    /// Its name.
    pub id: StepId,
    /// Token of each row.
    pub tokens: Vec<u32>,
    /// One per sequence of the step; their rows follow each other.
    pub chunks: Vec<Chunk>,
    /// Tokens that the draft model computes.
    pub draft_tokens: Vec<u32>,
    /// What changed in block tables since the step before.
    pub updates: Vec<TableUpdate>,
    /// Ids of added blocks, [`NO_BLOCK`] where there is nothing to read.
    pub blocks: Vec<u32>,
}

impl StepPlan {
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.chunks.clear();
        self.draft_tokens.clear();
        self.updates.clear();
        self.blocks.clear();
    }
}

/// How a chunk went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkEnd {
    /// The sequence goes on.
    Continue,
    /// The last of the chunk's choices ends the sequence, if it is kept.
    Stop,
    /// The sequence cannot go on; its choices are ignored.
    Failed,
}

/// What came of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkResult {
    /// Tokens in [`StepResults::choices`]: at least 1 and at most the chunk's `samples`. What lies behind the first choice that
    /// differs from its draft may be left out.
    pub choices: u32,
    /// Whether it goes on.
    pub end: ChunkEnd,
}

/// What came of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepResults {
    /// One per chunk of the plan.
    pub chunks: Vec<ChunkResult>,
    /// The target's own choices, chunk after chunk: for each sampled row the token that plain decoding would choose there.
    pub choices: Vec<u32>,
    /// What the draft model proposed, chunk after chunk: `draft.propose` tokens each.
    pub proposed: Vec<u32>,
    /// Seconds that the target took. They steer speculation, never a token.
    pub seconds: f64,
    /// Seconds that the draft model took.
    pub draft_seconds: f64,
}

impl StepResults {
    /// Empties it for another step.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.choices.clear();
        self.proposed.clear();
        (self.seconds, self.draft_seconds) = (0.0, 0.0);
    }
}

/// Results that do not belong to the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Steps are committed in the order in which they were planned.
    #[error("step {} was committed, but the next one to be committed is {}", given.0, name(*expected))]
    Order {
        /// The id given.
        given: StepId,
        /// The oldest step in flight, if any.
        expected: Option<StepId>,
    },
    /// A wrong number of results.
    #[error("the results have {given} {what}, but the step has {expected}")]
    Length {
        /// Of what.
        what: &'static str,
        /// How many were given.
        given: usize,
        /// How many were expected.
        expected: usize,
    },
    /// A chunk with too few or too many choices.
    #[error("chunk {chunk} has {given} choices, but must have {least} to {most}")]
    Choices {
        /// Which chunk.
        chunk: usize,
        /// Choices given.
        given: u32,
        /// Fewest.
        least: u32,
        /// Most.
        most: u32,
    },
}

fn name(id: Option<StepId>) -> String {
    id.map_or_else(|| "none".into(), |id| id.0.to_string())
}

/// The block tables of all sequences, kept by following the plans: what a rank needs besides the plan to run a step.
#[derive(Clone, Debug, Default)]
pub struct BlockTables {
    groups: usize,
    /// By slot, then group.
    tables: Vec<Vec<u32>>,
}

impl BlockTables {
    /// Empty tables of so many cache groups.
    pub fn new(groups: usize) -> Self {
        Self { groups, tables: Vec::new() }
    }

    /// Follows a plan; to be called once with each, in order, before the step runs.
    pub fn apply(&mut self, plan: &StepPlan) {
        for chunk in plan.chunks.iter().filter(|c| c.fresh) {
            let first = chunk.request.slot() * self.groups;
            if self.tables.len() < first + self.groups {
                self.tables.resize_with(first + self.groups, Vec::new);
            }
            self.tables[first..first + self.groups].iter_mut().for_each(Vec::clear);
        }
        for update in &plan.updates {
            let table = &mut self.tables[update.request.slot() * self.groups + update.group as usize];
            table.truncate(update.from as usize);
            table.extend(&plan.blocks[update.start as usize..][..update.count as usize]);
            let live_from = (update.live_from as usize).min(table.len());
            table[..live_from].fill(NO_BLOCK);
        }
    }

    /// The blocks of a sequence in a group, by position divided by the positions of a block.
    ///
    /// # Panics
    /// If no plan that was followed has a chunk of the request's slot.
    pub fn table(&self, request: RequestId, group: usize) -> &[u32] {
        &self.tables[request.slot() * self.groups + group]
    }
}
