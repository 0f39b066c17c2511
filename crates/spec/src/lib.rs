//! What was asked for? The shape of a decoder, its parameter table, and what both add up to; the recipe.

pub mod config;
pub mod count;
pub mod hf;
pub mod parameters;
pub mod random;
pub mod recipe;
pub mod rope;
pub mod share;
pub mod validate;

pub use config::{
    Activation, AttentionLayer, DecoderConfig, DenseFfn, ExpertFfn, Family, Ffn, Layer, Position, Rope, RopeScaling,
    Router,
};
pub use count::{LayerCount, ParameterCount, TokenFlops};
pub use hf::{HfConfig, HfError, Quantisation, WeightFormat};
pub use parameters::{Init, Parameter, ParameterId, ParameterTable, Role, Stage, TensorAxis, View};
pub use rope::alibi_slopes;
pub use share::{Held, Part, Slot};
pub use validate::InvalidConfig;
