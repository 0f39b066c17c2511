//! What was seen of each source.

use serde::{Deserialize, Serialize};

/// What so many samples of a mixture have shown. A function of their number alone, so that a resumed run has
/// the same ledger as one that never stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Samples of all sources together.
    pub samples: u64,
    /// Every source of the mixture, in the order of the recipe.
    pub sources: Vec<SourceLedger>,
}

/// What was seen of one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceLedger {
    /// The source.
    pub name: String,
    /// Checksum of its shards' index, and so of all that they hold: whose samples these were.
    pub shards: String,
    /// Samples that came from it.
    pub samples: u64,
    /// Tokens of its documents, repetitions counted; what fills a sample up and the markers of
    /// fill-in-the-middle are not.
    pub tokens: u64,
    /// How often it was seen.
    pub epochs: f64,
    /// Tokens that were seen at least once.
    pub unique_tokens: u64,
    /// Tokens that there are.
    pub available_tokens: u64,
}

impl Ledger {
    /// Tokens of all sources together, repetitions counted.
    pub fn tokens(&self) -> u64 {
        self.sources.iter().map(|source| source.tokens).sum()
    }
}
