//! Which decoders are possible at all: the checks that every source of a config shares.

use crate::config::{Activation, DecoderConfig, DenseFfn, Ffn, Position, RopeScaling};
use thiserror::Error;

/// A decoder that cannot be. Fields have the names of `config.json`.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum InvalidConfig {
    /// A size of zero or beyond any model.
    #[error("{field} is {value}, allowed is {least} to {most}")]
    OutOfRange {
        /// Whose value.
        field: &'static str,
        /// What it is.
        value: usize,
        /// The least allowed.
        least: usize,
        /// The most allowed.
        most: usize,
    },
    /// A number that must be positive and finite.
    #[error("{field} is {value}, it must be a finite number above {above}")]
    NotPositive {
        /// Whose value.
        field: &'static str,
        /// What it is.
        value: f32,
        /// What it must exceed.
        above: f32,
    },
    /// Two fields that do not go together.
    #[error("{field} is {value}, {problem} ({other} is {other_value})")]
    Conflict {
        /// Whose value.
        field: &'static str,
        /// What it is.
        value: usize,
        /// What is wrong with it.
        problem: &'static str,
        /// In relation to which field.
        other: &'static str,
        /// And its value.
        other_value: usize,
    },
}

/// Largest sizes accepted. Far beyond any model, and small enough that no product of a shape overflows 64 bits
/// and no table of parameters grows without bound.
pub mod limits {
    /// Rows of the embedding.
    pub const VOCABULARY: usize = 1 << 24;
    /// Width of the residual stream.
    pub const HIDDEN: usize = 1 << 18;
    /// Width of all query heads together.
    pub const QUERIES: usize = 1 << 18;
    /// Query heads, K/V heads.
    pub const HEADS: usize = 1 << 14;
    /// Width of a head.
    pub const HEAD_DIM: usize = 1 << 14;
    /// Layers.
    pub const LAYERS: usize = 1 << 12;
    /// Width between the projections of a feed-forward network.
    pub const FFN: usize = 1 << 22;
    /// Experts of one layer.
    pub const EXPERTS: usize = 1 << 13;
    /// Experts of all layers.
    pub const ALL_EXPERTS: usize = 1 << 18;
    /// Positions, windows.
    pub const CONTEXT: usize = 1 << 31;
}

fn size(field: &'static str, value: usize, most: usize) -> Result<(), InvalidConfig> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(InvalidConfig::OutOfRange { field, value, least: 1, most })
}

fn above(field: &'static str, value: f32, above: f32) -> Result<(), InvalidConfig> {
    if value.is_finite() && value > above {
        return Ok(());
    }
    Err(InvalidConfig::NotPositive { field, value, above })
}

