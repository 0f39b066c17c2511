//! A recipe: one file that describes a model, its data, its training and its hardware.

pub mod data;

pub use data::{DataRecipe, InvalidData, Packing, SourceRecipe};
