//! `lyceum generate`: one completion.

use crate::failure::misuse;
use crate::models::{self, Loaded};
use crate::options::{Completion, Compute};
use crate::stream::Stream;
use crate::{memory, output};
use clap::Args;
use engine::Generation;
use miette::{IntoDiagnostic, Result};
use serde_json::json;
use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::time::Duration;
use text::{DecodeOptions, Tokenizer};

/// Continue a text
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum generate path/to/model --prompt \"Once upon a time\" --max-tokens 64")]
pub struct Generate {
    /// Model: a folder with safetensors or a .gguf file; the demo if not given
    model: Option<PathBuf>,

    #[command(flatten)]
    prompt: Prompt,

    #[command(flatten)]
    completion: Completion,

    #[command(flatten)]
    compute: Compute,

    /// Print token ids instead of text
    #[arg(long)]
    ids: bool,

    /// Print one JSON object when all is done
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(multiple = false)]
struct Prompt {
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,

    /// A file with the text to continue; - is standard input
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,

    /// The token ids to continue, as in 1,2,3; needs no tokeniser
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_ids: Option<Vec<u32>>,
}

/// What the demo continues if nobody says.
const DEMO_PROMPT: &str = "Once upon a time";

impl Generate {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        self.completion.check()?;
        let path = models::path(self.model.clone())?;
        let text = self.prompt.text(self.model.is_none())?;
        let Loaded { checkpoint, decoder, mut device, .. } =
            Loaded::open(&path, &self.compute, self.completion.context)?;
        let tokenizer = match self.prompt.prompt_ids {
            Some(_) => models::tokenizer(&checkpoint)?,
            None => Some(models::need_tokenizer(&checkpoint)?),
        };
        let prompt = match (&self.prompt.prompt_ids, &tokenizer) {
            (None, Some(tokenizer)) => tokenizer.encode_whole(&text).into_diagnostic()?,
            (ids, _) => ids.clone().unwrap_or_default(),
        };
        let shown = tokenizer.as_ref().filter(|_| !self.ids);
        if shown.is_none() && !self.completion.stop.is_empty() {
            return Err(misuse("--stop needs text: a tokeniser, and no --ids"));
        }
        let eos = tokenizer.as_ref().map_or(&checkpoint.config.eos[..], Tokenizer::eos);
        let options = self.completion.options(&self.compute, eos, prompt.len(), decoder.context());
        // What does not fit the context is refused below.
        let positions = prompt.len().saturating_add(options.max_tokens).min(decoder.context());
        memory::check_cache(decoder.config(), options.kv, 1, positions)?;

        let decoding = DecodeOptions { skip_special: true, continues: true };
        let mut stream = Stream::new(shown, decoding, &self.completion.stop, !self.json);
        let on_token = &mut |token| stream.push(token);
        let generation = engine::generate(&decoder, &mut device, &prompt, &options, on_token).into_diagnostic()?;
        let text = stream.finish()?;
        let speed = Speed::of(&generation, prompt.len());
        if self.json {
            return output::json(&json!({
                "text": text,
                "tokens": generation.tokens,
                "finish_reason": generation.finish.name(),
                "prompt_tokens": prompt.len(),
                "completion_tokens": generation.tokens.len(),
                "prefill_tokens_per_s": speed.prefill,
                "decode_tokens_per_s": speed.decode,
            }));
        }
        output::line("")?;
        if stderr().is_terminal() {
            output::note(&speed.line(&generation, prompt.len()));
        }
        Ok(())
    }
}

impl Prompt {
    /// The text to continue; none if ids are given.
    fn text(&self, demo: bool) -> Result<String> {
        match self {
            Self { prompt: Some(text), .. } => Ok(text.clone()),
            Self { prompt_file: Some(path), .. } => models::read_text(path),
            Self { prompt_ids: Some(_), .. } => Ok(String::new()),
            _ if demo => Ok(DEMO_PROMPT.into()),
            _ => Err(misuse("give a text to continue: --prompt TEXT, --prompt-file FILE or --prompt-ids IDS")),
        }
    }
}

/// Tokens per second, where enough were computed to say.
struct Speed {
    prefill: Option<f64>,
    decode: Option<f64>,
}

impl Speed {
    fn of(generation: &Generation, prompt: usize) -> Self {
        let rate = |tokens: usize, time: Duration| (tokens > 0).then(|| tokens as f64 / time.as_secs_f64());
        let after_first = generation.tokens.len().saturating_sub(1);
        Self { prefill: rate(prompt, generation.prefill), decode: rate(after_first, generation.decode) }
    }

    fn line(&self, generation: &Generation, prompt: usize) -> String {
        let rate = |rate: Option<f64>| rate.map_or_else(String::new, |r| format!(" at {r:.1}/s"));
        let (read, written) = (rate(self.prefill), rate(self.decode));
        let finish = generation.finish.name();
        format!("[{prompt} prompt tokens{read}; {} new ones{written}; ended by {finish}]", generation.tokens.len())
    }
}
