//! How does it learn? The optimisers.

mod muon;
pub mod optimiser;

pub use optimiser::{Kind, Optimiser, OptimiserConfig};
