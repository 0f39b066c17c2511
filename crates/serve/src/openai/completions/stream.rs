//! Plain completions in parts.

use super::Told;
use super::answer::CompletionChoice;
use crate::error::{ApiError, Result};
use crate::jobs::{Usage, failed, finish_name, interrupted, stop_reason};
use crate::openai::logprobs::{CompletionLogprobs, Offsets};
use crate::stream::{DONE, Item, Translate};
use engine::live::{Event, Scored};
use serde_json::Value;

/// Turns events into parts.
pub struct CompletionStream {
    told: Told,
    /// By job, then by choice.
    choices: Vec<Vec<Open>>,
}

/// A completion that goes on.
struct Open {
    begun: bool,
    ended: bool,
    offsets: Offsets,
}

/// What is new of a completion.
#[derive(Default)]
struct New {
    text: String,
    logprobs: Option<CompletionLogprobs>,
    tokens: Vec<u32>,
    finish: Option<&'static str>,
    stop: Option<Value>,
}

impl CompletionStream {
    /// Nothing was told yet.
    pub fn new(told: Told) -> Self {
        let offsets = |job| told.offsets(told.echo(job).unwrap_or_default());
        let open = |job| Open { begun: false, ended: false, offsets: offsets(job) };
        let job = |job| (0..told.checked.job.choices).map(|_| open(job)).collect();
        Self { choices: (0..told.prompts.len()).map(job).collect(), told }
    }

    fn part(&mut self, job: usize, choice: u32, new: New) -> Item {
        let open = &mut self.choices[job][choice as usize];
        let first = !std::mem::replace(&mut open.begun, true);
        let ids = self.told.checked.token_ids;
        let choice = CompletionChoice {
            index: self.told.index(job, choice),
            text: new.text,
            logprobs: new.logprobs,
            finish_reason: new.finish,
            stop_reason: new.stop,
            token_ids: ids.then_some(new.tokens),
            prompt_token_ids: (ids && first).then(|| self.told.prompts[job].clone()),
        };
        let usage: Option<Usage> = self.told.checked.continuous_usage.then_some(self.told.usage);
        Item::data(&self.told.message(vec![choice], usage))
    }

    /// The prompt, told as the first part of each of its completions.
    fn echo(&mut self, job: usize, scored: Option<&[Scored]>, out: &mut Vec<Item>) {
        let Some(text) = self.told.echo(job).map(str::to_string) else { return };
        for choice in 0..self.told.checked.job.choices {
            let told = &self.told;
            let logprobs =
                scored.map(|scored| told.prompt_offsets().of_completion(told.app.engine.tokenizer(), scored));
            let new = New { text: text.clone(), logprobs, ..New::default() };
            out.push(self.part(job, choice, new));
        }
    }
}

impl Translate for CompletionStream {
    fn begin(&mut self, out: &mut Vec<Item>) {
        // Where probabilities are asked for, the prompt's text goes with them.
        if self.told.checked.job.prompt_outputs.is_none() {
            (0..self.told.prompts.len()).for_each(|job| self.echo(job, None, out));
        }
    }

    fn event(&mut self, job: usize, event: Event, out: &mut Vec<Item>) -> Result<()> {
        match event {
            Event::Embedding(_) => {}
            Event::Prompt(scored) => self.echo(job, Some(&scored), out),
            Event::Delta { choice, tokens, text } => {
                if self.told.checked.continuous_usage {
                    self.told.usage.add_tokens(tokens.len() as u64);
                }
                let scored = self.told.checked.job.logprobs.is_some() && !tokens.is_empty();
                if text.is_empty() && !scored && !self.told.checked.token_ids {
                    return Ok(());
                }
                let open = &mut self.choices[job][choice as usize];
                let tokenizer = self.told.app.engine.tokenizer();
                let logprobs = scored.then(|| open.offsets.of_completion(tokenizer, &tokens));
                let tokens = tokens.iter().map(|scored| scored.token).collect();
                out.push(self.part(job, choice, New { text, logprobs, tokens, ..New::default() }));
            }
            Event::Finished { choice, finish, usage } => {
                let name = finish_name(&finish)?;
                let counted = self.told.checked.continuous_usage;
                let generated = if counted { 0 } else { usage.generated };
                self.told.usage.add_choice(choice, &engine::live::Usage { generated, ..usage });
                self.choices[job][choice as usize].ended = true;
                let stop = stop_reason(&finish, self.told.app.engine.tokenizer().eos());
                out.push(self.part(job, choice, New { finish: Some(name), stop, ..New::default() }));
            }
            Event::Failed(reason) => return Err(failed(&reason)),
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Item>) -> Result<()> {
        if self.choices.iter().flatten().any(|choice| !choice.ended) {
            return Err(interrupted());
        }
        if self.told.checked.include_usage {
            out.push(Item::data(&self.told.message(Vec::new(), Some(self.told.usage))));
        }
        out.push(Item::raw(DONE));
        Ok(())
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<Item>) {
        out.push(Item::data(&error.body()));
        out.push(Item::raw(DONE));
    }
}
