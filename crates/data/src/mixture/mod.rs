//! A mixture of sources as an endless list of samples, each a function of (recipe, shards, seed, index).
//!
//! Nothing is remembered between two samples: which source sample `index` comes from follows from the weights
//! ([`schedule`]), which of the source's windows it is from a permutation keyed by (seed, source, epoch), and what
//! the window holds from the packing. So resuming costs nothing, and any number of readers on any mesh agree.

mod error;
mod fim;
mod schedule;
mod source;

pub use error::MixtureError;
pub use fim::Fim;

use crate::ledger::Ledger;
use crate::shards::ShardSet;
use schedule::Schedule;
use source::{Layout, Source};
use spec::recipe::{DataRecipe, Packing};
use std::path::Path;
use std::sync::Arc;
use text::Tokenizer;

/// What the model sees at once, with its targets: input `i` is `tokens[i]`, and its target `tokens[i + 1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `context + 1` ids.
    pub tokens: Vec<u32>,
    /// Where attention and positions begin anew, in order; the first is 0. All of them are inputs.
    pub document_starts: Vec<u32>,
    /// For each of `tokens` whether it counts as a target; all do if there is none. (The first is never one.)
    pub loss_mask: Option<Vec<bool>>,
    /// The source, as an index into [`Mixture::names`].
    pub source: usize,
    /// Tokens of the source's documents in this sample that are in no other of the same epoch.
    pub source_tokens: u64,
}

impl Sample {
    /// How many targets count: what the loss is divided by.
    pub fn targets(&self) -> usize {
        match &self.loss_mask {
            Some(mask) => mask.iter().skip(1).filter(|&&counts| counts).count(),
            None => self.tokens.len().saturating_sub(1),
        }
    }
}

/// Sources in proportion.
#[derive(Debug)]
pub struct Mixture {
    sources: Vec<Source>,
    schedule: Schedule,
    layout: Layout,
}

impl Mixture {
    /// Opens the shards that a recipe names. Paths are relative to `base`; `seed` decides every order.
    pub fn open(recipe: &DataRecipe, base: &Path, tokenizer: &Arc<Tokenizer>, seed: u64) -> Result<Self, MixtureError> {
        recipe.validate()?;
        let layout = Layout {
            context: recipe.context,
            is_stream: recipe.packing == Packing::Stream,
            within_documents: recipe.attention_within_documents,
        };
        let open = |source| Source::open(source, base, tokenizer, seed, layout);
        let sources = recipe.sources.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let schedule = Schedule::new(&sources);
        Ok(Self { sources, schedule, layout })
    }

    /// The names of the sources.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.sources.iter().map(Source::name)
    }

    /// The shards of a source.
    pub fn shards(&self, source: usize) -> Option<&ShardSet> {
        Some(self.sources.get(source)?.shards())
    }

    /// Tokens that the model sees at once.
    pub fn context(&self) -> usize {
        self.layout.context
    }

    /// How many samples there are until a source has used up its epochs; without a limit nothing.
    pub fn samples(&self) -> Option<u64> {
        let first = |(source, limit)| self.schedule.index_of(source, limit);
        let limits = self.sources.iter().enumerate().filter_map(|(i, source)| Some((i, source.limit?)));
        limits.map(first).min()
    }

    /// Refuses a run of so many samples if a source has not enough, and says by how much. To be asked before
    /// any time is spent.
    pub fn check(&self, samples: u64) -> Result<(), MixtureError> {
        let drawn = self.schedule.drawn(samples);
        let short = self.sources.iter().zip(drawn).find_map(|(source, drawn)| source.shortage(drawn, samples));
        short.map_or(Ok(()), Err)
    }

    /// Sample number `index`.
    pub fn sample(&self, index: u64) -> Result<Sample, MixtureError> {
        let (at, number) = self.schedule.at(index);
        let source = &self.sources[at];
        if let Some(error) = source.shortage(number.saturating_add(1), index.saturating_add(1)) {
            return Err(error);
        }
        source.sample(at, number)
    }

    /// What the first `samples` samples have shown.
    pub fn ledger(&self, samples: u64) -> Ledger {
        let drawn = self.schedule.drawn(samples);
        let sources = self.sources.iter().zip(drawn).map(|(source, drawn)| source.ledger(drawn)).collect();
        Ledger { samples, sources }
    }

    /// How many samples a source's held-out documents give.
    pub fn held_out_samples(&self, source: usize) -> u64 {
        self.sources.get(source).map_or(0, Source::held_out_samples)
    }

    /// A sample of a source's held-out documents, in the order of the shards and as they are written.
    pub fn held_out(&self, source: usize, index: u64) -> Result<Sample, MixtureError> {
        let given = self.sources.get(source).filter(|source| index < source.held_out_samples());
        match given {
            Some(given) => given.held_out(source, index),
            None => Err(MixtureError::NoSuchHeldOut { source_index: source, index }),
        }
    }
}
