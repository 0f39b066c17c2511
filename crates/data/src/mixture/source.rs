//! One source of a mixture: its windows, their order, and what a window becomes.

use super::fim::RESERVE;
use super::{Fim, MixtureError, Sample};
use crate::ledger::SourceLedger;
use crate::packing::{Packed, Piece, Stream};
use crate::paths;
use crate::shards::{Corpus, ShardError, ShardSet};
use spec::random::{self, Permutation, hash};
use spec::recipe::SourceRecipe;
use std::path::Path;
use std::sync::Arc;
use text::Tokenizer;

/// What random numbers are for.
const ORDER: u64 = 1;
const CHOOSE_FIM: u64 = 2;
const REARRANGE: u64 = 3;

/// How windows become samples, the same for all sources.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub context: usize,
    pub is_stream: bool,
    pub within_documents: bool,
}

/// A source, opened.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    set: ShardSet,
    windows: Windows,
    held_out: Windows,
    /// From the seed and the name.
    key: u64,
    pub weight: Option<f64>,
    /// The samples that its epochs give.
    pub limit: Option<u64>,
    fim: Option<(Fim, f64)>,
    layout: Layout,
}

/// The windows of a corpus.
#[derive(Debug)]
enum Windows {
    Packed(Packed),
    Stream(Stream),
}

impl Windows {
    fn count(&self) -> u64 {
        match self {
            Self::Packed(packed) => packed.windows(),
            Self::Stream(stream) => stream.windows(),
        }
    }

    fn tokens(&self, window: u64) -> u64 {
        match self {
            Self::Packed(packed) => packed.tokens(window),
            Self::Stream(stream) => stream.tokens(window),
        }
    }
}

impl Source {
    pub fn open(
        recipe: &SourceRecipe,
        base: &Path,
        tokenizer: &Arc<Tokenizer>,
        seed: u64,
        layout: Layout,
    ) -> Result<Self, MixtureError> {
        let name = recipe.name.clone();
        let in_shards = |source| MixtureError::Shards { name: name.clone(), source };
        let set = ShardSet::open(&paths::join(base, &recipe.path)).map_err(in_shards)?;
        set.check_tokenizer(tokenizer).map_err(in_shards)?;
        if set.train().documents() == 0 {
            return Err(MixtureError::NoDocuments { name, folder: set.folder().display().to_string() });
        }
        let rate = recipe.fim_rate.filter(|&rate| rate > 0.0);
        let fim = rate.map(|rate| Ok((Fim::new(tokenizer, set.end_of_text())?, rate))).transpose();
        let fim = fim.map_err(|missing| MixtureError::NoFimTokens { name: name.clone(), missing })?;
        let key = hash(seed, random::name(&name), 0, 0);
        let reserve = |document: u32| if is_chosen(fim.as_ref(), key, document) { RESERVE } else { 0 };
        let too_large = |reason| MixtureError::TooLarge { name: name.clone(), reason };
        let windows = layout.windows(set.train(), reserve).map_err(too_large)?;
        let held_out = layout.windows(set.held_out(), |_| 0).map_err(too_large)?;
        let limit = limit(recipe, windows.count())?;
        Ok(Self { name, set, windows, held_out, key, weight: recipe.weight, limit, fim, layout })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn shards(&self) -> &ShardSet {
        &self.set
    }

    /// Samples of one epoch.
    pub fn windows(&self) -> u64 {
        self.windows.count()
    }

    pub fn held_out_samples(&self) -> u64 {
        self.held_out.count()
    }

    /// The error if `need` samples, which `samples` of the mixture ask for, are more than there are.
    pub fn shortage(&self, need: u64, samples: u64) -> Option<MixtureError> {
        let have = self.limit.filter(|&limit| need > limit)?;
        let epochs = |samples: u64| samples as f64 / self.windows() as f64;
        Some(MixtureError::UsedUp {
            name: self.name.clone(),
            samples,
            need,
            have,
            short: need - have,
            needed: epochs(need),
            allowed: epochs(have),
        })
    }

    /// The source's sample `number`; `at` is its place among the sources.
    pub fn sample(&self, at: usize, number: u64) -> Result<Sample, MixtureError> {
        let (epoch, index) = (number / self.windows(), number % self.windows());
        let window = self.order(epoch).at(index);
        self.build(at, self.set.train(), &self.windows, window, Some(epoch))
    }

    pub fn held_out(&self, at: usize, window: u64) -> Result<Sample, MixtureError> {
        self.build(at, self.set.held_out(), &self.held_out, window, None)
    }

    /// What `drawn` samples have shown.
    pub fn ledger(&self, drawn: u64) -> SourceLedger {
        let available_tokens = self.set.train().tokens();
        let (epochs, rest) = (drawn / self.windows(), drawn % self.windows());
        let order = self.order(epochs);
        let last: u64 = (0..rest).map(|index| self.windows.tokens(order.at(index))).sum();
        SourceLedger {
            name: self.name.clone(),
            shards: self.set.checksum().to_owned(),
            samples: drawn,
            tokens: epochs.saturating_mul(available_tokens).saturating_add(last),
            epochs: drawn as f64 / self.windows() as f64,
            unique_tokens: if epochs > 0 { available_tokens } else { last },
            available_tokens,
        }
    }

    /// The order of an epoch.
    fn order(&self, epoch: u64) -> Permutation {
        Permutation::new(hash(self.key, ORDER, epoch, 0), self.windows())
    }

    fn build(
        &self,
        source: usize,
        corpus: &Corpus,
        windows: &Windows,
        window: u64,
        epoch: Option<u64>,
    ) -> Result<Sample, MixtureError> {
        let mut builder = Builder::new(self.layout, self.set.end_of_text());
        let built = match windows {
            Windows::Stream(stream) => builder.stream(corpus, stream.window(window)),
            Windows::Packed(packed) => packed.window(window).iter().try_for_each(|piece| {
                let rearrange = |tokens: &[u32]| self.rearrange(piece, tokens, epoch?);
                builder.piece(corpus, piece, rearrange)
            }),
        };
        built.map_err(|error| MixtureError::Shards { name: self.name.clone(), source: error })?;
        Ok(builder.finish(source, windows.tokens(window)))
    }

    /// Fill-in-the-middle, for the documents that are chosen for it; each epoch cuts elsewhere.
    fn rearrange(&self, piece: &Piece, tokens: &[u32], epoch: u64) -> Option<Vec<u32>> {
        let (fim, _) = self.fim.as_ref().filter(|_| piece.reserve > 0)?;
        let place = u64::from(piece.document) << 32 | u64::from(piece.start);
        fim.rearrange(tokens, hash(self.key, REARRANGE, epoch, place))
    }
}

fn is_chosen(fim: Option<&(Fim, f64)>, key: u64, document: u32) -> bool {
    fim.is_some_and(|(_, rate)| random::unit(hash(key, CHOOSE_FIM, document.into(), 0)) < *rate)
}

fn limit(recipe: &SourceRecipe, windows: u64) -> Result<Option<u64>, MixtureError> {
    let default = if recipe.weight.is_none() { Some(1.0) } else { None };
    let Some(epochs) = recipe.epochs.or(default) else {
        return Ok(None);
    };
    match (epochs * windows as f64).floor() as u64 {
        0 => Err(MixtureError::LessThanASample { name: recipe.name.clone(), epochs, windows }),
        samples => Ok(Some(samples)),
    }
}

impl Layout {
    fn windows(self, corpus: &Corpus, reserve: impl Fn(u32) -> u32) -> Result<Windows, crate::packing::TooLarge> {
        if self.is_stream {
            return Ok(Windows::Stream(Stream { tokens: corpus.tokens(), context: self.context as u64 }));
        }
        // A recipe's context lies far below the limit of 32 bits.
        Ok(Windows::Packed(Packed::new(corpus.lengths(), self.context as u32 + 1, reserve)?))
    }
}

/// A sample while it is put together.
struct Builder {
    layout: Layout,
    end_of_text: u32,
    tokens: Vec<u32>,
    mask: Vec<bool>,
    starts: Vec<u32>,
    /// Whether an end of text is what should come next.
    is_ended: bool,
}

impl Builder {
    fn new(layout: Layout, end_of_text: u32) -> Self {
        let room = layout.context + 1;
        let (tokens, mask) = (Vec::with_capacity(room), Vec::with_capacity(room));
        Self { layout, end_of_text, tokens, mask, starts: vec![0], is_ended: false }
    }

