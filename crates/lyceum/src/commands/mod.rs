//! One file per command: parse, call the crates, print.

pub mod bench;
pub mod chat;
pub mod generate;
