//! What will it cost? Memory, time and money of a recipe on a machine, by arithmetic and by simulation.

pub mod hardware;

pub use hardware::{Accelerator, Catalogue, Cluster, HardwareError, Precision};
