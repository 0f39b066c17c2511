//! How is a trainer written, where it decides what a step keeps, moves and waits for? Never fitted: a run's source says it, or it is ours.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What is computed again for the gradients instead of being kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    #[default]
    Nothing,
    /// Attention's scores, where they are kept at all (Korthikanti 2022, "selective").
    Scores,
    /// Every second product and all between products; what the others and attention give is kept (torchtitan, "selective op").
    Alternate,
    /// Layers as a whole, from their inputs.
    Layers,
}

impl From<bool> for Recompute {
    fn from(layers: bool) -> Self {
        if layers { Self::Layers } else { Self::Nothing }
    }
}

impl fmt::Display for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "recomputing nothing",
            Self::Scores => "recomputing scores",
            Self::Alternate => "recomputing every second product",
            Self::Layers => "recomputing",
        })
    }
}

/// How a trainer's layers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Practice {
    /// Attention keeps no scores and computes none that are masked (Dao 2022).
    pub flash: bool,
    /// What spans the residual stream is divided along the sequence over tensor ranks (Korthikanti 2022).
    pub sequence: bool,
    /// Masks of dropout are kept, a byte for each number: two of the residual stream, one of the scores.
    pub dropout: bool,
    /// What lies between two products is one kernel (compiled, or written so).
    pub fused: bool,
    /// Bytes of one logit from its product to its gradient, at their most.
    pub logit_bytes: usize,
    /// Exchanges of tensor parallelism run beside products, in pieces.
    pub tensor_overlap: bool,
    /// Gradients are added up over replicas while the last ones are computed, and weights come back while the first layers compute.
    pub gradient_overlap: bool,
    /// Exchanges of expert parallelism run beside the work of another micro-batch.
    pub expert_overlap: bool,
    /// The share of all rows that the busiest expert rank has is this many percent of the mean one's.
    pub busiest_percent: usize,
}

impl Default for Practice {
    /// Ours: logits as computed, and in f32 with their gradient in place; tensor exchanges beside products as far as the device's constants say.
    fn default() -> Self {
        Self {
            flash: true,
            sequence: true,
            dropout: false,
            fused: true,
            logit_bytes: 6,
            tensor_overlap: true,
            gradient_overlap: true,
            expert_overlap: false,
            busiest_percent: 100,
        }
    }
}
