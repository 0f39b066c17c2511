//! What is learned from: tokens and epochs of each source, the loader's bytes, and Chinchilla's view of the amount.

use crate::layout::Job;
use serde::Serialize;
use spec::recipe::Recipe;

/// Bytes that a loader reads for a token of text: a 32-bit id.
pub const TEXT_TOKEN_BYTES: f64 = 4.0;
/// For a token of an image, as the report has it: about the raw bytes of a patch of 14 x 14 pixels.
pub const VISION_TOKEN_BYTES: f64 = 600.0;
/// Tokens for each parameter that a dense model of a given compute is best trained on (Hoffmann 2022).
pub const CHINCHILLA: f64 = 20.0;

/// One source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceTokens {
    /// Its name.
    pub name: String,
    /// Tokens seen of it, repetitions included; `None` where its shards decide (no weights in the recipe).
    pub tokens: Option<f64>,
    /// How often it is repeated at most.
    pub epochs: Option<f64>,
    /// Tokens that it must have for that.
    pub unique: Option<f64>,
}

/// What is learned from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Data {
    /// Each source.
    pub sources: Vec<SourceTokens>,
    /// Tokens in all.
    pub tokens: f64,
    /// FLOPs of all of it.
    pub flops: f64,
    /// Tokens per parameter, and per parameter that a token uses.
    pub per_parameter: [f64; 2],
    /// Tokens that Chinchilla's rule gives for all parameters, and for those that a token uses.
    pub chinchilla: [f64; 2],
    /// Tokens a second.
    pub rate: f64,
    /// Bytes a second that all loaders read, of text; of images, if every token were one.
    pub loader: [f64; 2],
}

impl Data {
    /// Of a recipe that is trained at `rate` tokens a second.
    pub fn new(recipe: &Recipe, job: &Job, rate: f64) -> Self {
        let tokens = recipe.train.tokens as f64;
        let weights: f64 = recipe.data.sources.iter().filter_map(|source| source.weight).sum();
        let source = |source: &spec::recipe::SourceRecipe| {
            let tokens = source.weight.map(|weight| weight / weights * tokens);
            let unique = tokens.zip(source.epochs).map(|(tokens, epochs)| tokens / epochs);
            SourceTokens { name: source.name.clone(), tokens, epochs: source.epochs, unique }
        };
        let count = job.config.count_parameters();
        let sizes = [count.total as f64, count.active as f64];
        Self {
            sources: recipe.data.sources.iter().map(source).collect(),
            tokens,
            flops: job.flops.training() as f64 * tokens,
            per_parameter: sizes.map(|parameters| tokens / parameters),
            chinchilla: sizes.map(|parameters| CHINCHILLA * parameters),
            rate,
            loader: [rate * TEXT_TOKEN_BYTES, rate * VISION_TOKEN_BYTES],
        }
    }
}
