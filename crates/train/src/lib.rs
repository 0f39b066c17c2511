//! How does it learn? A recipe becomes a run: schedules, steps, a log, and checkpoints from which it goes on bit for bit.
//!
//! What this crate never does: decide anything that ends up in the weights by a clock, by the order in which threads run, or by how often it
//! was killed.

pub mod checkpoint;
mod error;
mod failpoint;
mod files;
pub mod log;
pub mod optimiser;
pub mod report;
mod resume;
pub mod run;
pub mod schedule;
pub mod setup;
pub mod stages;
pub mod statistics;
pub mod step;

pub use error::TrainError;
pub use optimiser::{Kind, Optimiser, OptimiserConfig};
pub use run::{Options, Outcome, Progress, Watcher, train};
pub use stages::train_stages;
