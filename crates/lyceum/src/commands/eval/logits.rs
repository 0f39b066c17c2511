//! `--task logits`: how far a precision moves them.

use super::{Eval, load};
use crate::failure::misuse;
use crate::progress::Progress;
use crate::{models, output};
use engine::LogitError;
use miette::{IntoDiagnostic, Result, miette};
use model::Checkpoint;
use serde_json::{Value, json};
use tensor::{Format, KvFormat};

/// Tokens that are measured where nobody says how many.
const TOKENS: u32 = 512;

impl Eval {
    pub(super) fn logits(&self) -> Result<()> {
        if self.context.is_some() || self.stride.is_some() {
            return Err(misuse("--context and --stride belong to --task perplexity"));
        }
        let kv = match self.kv_cache.as_deref() {
            None => KvFormat::Bf16,
            Some(&[kv]) => kv,
            Some(_) => return Err(misuse("--task logits measures one --kv-cache at a time")),
        };
        let checkpoint = Checkpoint::open(&models::path(self.model.clone())?).into_diagnostic()?;
        let tokens = self.read_tokens(&checkpoint)?;
        let mut device = self.device();
        let reference = load(&checkpoint, &mut device, Format::F32, None)?;
        let bar = Progress::items("Comparing");
        let mut errors = Vec::new();
        for (done, &format) in self.weights.iter().enumerate() {
            bar.set(done as u64, self.weights.len() as u64);
            let other = load(&checkpoint, &mut device, format, None)?;
            let (reference, other) = ((&reference, KvFormat::F32), (&other, kv));
            errors.push((format, engine::logit_error(reference, other, &mut device, &tokens).into_diagnostic()?));
        }
        drop(bar);
        if self.json {
            let errors: Value = errors.iter().map(|(format, error)| error_json(*format, error)).collect();
            return output::json(&json!({
                "task": "logits", "tokens": tokens.len(), "kv_cache": kv.name(), "weights": errors,
            }));
        }
        output::line(&format!(
            "Logits at {} positions with a {} cache, against f32 weights with an f32 cache\n",
            tokens.len(),
            kv.name()
        ))?;
        output::line("weights  max error  rms error  KL (nats)  same argmax")?;
        for (format, error) in errors {
            output::line(&error_text(format, &error))?;
        }
        Ok(())
    }

    fn read_tokens(&self, checkpoint: &Checkpoint) -> Result<Vec<u32>> {
        let mut tokens = match (&self.token_ids, &self.file[..]) {
            (Some(ids), _) => ids.clone(),
            (None, [path]) => {
                let text = models::read_text(path)?;
                models::need_tokenizer(checkpoint)?.encode_whole(&text).into_diagnostic()?
            }
            (None, _) => return Err(misuse("--task logits measures on one --file")),
        };
        tokens.truncate(checkpoint.decoder().max_context.min(self.tokens.unwrap_or(TOKENS) as usize));
        if tokens.is_empty() {
            Err(miette!("there are no tokens to measure on: the text is empty"))
        } else {
            Ok(tokens)
        }
    }
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
