//! `lyceum eval`: how good a model is, and what a precision costs.

mod logits;
mod perplexity;

use crate::{failure::misuse, options::threads};
use clap::{Args, ValueEnum};
use miette::{IntoDiagnostic, Result};
use model::{Checkpoint, Decoder, LoadOptions};
use std::path::PathBuf;
use tensor::{Device, Format, KvFormat};

/// Measure a model on a task
///
/// perplexity: the cross-entropy of a text, in nats per token, as perplexity and in bits per byte, for each precision. Every token but a document's
/// first is scored once, by the kernels that serve. A document longer than the context is read in windows that overlap (--context, --stride): a
/// token sees at least context - stride + 1 tokens before it as soon as there are as many. One row for the first weight format with
/// each cache format, then one for each other weight format with the first cache format; differences are to the first row.
///
/// logits: the error of the logits against f32 weights with an f32 cache.
#[derive(Args)]
#[command(
    after_help = "Example:\n  lyceum eval path/to/model --task perplexity --file text.txt --weights f32,int8,int4\n  \
        lyceum eval path/to/model --task logits --weights bf16,int8,int4 --file text.txt"
)]
pub struct Eval {
    /// Model: a folder with safetensors or a .gguf file; the demo if not given
    model: Option<PathBuf>,

    /// What to measure
    #[arg(long)]
    task: Task,

    /// Formats to measure, with commas between: f32, f16, bf16, fp8, int8, int4, mxfp4
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', default_value = "f32,bf16,fp8,int8,int4")]
    weights: Vec<Format>,

    /// Format of the K/V cache of what is measured: f32, bf16 or int8; for perplexity several, with commas between.
    /// If not given, f32,bf16,int8 for perplexity and bf16 for logits
    #[arg(long, value_name = "FORMATS", value_delimiter = ',')]
    kv_cache: Option<Vec<KvFormat>>,

    /// A file with the text to measure on, a document; - is standard input. For perplexity it may be given several times, and be a folder of
    /// shards, of which the held-out documents are measured
    #[arg(long, value_name = "FILE", conflicts_with = "token_ids")]
    file: Vec<PathBuf>,

    /// The token ids to measure on, as in 1,2,3; needs no tokeniser
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    token_ids: Option<Vec<u32>>,

    /// Use so many tokens at most; if not given, 512 for logits and all for perplexity
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: Option<u32>,

    /// Tokens that a token sees at most (perplexity); all that the model was made for if not given
    #[arg(long, value_name = "N")]
    context: Option<usize>,

    /// Tokens from one window's beginning to the next one's (perplexity); half a context if not given
    #[arg(long, value_name = "N")]
    stride: Option<usize>,

    /// Threads; all that the machine runs at once if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Task {
    /// What a text costs: nats per token, perplexity, bits per byte
    Perplexity,
    /// The error of the logits against f32 weights with an f32 cache
    Logits,
}

impl Eval {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if self.file.is_empty() && self.token_ids.is_none() {
            return Err(misuse("give what to measure on: --file TEXT or --token-ids IDS"));
        }
        match self.task {
            Task::Perplexity => self.perplexity(),
            Task::Logits => self.logits(),
        }
    }

    fn device(&self) -> Device {
        Device::new(threads(self.threads))
    }
}

fn load(checkpoint: &Checkpoint, device: &mut Device, format: Format, context: Option<usize>) -> Result<Decoder> {
    let options = LoadOptions { weights: Some(format), context, progress: None };
    Decoder::load(checkpoint, device, &options).into_diagnostic()
}
