//! Why a mixture cannot be.

use crate::packing::TooLarge;
use crate::shards::ShardError;
use spec::recipe::InvalidData;
use thiserror::Error;

/// Why a mixture could not be opened, or has no such sample.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MixtureError {
    /// The recipe contradicts itself.
    #[error(transparent)]
    Recipe(#[from] InvalidData),
    /// The shards of a source cannot be used.
    #[error("source `{name}`: {source}")]
    Shards {
        /// The source.
        name: String,
        /// What is wrong.
        source: ShardError,
    },
    /// A source without documents.
    #[error("source `{name}`: {folder} holds no documents to learn from: remove the source from the recipe")]
    NoDocuments {
        /// The source.
        name: String,
        /// Its folder.
        folder: String,
    },
    /// Epochs that do not make up one sample.
    #[error("source `{name}`: {epochs} epochs of its {windows} samples are less than one: raise `epochs`")]
    LessThanASample {
        /// The source.
        name: String,
        /// The epochs asked for.
        epochs: f64,
        /// The samples of an epoch.
        windows: u64,
    },
    /// A source that is too large to pack.
    #[error("source `{name}`: {reason}; use packing = \"stream\"")]
    TooLarge {
        /// The source.
        name: String,
        /// What is too large.
        reason: TooLarge,
    },
    /// Fill-in-the-middle without tokens for it.
    #[error(
        "source `{name}` has a fim_rate, but the tokenizer has no token {missing}: \
         remove fim_rate, or train a tokenizer with `lyceum tokenizer train`"
    )]
    NoFimTokens {
        /// The source.
        name: String,
        /// What is missing.
        missing: &'static str,
    },
    /// Not enough for what is asked.
    #[error(
        "{samples} samples of this mixture need {needed:.2} epochs of source `{name}` ({need} samples), and its epochs allow {allowed:.2} \
         ({have} samples, {short} too few): raise its `epochs`, lower its `weight`, or train on fewer tokens"
    )]
    UsedUp {
        /// The source.
        name: String,
        /// Samples asked of the mixture.
        samples: u64,
        /// Samples that fall to the source.
        need: u64,
        /// Samples that its epochs give.
        have: u64,
        /// What is missing.
        short: u64,
        /// As epochs: what is needed.
        needed: f64,
        /// As epochs: what is allowed.
        allowed: f64,
    },
    /// A held-out sample beyond the last.
    #[error("there is no held-out sample {index} of source {source_index}")]
    NoSuchHeldOut {
        /// The index of the source.
        source_index: usize,
        /// The index of the sample.
        index: u64,
    },
}
