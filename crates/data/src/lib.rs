//! What does it learn from? Documents out of files, and which of them are worth learning from.
//!
//! [`collect::collect`] reads [`sources`], judges each document by [`filters`], drops copies ([`dedup`]) and
//! documents that share text with evaluation sets ([`decontaminate`]), and writes a [`collect::Collection`]: a
//! folder of compressed JSONL shards with an account of everything that was read, dropped and kept. The same
//! input gives the same bytes, whatever the number of threads.

pub mod collect;
pub mod decontaminate;
pub mod dedup;
pub mod filters;
pub mod sources;
mod words;
