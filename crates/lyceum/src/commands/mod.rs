//! One file per command: parse, call the crates, print.

pub mod bench;
pub mod chat;
pub mod convert;
pub mod data;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod plan;
pub mod serve;
pub mod tokenizer;
pub mod train;
