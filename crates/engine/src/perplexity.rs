//! How surprising is a text? The cross-entropy of every token, given those before it in a window of the context.
//!
//! A document of more tokens than a window is read in windows that overlap: window w begins at token `w * stride`, the first scores every
//! target in it, each later one only the last `stride`, which no window before it reached. So every token but a document's first is scored exactly
//! once, and past the first window with at least `context - stride + 1` tokens before it. Windows are independent sequences that begin at position 0:
//! what a target costs depends on its window alone, never on which windows are computed together.

use crate::runner::{RunError, STEP_TOKENS, check};
use model::{Batch, Decoder, Workspace};
use std::ops::Range;
use tensor::{Chunk, Device, KV_BLOCK, KvCache, KvFormat};

/// Floats of logits that a step holds at most.
const STEP_LOGITS: usize = 1 << 24;
/// Tokens that a step computes at least, however large the vocabulary.
const LEAST_STEP: usize = 64;

/// How a document is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens that a target sees at most.
    pub context: usize,
    /// Tokens from one window's beginning to the next one's: 1 to `context`.
    pub stride: usize,
}

/// One window: the tokens that are read, and the first of them whose successor is scored.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    document: usize,
    read: Range<usize>,
    scored_from: usize,
}

impl Window {
    /// Blocks of the cache that it takes.
    fn blocks(&self) -> usize {
        self.read.len().div_ceil(KV_BLOCK)
    }
}

/// What tokens cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Nats {
    /// The sum of `-ln p(token)`.
    pub sum: f64,
    /// Tokens scored.
    pub tokens: u64,
}

impl Nats {
    /// Nats per token.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    /// `e^mean`: among how many equally probable tokens the model hesitates.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Bits for each of the `bytes` of text that the scored tokens stand for.
    pub fn bits_per_byte(&self, bytes: u64) -> f64 {
        self.sum / std::f64::consts::LN_2 / bytes as f64
    }
}

/// Why a text has no score.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScoreError {
    /// A document that the decoder cannot read.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A stride of nothing, or one that leaves tokens out.
    #[error("a stride of {stride} does not fit a context of {context}: it must be between 1 and the context")]
    Stride {
        /// What was asked.
        stride: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// A document without any token that has another before it.
    #[error("document {document} has {tokens} tokens, but a token can be scored only after another: it takes two")]
    TooShort {
        /// Which, from 0.
        document: usize,
        /// Its tokens.
        tokens: usize,
    },
    /// The model's arithmetic overflowed.
    #[error("the logits before token {token} of document {document} are not finite numbers")]
    NotFinite {
        /// Which document, from 0.
        document: usize,
        /// Which of its tokens, from 0.
        token: usize,
    },
}

impl Windows {
    /// The windows of a document of `tokens` tokens.
    fn cut(&self, document: usize, tokens: usize) -> impl Iterator<Item = Window> + use<> {
        let Self { context, stride } = *self;
        // The last token is only ever a target.
        let inputs = tokens - 1;
        let count = 1 + inputs.saturating_sub(context).div_ceil(stride);
        (0..count).map(move |window| {
            let begin = window * stride;
            let scored_from = if window == 0 { 0 } else { begin + context - stride };
            Window { document, read: begin..inputs.min(begin + context), scored_from }
        })
    }
}

/// Scores documents, each on its own, and returns what each costs. `step_tokens` are computed at once (`None`: as many as the kernels need to run at
/// full speed); they do not change a bit of the result. Calls `progress` with (tokens read, tokens to read).
///
/// # Errors
/// A stride outside of the context, a context outside of the decoder's, a document that is too short or has tokens outside the vocabulary; logits that
/// are not finite.
pub fn score(
    (decoder, kv): (&Decoder, KvFormat),
    device: &mut Device,
    documents: &[Vec<u32>],
    windows: &Windows,
    step_tokens: Option<usize>,
    progress: &dyn Fn(u64, u64),
) -> Result<Vec<Nats>, ScoreError> {
    let windows = cut_all(decoder, documents, windows)?;
    let default = (STEP_LOGITS / decoder.config().vocab_size).clamp(LEAST_STEP, STEP_TOKENS);
    let step = step_tokens.unwrap_or(default).max(1);
    let groups = groups(&windows, step);
    let mut scorer = Scorer::new((decoder, kv), &groups, step);
    let mut nats = vec![Nats::default(); documents.len()];
    let (mut done, all) = (0, tokens(&windows));
    for group in groups {
        scorer.score(device, documents, group, &mut nats)?;
        done += tokens(group);
        progress(done as u64, all as u64);
    }
    Ok(nats)
}

