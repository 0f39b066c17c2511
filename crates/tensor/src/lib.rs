//! What can a device compute? Formats, packed weights, and every operation of the decoder.

pub mod format;

pub use format::{Format, MatrixSource};
