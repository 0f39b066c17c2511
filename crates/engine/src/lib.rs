//! How is a token made? Stepping sequences, sampling, generating, timing, measuring.

pub mod acceptance;
pub mod bench;
pub mod compare;
pub mod generate;
pub mod grammar;
pub mod live;
pub mod logits;
pub mod perplexity;
pub mod runner;
pub mod sampling;
pub mod scores;
pub mod stop;
pub mod typical;

pub use compare::{LogitError, logit_error};
pub use generate::{Finish, GenerateError, Generation, Options, complete, generate};
pub use perplexity::{Nats, ScoreError, Windows};
pub use runner::{RunError, Runner};
pub use sampling::{InvalidSampling, Sampling};
pub use stop::StopStrings;
