//! Why shards could not be made.

use crate::collect;
use crate::shards::ShardError;
use std::path::PathBuf;
use thiserror::Error;

/// Why shards could not be made out of these inputs.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A collection cannot be read.
    #[error(transparent)]
    Collection(#[from] collect::Error),
    /// The shards cannot be written.
    #[error(transparent)]
    Shards(#[from] ShardError),
    /// The tokeniser refused.
    #[error(transparent)]
    Text(#[from] text::Error),
    /// A tokeniser that cannot say where a text ends.
    #[error(
        "the tokenizer names neither a bos_token nor an eos_token, so nothing would separate documents: give the \
         folder that its tokenizer_config.json lies in"
    )]
    NoEndOfText,
    /// A share that is none.
    #[error("the share to hold out is {0}, allowed is 0 to 1 (0% to 100%)")]
    HeldOut(f64),
    /// A conversation that cannot be learned from.
    #[error("{}, line {line}: {what}", file.display())]
    Chat {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// The system gave no threads.
    #[error("no threads to encode with: {0}")]
    Threads(String),
}
