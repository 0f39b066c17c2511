//! What will it cost? Memory, time and money of a recipe on a machine, by arithmetic and by simulation.

pub mod calibrate;
pub mod efficiency;
pub mod figures;
pub mod hardware;
pub mod latent;
pub mod layout;
pub mod link;
pub mod practice;
pub mod profile;
pub mod serve;
pub mod train;

pub use efficiency::{Efficiency, EfficiencyError, Training};
pub use hardware::{Accelerator, Catalogue, Cluster, HardwareError, Precision};
pub use latent::Latent;
pub use layout::{Job, Layout, LayoutError, StateBytes};
pub use practice::{Practice, Recompute};
