//! What the simulated server promises: conservation, determinism, the roofline's limits, and a closed form of queueing.

mod common;
mod laws;
mod published;
mod queue;
mod roofline;