impl DecoderConfig {
    /// Checks sizes, ratios and numbers. Everything that builds a config from outside calls it.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        size("vocab_size", self.vocab_size, limits::VOCABULARY)?;
        size("hidden_size", self.hidden_size, limits::HIDDEN)?;
        size("num_attention_heads", self.heads, limits::HEADS)?;
        size("num_key_value_heads", self.kv_heads, limits::HEADS)?;
        size("head_dim", self.head_dim, limits::HEAD_DIM)?;
        size("num_attention_heads * head_dim", self.q_size(), limits::QUERIES)?;
        size("num_hidden_layers", self.layers.len(), limits::LAYERS)?;
        size("max_position_embeddings", self.max_context, limits::CONTEXT)?;
        above("rms_norm_eps", self.norm_eps, 0.0)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(InvalidConfig::Conflict {
                field: "num_attention_heads",
                value: self.heads,
                problem: "not a multiple of the K/V heads",
                other: "num_key_value_heads",
                other_value: self.kv_heads,
            });
        }
        self.validate_position()?;
        let mut experts = 0;
        for layer in &self.layers {
            if let Some(window) = layer.attention.window {
                size("sliding_window", window, limits::CONTEXT)?;
            }
            experts += validate_ffn(&layer.ffn)?;
        }
        if experts > limits::ALL_EXPERTS {
            return Err(InvalidConfig::OutOfRange {
                field: "num_experts over all layers",
                value: experts,
                least: 0,
                most: limits::ALL_EXPERTS,
            });
        }
        Ok(())
    }

    fn validate_position(&self) -> Result<(), InvalidConfig> {
        let Position::Rope(rope) = &self.position else {
            return Ok(());
        };
        if !self.head_dim.is_multiple_of(2) {
            return Err(InvalidConfig::Conflict {
                field: "head_dim",
                value: self.head_dim,
                problem: "rotary embedding needs it even",
                other: "rotary dimensions",
                other_value: self.head_dim,
            });
        }
        above("rope_theta", rope.theta, 1.0)?;
        self.validate_scaling(&rope.scaling)
    }

    fn validate_scaling(&self, scaling: &RopeScaling) -> Result<(), InvalidConfig> {
        let original = |context| size("original_max_position_embeddings", context, limits::CONTEXT);
        match scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => above("rope factor", *factor, 0.0),
            RopeScaling::Dynamic { factor, original_context } => {
                if self.head_dim <= 2 {
                    return Err(InvalidConfig::Conflict {
                        field: "head_dim",
                        value: self.head_dim,
                        problem: "dynamic rope needs more than two dimensions",
                        other: "least",
                        other_value: 4,
                    });
                }
                above("rope factor", *factor, 0.0)?;
                original(*original_context)
            }
            RopeScaling::Yarn { factor, original_context, beta_slow, beta_fast, attention_factor, .. } => {
                above("rope factor", *factor, 0.0)?;
                above("beta_slow", *beta_slow, 0.0)?;
                above("beta_fast", *beta_fast, 0.0)?;
                above("attention_factor", *attention_factor, 0.0)?;
                original(*original_context)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                above("rope factor", *factor, 0.0)?;
                above("low_freq_factor", *low_freq_factor, 0.0)?;
                above("high_freq_factor", *high_freq_factor, *low_freq_factor)?;
                original(*original_context)
            }
            RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor } => {
                self.validate_divisors("short_factor", short_factor)?;
                self.validate_divisors("long_factor", long_factor)?;
                above("attention_factor", *attention_factor, 0.0)?;
                original(*original_context)
            }
        }
    }

    fn validate_divisors(&self, field: &'static str, list: &[f32]) -> Result<(), InvalidConfig> {
        if list.len() != self.head_dim / 2 {
            return Err(InvalidConfig::Conflict {
                field,
                value: list.len(),
                problem: "the list needs one entry for every two dimensions of a head",
                other: "head_dim",
                other_value: self.head_dim,
            });
        }
        list.iter().try_for_each(|&d| above(field, d, 0.0))
    }
}

/// Checks a layer's feed-forward half and returns how many experts it holds.
fn validate_ffn(ffn: &Ffn) -> Result<usize, InvalidConfig> {
    let moe = match ffn {
        Ffn::Dense(dense) => return network(dense).map(|()| 0),
        Ffn::Experts(moe) => moe,
    };
    size("num_experts", moe.experts, limits::EXPERTS)?;
    network(&moe.expert)?;
    moe.shared.as_ref().map_or(Ok(()), network)?;
    if !(1..=moe.experts).contains(&moe.top_k) {
        return Err(InvalidConfig::Conflict {
            field: "num_experts_per_tok",
            value: moe.top_k,
            problem: "it must be at least 1 and at most the number of experts",
            other: "num_experts",
            other_value: moe.experts,
        });
    }
    Ok(moe.experts)
}

fn network(ffn: &DenseFfn) -> Result<(), InvalidConfig> {
    size("intermediate_size", ffn.ffn_size, limits::FFN)?;
    match ffn.activation {
        Activation::SwiGlu => Ok(()),
        Activation::ClampedSwiGlu { alpha, limit } => {
            above("swiglu_alpha", alpha, 0.0)?;
            above("swiglu_limit", limit, 0.0)
        }
    }
}
