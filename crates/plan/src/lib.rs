//! What will it cost? Memory, time and money of a recipe on a machine, by arithmetic and by simulation.

pub mod calibrate;
pub mod efficiency;
pub mod figures;
pub mod hardware;
pub mod layout;
pub mod link;
pub mod profile;
pub mod serve;
pub mod train;

pub use efficiency::{Efficiency, EfficiencyError};
pub use hardware::{Accelerator, Catalogue, Cluster, HardwareError, Precision};
pub use layout::{Job, Layout, LayoutError, StateBytes};
