//! What does serving cost? A roofline prices steps, and the scheduler that the server uses is driven with them in simulated time.
//!
//! [`Shape`] says what a step reads and computes, [`Layout`] who holds what, [`Roofline`] what a step takes. A [`Service`] joins them with a scheduler;
//! [`simulate()`] sends it a load of [`traffic`], and [`Answers`] sums up. [`steady`] answers what needs no simulation; [`fleet`] plans several clusters by the
//! hour. There is no logic of admission, preemption or blocks here: all of that is `batch`.

pub mod deployment;
pub mod fleet;
mod histogram;
pub mod layout;
pub mod published;
mod replica;
pub mod report;
pub mod roofline;
mod service;
pub mod shape;
mod simulate;
pub mod steady;
pub mod traffic;

pub use deployment::{Deployment, Drafting};
pub use histogram::Histogram;
pub use layout::{Formats, KvSplit, Layout, LayoutError};
pub use replica::{Measured, READING_SPEEDS, Replica};
pub use report::Answers;
pub use roofline::{Attended, Parts, Price, Roofline, Work};
pub use service::{Draft, Limits, Service, ServiceError};
pub use shape::{LayerShape, Shape};
pub use simulate::{Load, Simulated, SimulationError, simulate};
pub use traffic::{Arrival, Lengths, Pattern, TrafficError};
