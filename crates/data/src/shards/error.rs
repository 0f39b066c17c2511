//! What can be wrong with shards.

use super::format::TokenizerId;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why shards could not be written or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder without shards.
    #[error("{} has no index.json, so it holds no shards: make them with `lyceum data prepare`", folder.display())]
    NoIndex {
        /// The folder.
        folder: PathBuf,
    },
    /// An index that is no JSON of the right form.
    #[error("{}: not an index of shards: {source}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Bytes that are not those that were written.
    #[error("{} is damaged: {what}; make the shards again with `lyceum data prepare`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Shards of another format.
    #[error("{}: shards of format {found}, but this program reads format {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format that is understood.
        known: u32,
    },
    /// Shards of another tokeniser.
    #[error(
        "{}: the shards were made by tokenizer {shards}, but the tokenizer given is {given}: \
         give theirs, or make the shards again with `lyceum data prepare`", folder.display()
    )]
    Tokenizer {
        /// The folder of the shards.
        folder: PathBuf,
        /// What made them.
        shards: TokenizerId,
        /// What was given.
        given: TokenizerId,
    },
    /// The tokeniser itself failed.
    #[error(transparent)]
    Text(#[from] text::Error),
    /// A folder that should not be there yet.
    #[error("{} exists already: remove it, or choose another folder", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
}

impl ShardError {
    /// Adds the path to what the system said.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::File { path: path.into(), source }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }
}