/// The windows of all documents, everything checked.
fn cut_all(decoder: &Decoder, documents: &[Vec<u32>], windows: &Windows) -> Result<Vec<Window>, ScoreError> {
    let Windows { context, stride } = *windows;
    if !(1..=context).contains(&stride) {
        return Err(ScoreError::Stride { stride, context });
    }
    if context > decoder.context() {
        return Err(RunError::Context { prompt: context, new: 0, context: decoder.context() }.into());
    }
    let mut all = Vec::new();
    for (document, tokens) in documents.iter().enumerate() {
        if tokens.len() < 2 {
            return Err(ScoreError::TooShort { document, tokens: tokens.len() });
        }
        check(tokens, 0, decoder.config().vocab_size, usize::MAX)?;
        all.extend(windows.cut(document, tokens.len()));
    }
    Ok(all)
}

/// What is computed together: as many windows as a step holds, or one that takes several steps.
fn groups(mut windows: &[Window], step: usize) -> Vec<&[Window]> {
    let mut groups = Vec::new();
    while !windows.is_empty() {
        let mut tokens = 0;
        let fitting = windows.iter().take_while(|window| {
            tokens += window.read.len();
            tokens <= step
        });
        let (group, others) = windows.split_at(fitting.count().max(1));
        groups.push(group);
        windows = others;
    }
    groups
}

/// Tokens that windows read.
fn tokens(windows: &[Window]) -> usize {
    windows.iter().map(|window| window.read.len()).sum()
}

/// One decoder, with the room for a group of windows.
struct Scorer<'m> {
    decoder: &'m Decoder,
    cache: KvCache,
    blocks: Vec<u32>,
    workspace: Workspace,
}

impl<'m> Scorer<'m> {
    fn new((decoder, kv): (&'m Decoder, KvFormat), groups: &[&[Window]], step: usize) -> Self {
        let most = |f: &dyn Fn(&[Window]) -> usize| groups.iter().map(|group| f(group)).max().unwrap_or(0);
        let step = step.min(most(&tokens)).max(1);
        let blocks = most(&|group| group.iter().map(Window::blocks).sum());
        Self {
            decoder,
            cache: decoder.new_cache(kv, blocks),
            blocks: (0..blocks as u32).collect(),
            workspace: Workspace::new(decoder, step, step),
        }
    }

    /// Scores a group of windows, which fits a step or is a single one.
    fn score(
        &mut self,
        device: &mut Device,
        documents: &[Vec<u32>],
        group: &[Window],
        nats: &mut [Nats],
    ) -> Result<(), ScoreError> {
        let step = self.workspace.max_tokens();
        let longest = group.iter().map(|window| window.read.len()).max().unwrap_or(0);
        for position in (0..longest).step_by(step) {
            self.step(device, documents, group, position, nats)?;
        }
        Ok(())
    }

    /// Computes every window's tokens from `position` on, as far as a step goes.
    fn step(
        &mut self,
        device: &mut Device,
        documents: &[Vec<u32>],
        group: &[Window],
        position: usize,
        nats: &mut [Nats],
    ) -> Result<(), ScoreError> {
        let mut blocks = &self.blocks[..];
        let (mut tokens, mut chunks, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        // Which token of which document each row of logits is about.
        let mut targets = Vec::new();
        for window in group {
            let (block_table, others) = blocks.split_at(window.blocks());
            blocks = others;
            let from = window.read.start + position;
            let read = from..window.read.end.min(from + self.workspace.max_tokens());
            chunks.push(Chunk { row: tokens.len(), len: read.len(), position, block_table });
            for at in read {
                if at >= window.scored_from {
                    rows.push(tokens.len() as u32);
                    targets.push((window.document, at + 1));
                }
                tokens.push(documents[window.document][at]);
            }
        }
        let batch = Batch { tokens: &tokens, chunks: &chunks, logit_rows: &rows };
        let logits = self.decoder.forward(device, &mut self.cache, &mut self.workspace, &batch);
        let mut logits = device.copy_rows(logits, 0..rows.len());
        let ids: Vec<u32> = targets.iter().map(|&(document, token)| documents[document][token]).collect();
        let mut losses = vec![0.0; ids.len()];
        device.cross_entropy(&mut logits, &ids, 1.0, &mut losses);
        for ((document, token), loss) in targets.into_iter().zip(losses) {
            if !loss.is_finite() {
                return Err(ScoreError::NotFinite { document, token });
            }
            nats[document].sum += f64::from(loss);
            nats[document].tokens += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_scored_once_with_the_context_that_was_promised() {
        for (context, stride, tokens) in
            [(8, 4, 2), (8, 4, 9), (8, 4, 10), (8, 8, 40), (8, 1, 30), (7, 3, 100), (1, 1, 5), (5, 5, 6)]
        {
            let windows: Vec<_> = Windows { context, stride }.cut(0, tokens).collect();
            let mut scored = Vec::new();
            for window in &windows {
                assert!(window.read.len() <= context && window.read.contains(&window.scored_from));
                for at in window.scored_from..window.read.end {
                    let seen = at + 1 - window.read.start;
                    assert!(seen >= (context - stride + 1).min(at + 1), "{seen} of {context} by {stride}");
                    scored.push(at + 1);
                }
            }
            assert!(scored.into_iter().eq(1..tokens), "{context} by {stride} over {tokens}: {windows:?}");
        }
    }
}
