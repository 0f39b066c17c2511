//! One thread owns a model, its caches and all sequences; everybody else sends it jobs and receives events.

mod event;
mod job;

pub use event::{Event, Finish, Scored, Stopped, Usage};
pub use job::{Job, Penalties, Pooling, PromptOutputs};
