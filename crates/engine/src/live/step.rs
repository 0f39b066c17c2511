//! One planned step on the real models.

use crate::live::config::Parts;
use batch::{BlockTables, Chunk, RequestId, StepPlan};
use model::{Batch, Decoder, Workspace};
use tensor::{Device, KvCache, KvFormat, Tensor};

/// Index of the cache groups: the model's, then the draft model's.
const TARGET: usize = 0;
const DRAFT: usize = 1;

/// A model with its cache and its tensors.
struct Model {
    decoder: Decoder,
    cache: KvCache,
    workspace: Workspace,
    group: usize,
}

impl Model {
    fn new(decoder: Decoder, kv: KvFormat, blocks: u32, rows: u32, outputs: u32, group: usize) -> Self {
        let cache = decoder.new_cache(kv, blocks as usize);
        let workspace = Workspace::new(&decoder, rows as usize, outputs as usize);
        Self { decoder, cache, workspace, group }
    }
}

/// Consecutive rows of a sequence: the request, and how many at which position.
type Run = (RequestId, u32, u32);

/// The rows whose results are wanted of a chunk: so many at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub logits: u32,
    pub hidden: u32,
}

/// Models, device, caches and block tables: what a step needs besides its plan.
pub(super) struct Executor {
    device: Device,
    target: Model,
    draft: Option<Model>,
    tables: BlockTables,
    runs: Vec<Run>,
    logit_rows: Vec<u32>,
    hidden_rows: Vec<u32>,
    draft_tokens: Vec<u32>,
}

impl Executor {
    pub fn new(parts: Parts, kv: KvFormat, config: &batch::Config) -> Self {
        let blocks = |group: usize| config.groups[group].blocks;
        let (rows, outputs) = (config.step_tokens, config.step_outputs);
        Self {
            device: parts.device,
            target: Model::new(parts.decoder, kv, blocks(TARGET), rows, outputs, TARGET),
            draft: parts.draft.map(|draft| Model::new(draft, kv, blocks(DRAFT), rows, config.max_running, DRAFT)),
            tables: BlockTables::new(config.groups.len()),
            runs: Vec::new(),
            logit_rows: Vec::new(),
            hidden_rows: Vec::new(),
            draft_tokens: Vec::new(),
        }
    }

    /// Follows the block tables of a plan; once with each, before anything else.
    pub fn follow(&mut self, plan: &StepPlan) {
        self.tables.apply(plan);
    }

    /// Lets the draft model compute its part of the plan and fills the drafted rows with what it proposes: `sample` chooses the token
    /// of a request at a position by the logits there.
    pub fn propose(&mut self, plan: &mut StepPlan, sample: &mut dyn FnMut(RequestId, &[f32], u64) -> u32) {
        let Some(draft) = &mut self.draft else { return };
        let vocab = (draft.decoder.config().vocab_size, self.target.decoder.config().vocab_size);
        // Ids of the model that no text has, and that the draft model therefore may lack.
        let known = |token: u32| if (token as usize) < vocab.0 { token } else { 0 };
        for round in 0.. {
            self.runs.clear();
            self.logit_rows.clear();
            self.draft_tokens.clear();
            for chunk in plan.chunks.iter().filter(|c| c.draft.len > 0 && (round == 0 || c.draft.propose > round)) {
                let (len, position) = if round == 0 {
                    let tokens = &plan.draft_tokens[chunk.draft.row as usize..][..chunk.draft.len as usize];
                    self.draft_tokens.extend(tokens.iter().map(|&token| known(token)));
                    (chunk.draft.len, chunk.draft.position)
                } else {
                    self.draft_tokens.push(known(plan.tokens[drafted_row(chunk, round - 1)]));
                    (1, chunk.draft.position + chunk.draft.len + round - 1)
                };
                self.runs.push((chunk.request, len, position));
                if chunk.draft.propose > round {
                    self.logit_rows.push(self.draft_tokens.len() as u32 - 1);
                }
            }
            if self.runs.is_empty() {
                return;
            }
            forward(draft, &mut self.device, &self.tables, &self.draft_tokens, &self.runs, &self.logit_rows);
            let proposing = plan.chunks.iter().filter(|c| c.draft.propose > round);
            for (row, chunk) in proposing.enumerate() {
                let position = chunk.draft.position + chunk.draft.len + round;
                let logits = &draft.workspace.logits().row(row)[..vocab.0.min(vocab.1)];
                plan.tokens[drafted_row(chunk, round)] = sample(chunk.request, logits, position.into());
            }
        }
    }

    /// Computes all rows of the plan.
    pub fn compute(&mut self, plan: &StepPlan, wanted: impl Fn(&Chunk) -> Wanted) {
        self.runs.clear();
        self.logit_rows.clear();
        self.hidden_rows.clear();
        for chunk in &plan.chunks {
            self.runs.push((chunk.request, chunk.len, chunk.position));
            let (end, wanted) = (chunk.row + chunk.len, wanted(chunk));
            self.logit_rows.extend(end - wanted.logits..end);
            self.hidden_rows.extend(end - wanted.hidden..end);
        }
        forward(&mut self.target, &mut self.device, &self.tables, &plan.tokens, &self.runs, &self.logit_rows);
    }

    /// The logits of the rows that wanted them, chunk after chunk: `[rows, vocab]`.
    pub fn logits(&self) -> &Tensor {
        self.target.workspace.logits()
    }

    /// The hidden states of the rows that wanted them, chunk after chunk: `[rows, hidden]`.
    pub fn hidden(&mut self) -> Option<&Tensor> {
        let Model { decoder, workspace, .. } = &mut self.target;
        (!self.hidden_rows.is_empty()).then(|| decoder.hidden(&mut self.device, workspace, &self.hidden_rows))
    }

    /// As [`Workspace::expert_tokens`].
    pub fn expert_tokens(&self) -> &[Vec<u64>] {
        self.target.workspace.expert_tokens()
    }
}

/// Where in [`StepPlan::tokens`] draft `i` of a chunk is.
fn drafted_row(chunk: &Chunk, i: u32) -> usize {
    (chunk.row + chunk.len - chunk.drafted + i) as usize
}

fn forward(
    model: &mut Model,
    device: &mut Device,
    tables: &BlockTables,
    tokens: &[u32],
    runs: &[Run],
    logit_rows: &[u32],
) {
    let mut row = 0;
    let chunks = runs.iter().map(|&(request, len, position)| {
        let block_table = tables.table(request, model.group);
        let chunk = tensor::Chunk { row, len: len as usize, position: position as usize, block_table };
        row += chunk.len;
        chunk
    });
    let chunks: Vec<_> = chunks.collect();
    let batch = Batch { tokens, chunks: &chunks, logit_rows };
    model.decoder.forward(device, &mut model.cache, &mut model.workspace, &batch);
}
