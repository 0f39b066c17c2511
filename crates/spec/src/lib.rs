//! What was asked for? The shape of a decoder, its parameter table, and what both add up to.

pub mod config;
pub mod parameters;

pub use config::{
    Activation, AttentionLayer, DecoderConfig, DenseFfn, ExpertFfn, Family, Ffn, Layer, Position, Rope, RopeScaling,
    Router,
};
pub use parameters::{Parameter, ParameterId, ParameterTable, Role};
