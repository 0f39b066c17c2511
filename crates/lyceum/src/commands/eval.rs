//! `lyceum eval`: what a precision costs.

use crate::models;
use crate::output;
use crate::progress::Progress;
use crate::{failure::misuse, options::threads};
use clap::{Args, ValueEnum};
use engine::LogitError;
use miette::{IntoDiagnostic, Result, miette};
use model::{Checkpoint, Decoder, LoadOptions};
use serde_json::{Value, json};
use std::path::PathBuf;
use tensor::{Device, Format, KvFormat};

/// Measure a model on a task
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum eval path/to/model --task logits --weights bf16,int8,int4 --file text.txt")]
pub struct Eval {
    /// Model: a folder with safetensors or a .gguf file; the demo if not given
    model: Option<PathBuf>,

    /// What to measure
    #[arg(long)]
    task: Task,

    /// Formats to measure, with commas between: f32, f16, bf16, fp8, int8, int4, mxfp4
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', default_value = "f32,bf16,fp8,int8,int4")]
    weights: Vec<Format>,

    /// Format of the K/V cache of what is measured: f32, bf16 or int8
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    kv_cache: KvFormat,

    /// A file with the text to measure on; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token_ids")]
    file: Option<PathBuf>,

    /// The token ids to measure on, as in 1,2,3; needs no tokeniser
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    token_ids: Option<Vec<u32>>,

    /// Use so many tokens at most
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,

    /// Threads; all that the machine runs at once if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Task {
    /// The error of the logits against f32 weights with an f32 cache
    Logits,
}

impl Eval {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self.task {
            Task::Logits => self.logits(),
        }
    }

    fn logits(self) -> Result<()> {
        let checkpoint = Checkpoint::open(&models::path(self.model.clone())?).into_diagnostic()?;
        let tokens = self.read_tokens(&checkpoint)?;
        let mut device = Device::new(threads(self.threads));
        let reference = load(&checkpoint, &mut device, Format::F32)?;
        let bar = Progress::items("Comparing");
        let mut errors = Vec::new();
        for (done, &format) in self.weights.iter().enumerate() {
            bar.set(done as u64, self.weights.len() as u64);
            let other = load(&checkpoint, &mut device, format)?;
            let (reference, other) = ((&reference, KvFormat::F32), (&other, self.kv_cache));
            errors.push((format, engine::logit_error(reference, other, &mut device, &tokens).into_diagnostic()?));
        }
        drop(bar);
        if self.json {
            let errors: Value = errors.iter().map(|(format, error)| error_json(*format, error)).collect();
            return output::json(&json!({
                "task": "logits", "tokens": tokens.len(), "kv_cache": self.kv_cache.name(), "weights": errors,
            }));
        }
        output::line(&format!(
            "Logits at {} positions with a {} cache, against f32 weights with an f32 cache\n",
            tokens.len(),
            self.kv_cache.name()
        ))?;
        output::line("weights  max error  rms error  KL (nats)  same argmax")?;
        for (format, error) in errors {
            output::line(&error_text(format, &error))?;
        }
        Ok(())
    }

    fn read_tokens(&self, checkpoint: &Checkpoint) -> Result<Vec<u32>> {
        let mut tokens = match (&self.token_ids, &self.file) {
            (Some(ids), _) => ids.clone(),
            (None, Some(path)) => {
                let text = models::read_text(path)?;
                models::need_tokenizer(checkpoint)?.encode_whole(&text).into_diagnostic()?
            }
            (None, None) => return Err(misuse("give what to measure on: --file TEXT or --token-ids IDS")),
        };
        tokens.truncate(checkpoint.decoder().max_context.min(self.tokens as usize));
        if tokens.is_empty() {
            Err(miette!("there are no tokens to measure on: the text is empty"))
        } else {
            Ok(tokens)
        }
    }
}

fn load(checkpoint: &Checkpoint, device: &mut Device, format: Format) -> Result<Decoder> {
    let options = LoadOptions { weights: Some(format), ..LoadOptions::default() };
    Decoder::load(checkpoint, device, &options).into_diagnostic()
}

fn error_text(format: Format, error: &LogitError) -> String {
    let LogitError { max_relative, rms_relative, kl_nats, argmax_agreement } = error;
    let agreement = 100.0 * argmax_agreement;
    format!("{:7}  {max_relative:9.2e}  {rms_relative:9.2e}  {kl_nats:9.2e}  {agreement:10.2}%", format.name())
}

fn error_json(format: Format, error: &LogitError) -> Value {
    json!({
        "format": format.name(),
        "max_relative": error.max_relative,
        "rms_relative": error.rms_relative,
        "kl_nats": error.kl_nats,
        "argmax_agreement": error.argmax_agreement,
    })
}
