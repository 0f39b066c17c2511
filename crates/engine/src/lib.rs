//! How is a token made? Stepping sequences, sampling, generating, timing.

pub mod bench;
pub mod generate;
pub mod random;
pub mod runner;
pub mod sampling;

pub use generate::{Finish, GenerateError, Generation, Options, generate};
pub use runner::{RunError, Runner};
pub use sampling::{InvalidSampling, Sampling};
