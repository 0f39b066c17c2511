//! What is the model? Its files, its layers, and a step through them.

mod attention;
pub mod decoder;
mod ffn;
pub mod files;
pub mod load;
pub mod parameters;
pub mod training;

pub use decoder::{Batch, Decoder, Workspace};
pub use files::Checkpoint;
pub use load::{LoadError, LoadOptions};
pub use parameters::{ParameterRows, Parameters};
