//! Shards, mixtures and ledgers: the laws that they keep, and what damaged or contradictory input leads to.

mod chat;
mod damage;
mod laws;
mod prepare;
mod setup;
