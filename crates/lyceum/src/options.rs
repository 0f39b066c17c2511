//! Flags that several commands share.

use crate::failure::misuse;
use clap::Args;
use engine::{Options, Sampling};
use miette::Result;
use std::thread::available_parallelism;
use tensor::{Device, Format, KvFormat};

/// How to compute.
#[derive(Args, Clone)]
pub struct Compute {
    /// Threads; all that the machine runs at once if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Format of the weights while they compute: f32, f16, bf16, fp8, int8, int4 or mxfp4; as stored if not given
    #[arg(long, value_name = "FORMAT")]
    pub weights: Option<Format>,

    /// Format of the K/V cache: f32, bf16 or int8
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    pub kv_cache: KvFormat,
}

impl Compute {
    /// The processor, with as many threads as asked.
    pub fn device(&self) -> Device {
        Device::new(threads(self.threads))
    }
}

/// Threads as asked, or as many as the machine runs at once.
pub fn threads(asked: Option<u16>) -> usize {
    let all = || available_parallelism().map_or(1, usize::from);
    asked.map_or_else(all, usize::from)
}

/// How long a completion may be and how its tokens are chosen.
#[derive(Args)]
pub struct Completion {
    /// New tokens at most; as many as fit the context, but no more than 256, if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,

    /// Divides the logits; 0 always takes the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f32,

    /// Choose among the K most probable tokens; 0 among all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,

    /// Choose among the most probable tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,

    /// Choose among tokens at least this fraction as probable as the most probable one
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,

    /// The same seed gives the same tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Text that ends the completion and is not part of it; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,

    /// Go on after the tokens that end a text
    #[arg(long)]
    ignore_eos: bool,

    /// Positions to serve: prompt and completion together; all that the model was made for if not given
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
}

/// New tokens where nobody says how many.
const DEFAULT_MAX_TOKENS: usize = 256;

impl Completion {
    /// The engine's options for a prompt of `prompt` tokens. `eos` are the tokens that end a text.
    pub fn options(&self, compute: &Compute, eos: &[u32], prompt: usize, context: usize) -> Options {
        let fitting = context.saturating_sub(prompt).clamp(1, DEFAULT_MAX_TOKENS);
        Options {
            max_tokens: self.max_tokens.map_or(fitting, |n| n as usize),
            sampling: self.sampling(),
            stop_tokens: if self.ignore_eos { Vec::new() } else { eos.to_vec() },
            kv: compute.kv_cache,
        }
    }

    /// Refuses flags out of range before anything is loaded.
    pub fn check(&self) -> Result<()> {
        self.sampling().validate().map_err(|error| misuse(error.to_string()))
    }

    fn sampling(&self) -> Sampling {
        let Self { temperature, top_k, top_p, min_p, seed, .. } = *self;
        Sampling { temperature, top_k, top_p, min_p, seed }
    }
}
