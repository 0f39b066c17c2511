//! Shards: token ids on disk, mapped into memory, with a checksummed index.
//!
//! A folder holds one source: `index.json`, and files of token ids, those to learn from (`train-00000.tokens`)
//! apart from those held out (`held-out-00000.tokens`). Every number is little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 64 | header: `LYCSHARD`, version and bytes per token (u32), documents, tokens and flags (u64), zeros |
//! | 8 x documents | where each document ends, in tokens |
//! | 2 or 4 x tokens | ids; two bytes where the vocabulary has at most 65536 |
//! | tokens / 8 | if flag 1 is set: one bit per token, whether it counts in the loss |
//!
//! A file holds whole documents: one that is longer than a shard has a file for itself. Opening checks the
//! index, every length and the tables of documents; [`ShardSet::verify`] reads and checks every byte.

mod corpus;
mod error;
mod format;
mod mapped;
mod writer;

pub use corpus::Corpus;
pub use error::ShardError;
pub use format::TokenizerId;
pub use writer::{Document, SetWriter};

use format::Index;
use std::path::{Path, PathBuf};
use text::Tokenizer;

/// The shards of one source.
#[derive(Debug)]
pub struct ShardSet {
    folder: PathBuf,
    index: Index,
    checksum: String,
    train: Corpus,
    held_out: Corpus,
}

impl ShardSet {
    /// Maps the shards of a folder.
    pub fn open(folder: &Path) -> Result<Self, ShardError> {
        let (index, checksum) = Index::read(folder)?;
        let train = Corpus::open(folder, &index.train, &index)?;
        let held_out = Corpus::open(folder, &index.held_out, &index)?;
        Ok(Self { folder: folder.into(), index, checksum, train, held_out })
    }

    /// Reads every byte and compares the checksums.
    pub fn verify(&self) -> Result<(), ShardError> {
        self.train.verify(&self.index.train)?;
        self.held_out.verify(&self.index.held_out)
    }

    /// Refuses a tokeniser other than the one that made the shards.
    pub fn check_tokenizer(&self, tokenizer: &Tokenizer) -> Result<(), ShardError> {
        let given = TokenizerId::of(tokenizer)?;
        if given == self.index.tokenizer {
            return Ok(());
        }
        Err(ShardError::Tokenizer { folder: self.folder.clone(), shards: self.index.tokenizer.clone(), given })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The checksum of the index. The index has those of all files, so that the same checksum means the same ids in the same order.
    pub fn checksum(&self) -> &str {
        &self.checksum
    }

    /// What the source is called.
    pub fn source(&self) -> &str {
        &self.index.source
    }

    /// The tokeniser that made the ids.
    pub fn tokenizer(&self) -> &TokenizerId {
        &self.index.tokenizer
    }

    /// The id that ends a text; samples are filled up with it.
    pub fn end_of_text(&self) -> u32 {
        self.index.end_of_text
    }

    /// What there is to learn from.
    pub fn train(&self) -> &Corpus {
        &self.train
    }

    /// What is kept apart to measure with.
    pub fn held_out(&self) -> &Corpus {
        &self.held_out
    }
}
