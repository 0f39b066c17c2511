//! One thread owns a model, its caches and all sequences; everybody else sends it jobs and receives events.

mod choice;
mod clock;
mod config;
mod event;
mod handle;
mod job;
mod memory;
mod stats;
mod step;
mod thread;

pub use clock::Health;
pub use config::{EngineConfig, Info, Parts, StartError};
pub use event::{Event, Finish, Scored, Stopped, Usage};
pub use handle::{Busy, Completion, Engine, Place, Rejected};
pub use job::{Job, Penalties, Pooling, PromptOutputs};
pub use memory::{KvMemory, MemoryError};
pub use stats::{Finished, Goodput, Histogram, READING_SPEEDS, RecentStep, Spent, Stats};
