//! What does it learn from? Corpora become shards of token ids, and a mixture of them becomes samples.
//!
//! What this crate never does: train, or decide anything by a clock or by the order in which threads run. A sample is a function
//! of (recipe, shards, seed, index).

pub mod ledger;
pub mod mixture;
pub mod packing;
pub mod shards;

pub use ledger::{Ledger, SourceLedger};
pub use mixture::{Mixture, MixtureError, Sample};
pub use shards::{ShardError, ShardSet};
