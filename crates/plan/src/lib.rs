//! What will it cost? Memory, time and money of a recipe on a machine, by arithmetic and by simulation.

pub mod calibrate;
pub mod hardware;
pub mod profile;
pub mod serve;

pub use hardware::{Accelerator, Catalogue, Cluster, HardwareError, Precision};
