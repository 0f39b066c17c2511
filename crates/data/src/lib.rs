//! What does it learn from? Documents out of files, and which of them are worth learning from; then token ids,
//! and the samples that a model sees.
//!
//! [`collect::collect`] reads [`sources`], judges each document by [`filters`], drops copies ([`dedup`]) and
//! documents that share text with evaluation sets ([`decontaminate`]), and writes a [`collect::Collection`]: a
//! folder of compressed JSONL shards with an account of everything that was read, dropped and kept. The same
//! input gives the same bytes, whatever the number of threads.
//!
//! [`train_tokenizer`] learns a tokeniser from collections, [`encode`] turns them into [`shards`] of token ids, and
//! a [`Mixture`] of shards gives samples, each a function of (recipe, shards, seed, index). The [`Ledger`] says
//! what so many samples have shown.

pub mod collect;
pub mod corpus;
pub mod decontaminate;
pub mod dedup;
pub mod encode;
pub mod filters;
pub mod ledger;
pub mod mixture;
pub mod packing;
pub mod paths;
pub mod shards;
pub mod sources;
pub mod train_tokenizer;
mod words;

pub use ledger::{Ledger, SourceLedger};
pub use mixture::{Mixture, MixtureError, Sample};
pub use shards::{ShardError, ShardSet};
