//! `lyceum chat`: a conversation in the terminal.

use crate::models::{self, Loaded};
use crate::options::{Completion, Compute};
use crate::stream::Stream;
use crate::{memory, output};
use clap::Args;
use engine::Runner;
use miette::{IntoDiagnostic, Result, WrapErr};
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use text::{ChatRequest, ChatTemplate, CivilTime, DecodeOptions, Message, Tokenizer};

/// Talk with a model: a line is a message, Ctrl-D ends
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum chat path/to/model --system \"Answer in one sentence.\"")]
pub struct Chat {
    /// Model: a folder with safetensors or a .gguf file; the demo if not given
    model: Option<PathBuf>,

    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// A file with a chat template (Jinja) to use instead of the model's own
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,

    #[command(flatten)]
    completion: Completion,

    #[command(flatten)]
    compute: Compute,
}

impl Chat {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        self.completion.check()?;
        let path = models::path(self.model.clone())?;
        let loaded = Loaded::open(&path, &self.compute, self.completion.context)?;
        let Loaded { checkpoint, decoder, mut device, .. } = loaded;
        let tokenizer = models::need_tokenizer(&checkpoint)?;
        let template = self.template(&tokenizer)?;
        let context = decoder.context();
        memory::check_cache(decoder.config(), self.compute.kv_cache, 1, context)?;

        let mut messages: Vec<Message> = self.system.iter().map(|text| Message::new("system", text.as_str())).collect();
        // One sequence with room for the whole context; each turn rewrites it, and computes only what is new.
        let mut runner: Option<Runner> = None;
        while let Some(line) = read_line()? {
            if line.trim().is_empty() {
                continue;
            }
            messages.push(Message::new("user", line));
            let prompt = render(&template, &tokenizer, &messages)?;
            let options = self.completion.options(&self.compute, tokenizer.eos(), prompt.len(), context);
            match &mut runner {
                Some(runner) => runner.rewrite(0, &prompt, options.max_tokens).into_diagnostic()?,
                None => {
                    let room = context.saturating_sub(prompt.len()).max(options.max_tokens);
                    let kv = self.compute.kv_cache;
                    runner = Some(Runner::new(&decoder, &mut device, kv, &[prompt], room).into_diagnostic()?);
                }
            }
            let Some(runner) = &mut runner else { continue };
            let decoding = DecodeOptions { skip_special: true, continues: true };
            let mut stream = Stream::new(Some(&tokenizer), decoding, &self.completion.stop, true);
            engine::complete(runner, &options, &mut |token| stream.push(token)).into_diagnostic()?;
            messages.push(Message::new("assistant", stream.finish()?));
            output::line("")?;
        }
        Ok(())
    }

    fn template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        match &self.template {
            Some(path) => tokenizer.chat_template_from(&models::read_text(path)?),
            None => tokenizer.chat_template(),
        }
        .into_diagnostic()
    }
}

/// The next line without its end; `None` when there is no more. A terminal is asked for it.
fn read_line() -> Result<Option<String>> {
    let asks = io::stdin().is_terminal() && io::stdout().is_terminal();
    if asks {
        output::print("> ")?;
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line).into_diagnostic().wrap_err("cannot read standard input")?;
    if read == 0 {
        if asks {
            output::line("")?;
        }
        return Ok(None);
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(Some(line))
}

/// The conversation as tokens, up to where the model speaks.
fn render(template: &ChatTemplate, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
    let request = ChatRequest {
        messages: messages.to_vec(),
        add_generation_prompt: true,
        now: Some(CivilTime::from_unix(seconds)),
        ..ChatRequest::default()
    };
    let prompt = template.render(&request).into_diagnostic()?;
    tokenizer.encode_prompt(&prompt).into_diagnostic()
}
