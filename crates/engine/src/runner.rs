//! A fixed set of sequences over one decoder, stepped together.
//!
//! There are no phases: in each step every sequence computes some of its known tokens that are not computed yet, the steps
//! bounded by a token budget. A sequence that has computed all its tokens has logits to sample from.

use model::{Batch, Decoder, Workspace};
use tensor::{Chunk, Device, KV_BLOCK, KvCache, KvFormat, Tensor};

/// Tokens that one step computes at most: enough rows per expert to run at full speed, few enough to bound the workspace.
pub const STEP_TOKENS: usize = 512;

/// A sequence asks for more positions than the decoder serves or the cache holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The prompt and what is to follow do not fit the context.
    #[error(
        "{prompt} prompt tokens and {new} new ones make {}, but this model serves a context of {context}; shorten the prompt or ask for less",
        prompt.saturating_add(*new)
    )]
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to generate.
        new: usize,
        /// What the decoder serves.
        context: usize,
    },
    /// A prompt of no tokens.
    #[error("the prompt has no tokens; a decoder needs at least one to continue from")]
    Empty,
    /// A token id past the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        token: u32,
        /// Ids there are.
        vocab: usize,
    },
}

struct Sequence {
    tokens: Vec<u32>,
    computed: usize,
    blocks: Vec<u32>,
}

/// Sequences, their cache, and the tensors of a step.
pub struct Runner<'m> {
    decoder: &'m Decoder,
    device: &'m mut Device,
    cache: KvCache,
    workspace: Workspace,
    sequences: Vec<Sequence>,
    /// Row of the last step's logits of each sequence that has some.
    ready: Vec<Option<usize>>,
    logits: Vec<Vec<f32>>,
}

impl<'m> Runner<'m> {
    /// Sequences from prompts, each with room for `new_tokens` more; nothing is computed yet.
    ///
    /// # Errors
    /// A prompt that is empty, does not fit, or has a token outside the vocabulary.
    pub fn new(
        decoder: &'m Decoder,
        device: &'m mut Device,
        kv: KvFormat,
        prompts: &[Vec<u32>],
        new_tokens: usize,
    ) -> Result<Self, RunError> {
        let mut next_block = 0u32;
        let mut sequences = Vec::new();
        for prompt in prompts {
            check(prompt, new_tokens, decoder.config().vocab_size, decoder.context())?;
            let positions = prompt.len() + new_tokens;
            let blocks = next_block..next_block + positions.div_ceil(KV_BLOCK) as u32;
            next_block = blocks.end;
            sequences.push(Sequence { tokens: prompt.clone(), computed: 0, blocks: blocks.collect() });
        }
        // Every position that there is room for, as far as a step goes: `rewrite` may fill it.
        let all = next_block as usize * KV_BLOCK;
        let longest = all.clamp(prompts.len().max(1), STEP_TOKENS.max(prompts.len()));
        Ok(Self {
            decoder,
            device,
            cache: decoder.new_cache(kv, next_block as usize),
            workspace: Workspace::new(decoder, longest, prompts.len().max(1)),
            ready: vec![None; sequences.len()],
            sequences,
            logits: Vec::new(),
        })
    }

    /// Gives sequence `i` these tokens instead of its own, with `new_tokens` more to follow, in the room that it was made with.
    /// What is computed of their common beginning stays.
    ///
    /// # Errors
    /// As [`Runner::new`].
    pub fn rewrite(&mut self, i: usize, tokens: &[u32], new_tokens: usize) -> Result<(), RunError> {
        let sequence = &mut self.sequences[i];
        let room = self.decoder.context().min(sequence.blocks.len() * KV_BLOCK);
        check(tokens, new_tokens, self.decoder.config().vocab_size, room)?;
        let same = sequence.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last token is computed again in any case: its logits are wanted.
        sequence.computed = sequence.computed.min(same).min(tokens.len() - 1);
        sequence.tokens = tokens.to_vec();
        self.ready[i] = None;
        Ok(())
    }

    /// Computes up to a step's budget of tokens. Returns false when every token was computed already.
    pub fn step(&mut self) -> bool {
        let mut budget = self.workspace.max_tokens();
        let (mut tokens, mut chunks, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut lens = vec![0; self.sequences.len()];
        for (i, sequence) in self.sequences.iter().enumerate() {
            let len = (sequence.tokens.len() - sequence.computed).min(budget);
            self.ready[i] = None;
            if len == 0 {
                continue;
            }
            budget -= len;
            lens[i] = len;
            chunks.push(Chunk { row: tokens.len(), len, position: sequence.computed, block_table: &sequence.blocks });
            tokens.extend(&sequence.tokens[sequence.computed..sequence.computed + len]);
            if sequence.computed + len == sequence.tokens.len() {
                self.ready[i] = Some(rows.len());
                rows.push(tokens.len() as u32 - 1);
            }
        }
        if tokens.is_empty() {
            return false;
        }
        let batch = Batch { tokens: &tokens, chunks: &chunks, logit_rows: &rows };
        let logits: &Tensor = self.decoder.forward(self.device, &mut self.cache, &mut self.workspace, &batch);
        self.logits = (0..rows.len()).map(|r| logits.row(r).to_vec()).collect();
        for (sequence, len) in self.sequences.iter_mut().zip(lens) {
            sequence.computed += len;
        }
        true
    }

    /// The logits that follow sequence `i`, if the last step computed them.
    pub fn logits(&self, i: usize) -> Option<&[f32]> {
        self.ready[i].map(|row| self.logits[row].as_slice())
    }

    /// The tokens of sequence `i`.
    pub fn tokens(&self, i: usize) -> &[u32] {
        &self.sequences[i].tokens
    }

    /// Appends a token to sequence `i`.
    pub fn push(&mut self, i: usize, token: u32) {
        self.sequences[i].tokens.push(token);
    }
}

/// A sequence must begin with a token, hold only tokens that there are, and fit.
pub(crate) fn check(prompt: &[u32], new: usize, vocab: usize, context: usize) -> Result<(), RunError> {
    if prompt.is_empty() {
        return Err(RunError::Empty);
    }
    if let Some(&token) = prompt.iter().find(|&&token| token as usize >= vocab) {
        return Err(RunError::Token { token, vocab });
    }
    if prompt.len().saturating_add(new) > context {
        return Err(RunError::Context { prompt: prompt.len(), new, context });
    }
    Ok(())
}