    fn stream(&mut self, corpus: &Corpus, range: std::ops::Range<u64>) -> Result<(), ShardError> {
        corpus.read(range.clone(), &mut self.tokens, &mut self.mask)?;
        for start in corpus.starts(range.start + 1..range.end) {
            self.begin_document(start - range.start);
        }
        self.is_ended = range.end == corpus.tokens();
        Ok(())
    }

    /// Adds a piece of a document. Its first token is a target only if it says that the text before has ended.
    fn piece(
        &mut self,
        corpus: &Corpus,
        piece: &Piece,
        rearrange: impl Fn(&[u32]) -> Option<Vec<u32>>,
    ) -> Result<(), ShardError> {
        let first = self.tokens.len();
        self.begin_document(first as u64);
        let document = corpus.document(piece.document.into());
        let start = document.start + u64::from(piece.start);
        let end = start + u64::from(piece.len);
        corpus.read(start..end, &mut self.tokens, &mut self.mask)?;
        let rearranged = rearrange(&self.tokens[first..]);
        let counts = self.is_ended && self.tokens[first] == self.end_of_text;
        self.is_ended = end == document.end && self.tokens.last() != Some(&self.end_of_text);
        if let Some(tokens) = rearranged {
            self.tokens.truncate(first);
            self.tokens.extend(tokens);
            self.mask.resize(self.tokens.len(), true);
            self.is_ended = false;
        }
        self.mask[first] = counts;
        Ok(())
    }

    fn begin_document(&mut self, at: u64) {
        if self.layout.within_documents && at > 0 && at < self.layout.context as u64 {
            self.starts.push(at as u32);
        }
    }

    /// Fills up with ends of text, of which only one that is due is a target.
    fn finish(mut self, source: usize, source_tokens: u64) -> Sample {
        let room = self.layout.context + 1;
        if self.tokens.len() < room {
            self.tokens.push(self.end_of_text);
            self.mask.push(self.is_ended);
        }
        self.tokens.resize(room, self.end_of_text);
        self.mask.resize(room, false);
        let loss_mask = if self.mask.iter().skip(1).all(|&counts| counts) { None } else { Some(self.mask) };
        Sample { tokens: self.tokens, document_starts: self.starts, loss_mask, source, source_tokens }
    }
}
