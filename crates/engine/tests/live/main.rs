//! The engine's thread against decoding one sequence at a time: bit for bit the same, whatever else is going on.

mod common;
mod equality;
mod failures;
mod lifetime;
mod prompts;
mod speculation;
mod storm;
mod wishes;
